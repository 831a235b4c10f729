"""Makes the small trained text-to-video model again from nothing: ``python -m examples.toy.train --out FOLDER``."""
