"""The files that commands write for people: whole or not at all."""

from __future__ import annotations

import fcntl
import json
import os
import re
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from noisebank.errors import ConfigError, NoiseBankError

if TYPE_CHECKING:
    import torch

_LOCK = ".noisebank.lock"


def check_folder(output: str) -> None:
    """Refuses a file that is to be in no folder, or a folder itself."""
    if Path(output).is_dir():
        raise NoiseBankError(f"--output: {output} is a folder; name a file")
    if not Path(output).parent.is_dir():
        raise ConfigError(f"--output: {output}: its folder does not exist; make it first")


def save_latents(path: Path, latents: torch.Tensor, metadata: dict[str, str] | None = None) -> None:
    """A safetensors file with the key ``latents``, written as :func:`write_whole` does."""
    from safetensors.torch import save

    write_whole(path, _with_sorted_header(save({"latents": latents.contiguous()}, metadata)))


def write_whole(path: Path, data: bytes) -> None:
    """A file: whole or not at all, with the permissions of any new file."""
    if path.exists() and not path.is_file():  # (a pipe or a device, which nothing may take the place of)
        path.write_bytes(data)
        return
    path = path.resolve()
    part = path.with_name(f".{uuid.uuid4().hex}.tmp")
    try:
        part.write_bytes(data)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def remove_parts(folder: Path) -> None:
    """Removes what killed runs of :func:`write_whole` left in a folder, and nothing else."""
    for path in folder.iterdir():
        if re.fullmatch(r"\.[0-9a-f]{32}\.tmp", path.name) and path.is_file() and not path.is_symlink():
            path.unlink(missing_ok=True)


@contextmanager
def lock_folder(folder: Path) -> Iterator[None]:
    """Keeps other runs of the same command out of a folder for as long as the block runs, by a file that is gone
    afterwards.

    Raises:
        NoiseBankError: one is at work there; or the file system has no locks.
    """
    path = folder / _LOCK
    file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)
    try:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            is_ours = os.path.samestat(os.fstat(file), path.lstat())
        except (BlockingIOError, FileNotFoundError):
            is_ours = False  # (another's, or of a run that has just ended)
        except OSError as error:
            raise NoiseBankError(
                f"{folder}: files cannot be locked there ({error}); name a folder on another disk"
            ) from error
        if not is_ours:
            raise NoiseBankError(f"{folder}: another run writes there; wait for its end, or name another folder")
        try:
            yield
        finally:
            path.unlink(missing_ok=True)
    finally:
        os.close(file)


def _with_sorted_header(data: bytes) -> bytes:
    """A safetensors file (length of the header in 8 bytes, the header, tensors) that is the same in every process.

    The library writes metadata in the order of a hash table.
    """
    start = 8 + int.from_bytes(data[:8], "little")
    header = json.dumps(json.loads(data[8:start]), sort_keys=True).encode()
    header += b" " * (-len(header) % 8)
    return len(header).to_bytes(8, "little") + header + data[start:]
