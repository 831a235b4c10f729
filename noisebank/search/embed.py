"""Captions to embeddings by Sentence-BERT: float32, unit length, and the same bits whatever stands beside a caption.

A batch holds captions of one token length only, so nothing is padded, and never fewer than a few rows of tokens. The
matrix products then take the same path for every batch, and a caption's embedding depends on the caption alone:
measured on x86 with MKL in one thread, no bit differs between batch sizes and neighbours, while plain length-sorted
batches differ by up to 2e-7 in half of the captions. So does the number of threads, therefore it is one.
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from noisebank.errors import ConfigError
from noisebank.hub import split_reference
from noisebank.loading import loading_a_model
from noisebank.processes import one_thread
from noisebank.storage import file_sha256

_FILES = ["*.json", "*.safetensors", "*.txt", "*.model"]
MODULES = "modules.json"
_MIN_TOKENS = 32
_SPECIAL_TOKENS = 4
"""Tokens of a caption that stand for none of its bytes, at most."""
_MIN_BATCH = 2
_turn = threading.Lock()
"""Torch has one number of threads for the whole process, so callers take turns."""


def embedder_folder(model: str) -> Path:
    """The local folder of a Sentence-BERT model: itself, or the files of a hub id or ``id@revision``, fetched if they
    are not cached.

    Raises:
        ConfigError: there is no such model, or it is not in sentence-transformers' format.
    """
    folder = Path(model)
    if not folder.is_dir():
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import HfHubHTTPError, HFValidationError

        try:
            id, revision = split_reference(model)
            folder = Path(snapshot_download(id, revision=revision, allow_patterns=_FILES))
        except (HFValidationError, HfHubHTTPError, OSError) as error:
            raise ConfigError(
                f"captions.model: {model!r} is neither a local folder nor to be had from the hub ({error})"
            ) from error
    if not (folder / MODULES).is_file():
        raise ConfigError(f"captions.model: {model!r} has no {MODULES}; a sentence-transformers model is wanted")
    return folder


def embedder_digest(model: str) -> str:
    """Which model this is by its contents, whatever its path: 32 hexadecimal digits.

    Weights, configurations and vocabularies count; notes, and weights in formats that are never loaded, do not.
    """
    folder = embedder_folder(model)
    modules = json.loads((folder / MODULES).read_text(encoding="utf-8"))
    parts = {folder / module["path"] for module in modules} | {folder}
    files = sorted({path for part in parts for pattern in _FILES for path in part.glob(pattern)})
    lines = [f"{path.relative_to(folder).as_posix()} {file_sha256(path)}" for path in files]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:32]


class Embedder:
    """A loaded ``SentenceTransformer`` and the digest of its files; see :func:`load_embedder`."""

    def __init__(self, model: Any, digest: str) -> None:
        self._model, self.digest = model, digest
        self.dim = int(model.get_embedding_dimension())

    def embed(self, captions: Sequence[str], batch_size: int = 64) -> npt.NDArray[np.float32]:
        """Embeddings ``[N, D]`` float32 of captions, each row of length one.

        Args:
            captions: any texts; those longer than the model's context are cut by its tokenizer.
            batch_size: most captions in a batch; it does not change the result.
        """
        import torch

        embeddings = np.empty((len(captions), self.dim), np.float32)
        with _turn, one_thread(torch.get_num_threads, torch.set_num_threads):
            for rows in self._cut_batches(captions, batch_size):
                batch = [captions[row] for row in rows]
                embeddings[rows] = self._model.encode(
                    batch, batch_size=len(batch), normalize_embeddings=True, show_progress_bar=False
                )
        return embeddings

    def count_truncated(self, captions: Sequence[str]) -> int:
        """How many captions are longer than the model's context, so that their ends count for nothing.

        A token is a byte of UTF-8 or more, beside a few that mark beginning and end: only long ones are looked at.
        """
        limit = self._model.max_seq_length
        long = [text for text in captions if limit is not None and len(text.encode()) + _SPECIAL_TOKENS > limit]
        if not long:
            return 0
        with _turn:
            tokens = self._model.tokenizer(long, truncation=False, verbose=False)["input_ids"]
        return sum(len(token_ids) > limit for token_ids in tokens)

    def _cut_batches(self, captions: Sequence[str], batch_size: int) -> Iterator[npt.NDArray[np.intp]]:
        """Rows of captions of one token length; small batches repeat their last row."""
        if not captions:
            return
        limit = self._model.max_seq_length
        tokens = self._model.tokenizer(list(captions), truncation=limit is not None, max_length=limit)["input_ids"]
        lengths = np.asarray([len(token_ids) for token_ids in tokens])
        order = np.argsort(lengths, kind="stable")
        changes = np.flatnonzero(np.diff(lengths[order])) + 1
        for rows in np.split(order, changes):
            fewest = max(_MIN_BATCH, -(-_MIN_TOKENS // lengths[rows[0]]))
            for start in range(0, len(rows), batch_size):
                batch = rows[start : start + batch_size]
                yield np.pad(batch, (0, max(0, fewest - len(batch))), mode="edge")


def load_embedder(model: str, digest: str | None = None) -> Embedder:
    """Loads a Sentence-BERT model from safetensors.

    Args:
        model: hub id, ``id@revision``, or folder in sentence-transformers' format.
        digest: what its files must be (:func:`embedder_digest`), or None for whatever they are.

    Raises:
        ConfigError: there is no such model, it needs code or pickled weights, or it is another model than ``digest``.
    """
    folder = embedder_folder(model)
    found = embedder_digest(str(folder))
    if digest is not None and found != digest:
        raise ConfigError(
            f"captions model {model!r} has digest {found}, the bank's embeddings were made with {digest}; "
            "give the folder of that model"
        )
    with loading_a_model:
        from sentence_transformers import SentenceTransformer

        try:
            loaded = SentenceTransformer(
                str(folder), trust_remote_code=False, local_files_only=True, model_kwargs={"use_safetensors": True}
            )
        except (OSError, ValueError) as error:
            raise ConfigError(f"captions model {model!r} cannot be loaded: {error}") from error
    return Embedder(loaded.eval(), found)
