"""A real Sentence-BERT folder for tests: all-MiniLM-L6-v2, installed from the package registry."""

from __future__ import annotations

from noisebank.fixtures.captions_model import packaged_captions_model

MINILM = str(packaged_captions_model())
"""The model's folder."""
