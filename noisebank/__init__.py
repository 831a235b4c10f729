"""noisebank: optimal noise for text-to-video models from one lookup."""
