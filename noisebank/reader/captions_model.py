"""The captions model of a bank, found when it is first needed and never another than the bank's own."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from noisebank.errors import ConfigError
from noisebank.format.manifest import Snapshot
from noisebank.hub import refer

if TYPE_CHECKING:
    from noisebank.search.embed import Embedder
    from noisebank.search.index import Vectors


class CaptionsModel:
    """Embeds prompts as the captions of a snapshot were embedded.

    Args:
        url: of the bank.
        given: the model, loaded or by folder or hub id; None: where the snapshot says.
    """

    def __init__(self, url: str, given: str | Embedder | None) -> None:
        self.url, self.given = url, given
        self._loaded: Embedder | None = None
        self._lock = threading.Lock()

    def embed(self, snapshot: Snapshot, prompts: Sequence[str]) -> Vectors:
        """Embeddings ``[N, D]``, each row of length one.

        Raises:
            ValueError: a prompt cannot be written as UTF-8.
            ConfigError: the model cannot be had, or is another than the snapshot's.
        """
        for prompt in prompts:
            try:
                prompt.encode()
            except UnicodeEncodeError as error:
                raise ValueError(f"prompt {prompt!a} is not allowed; it cannot be written as UTF-8") from error
        return self._find(snapshot.models["captions"]).embed(prompts)

    def _find(self, known: dict[str, Any]) -> Embedder:
        from noisebank.search.embed import Embedder, load_embedder

        model, digest = known["model"], known.get("digest")
        if isinstance(self.given, Embedder):
            if digest not in (None, self.given.digest):
                raise ConfigError(
                    f"the captions model given has digest {self.given.digest}, the bank's captions were embedded with "
                    f"{digest} ({model}); open the bank with embedder= that model's folder"
                )
            return self.given
        with self._lock:
            if self._loaded is None or digest not in (None, self._loaded.digest):
                pinned = refer(model, known.get("revision"))
                try:
                    if self.given is None and pinned != model:
                        with suppress(ConfigError):  # (another commit may have the same files)
                            self._loaded = load_embedder(pinned, digest)
                            return self._loaded
                    self._loaded = load_embedder(self.given or model, digest)
                except ConfigError as error:
                    raise ConfigError(
                        f"{self.url} was built with the captions model {model}; if that is elsewhere here, open "
                        f"the bank with embedder= its folder (--model on the command line): {error}"
                    ) from error
            return self._loaded
