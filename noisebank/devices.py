"""Which device a process computes on: one GPU a process, claimed by locking a file.

The files are named for a GPU's UUID and a slot, so that all processes of a machine see the same ones, whatever
``CUDA_VISIBLE_DEVICES`` shows to each. The kernel frees a lock when its process ends, however it ends.
"""

from __future__ import annotations

import fcntl
import itertools
import os
import re
import threading
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from noisebank.errors import ConfigError

FOLDER = Path("/tmp/noisebank-devices")
"""Where the locks are: one place on a machine, as TMPDIR, which may be a job's own, is not."""
_GUARD = "claiming"
_held: list[Claim] = []
_choosing = threading.Lock()


def parse_device(value: object) -> str:
    """The option ``device``: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``."""
    if not re.fullmatch(r"auto|cpu|cuda(:\d{1,4})?", str(value)):
        raise ValueError("auto, cpu, cuda or cuda:N")
    return str(value)


@dataclass(frozen=True)
class Claim:
    """A device that this process has, for as long as it lives or until :meth:`release`.

    Args:
        device: its name.
        slot: how many others had it when it was claimed.
    """

    device: str
    slot: int
    _file: int

    def release(self) -> None:
        """Gives it back."""
        os.close(self._file)


def claim_device(names: Sequence[str], folder: Path | None = None) -> Claim:
    """Claims the device that the fewest have: the first one whose lowest slot is free.

    Args:
        names: of the devices to choose from, as file names; any, but the same for all processes.
        folder: of the locks, :data:`FOLDER` by default.

    Raises:
        OSError: the folder cannot be made or written.
    """
    if not names:
        raise ValueError("names: at least one device is wanted")
    folder = FOLDER if folder is None else folder
    folder.mkdir(exist_ok=True)
    with suppress(PermissionError):  # (another user's, who has done so)
        folder.chmod(0o1777)
    guard = _open(folder / _GUARD)
    try:
        fcntl.flock(guard, fcntl.LOCK_EX)  # (one at a time: else two could both pass over a slot)
        slots = ((name, slot) for slot in itertools.count() for name in names)
        return next(claim for name, slot in slots if (claim := _try_to_claim(folder, name, slot)))
    finally:
        os.close(guard)


def _try_to_claim(folder: Path, name: str, slot: int) -> Claim | None:
    file = _open(folder / f"{name}.{slot}")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(file)
        return None
    return Claim(name, slot, file)


def _open(path: Path) -> int:
    """A file to lock, of whichever user's."""
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        return os.open(path, flags | os.O_CREAT, 0o644)
    except PermissionError:  # (the kernel refuses O_CREAT where another user has made it in a sticky folder)
        return os.open(path, flags)


def list_gpus() -> list[str]:
    """UUIDs of the GPUs that torch sees, in its order."""
    import torch

    return [str(torch.cuda.get_device_properties(number).uuid) for number in range(count_gpus())]


def count_gpus() -> int:
    """How many GPUs torch sees; none of them is touched."""
    import torch

    return torch.cuda.device_count() if torch.cuda.is_available() else 0


def choose_device(wanted: str) -> str:
    """The device of this process, as torch calls it.

    Args:
        wanted: ``cpu``; ``cuda:N``; ``cuda``, the GPU that this process has claimed, or claims now
            (:func:`claim_device`); ``auto``, the same where there is a GPU, else ``cpu``.

    Raises:
        ConfigError: there is no such GPU.
    """
    if wanted == "cpu" or (wanted == "auto" and not count_gpus()):
        return "cpu"
    gpus = list_gpus()
    _, _, number = wanted.partition(":")
    if len(gpus) <= int(number or 0):
        seen = f"torch sees {len(gpus)} GPUs" if gpus else "torch sees no GPU"
        raise ConfigError(f"device {wanted!r}: {seen} here; choose another, or auto, or cpu")
    with _choosing:
        held = next((claim for claim in _held if not number or claim.device == gpus[int(number)]), None)
        if held is None:
            held = claim_device([gpus[int(number)]] if number else gpus)
            _held.append(held)
    return f"cuda:{gpus.index(held.device)}"
