"""The jobs and the ``noisebank`` command: which transforms run, in which order, over which bank."""
