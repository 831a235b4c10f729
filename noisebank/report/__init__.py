"""One page that shows what is in a bank to people: ``noisebank report``."""
