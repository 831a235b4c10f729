"""Which device a process computes on: one GPU a process, claimed by locking a file.

The files are named for a GPU's UUID and a slot, so that all processes of a machine see the same ones, whatever
``CUDA_VISIBLE_DEVICES`` shows to each. The kernel frees a lock when its process ends, however it ends.
"""

from __future__ import annotations

import fcntl
import itertools
import logging
import os
import re
import stat
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from noisebank.errors import ConfigError, NoiseBankError

FOLDER = Path("/tmp/noisebank-devices")
"""Where the locks are: one place on a machine, as TMPDIR, which may be a job's own, is not."""
VARIABLE = "NOISEBANK_DEVICES"
"""The environment variable that names another folder."""
WAIT_S = 60.0
"""How long a claim waits for those of others, each of which takes milliseconds."""
_GUARD = "claiming"
_log = logging.getLogger(__name__)
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
        folder: of the locks; by default that which :data:`VARIABLE` names, else :data:`FOLDER`.

    Raises:
        ConfigError: the folder cannot be made or written, or is something else.
        NoiseBankError: somebody has kept all others from claiming for :data:`WAIT_S` seconds.
    """
    if not names:
        raise ValueError("names: at least one device is wanted")
    if folder is None:
        folder = Path(os.environ.get(VARIABLE) or FOLDER)
    try:
        _make_folder(folder)
        guard = _open(folder / _GUARD)
        try:
            _wait_for(guard, folder / _GUARD)  # (one at a time: else two could both pass over a slot)
            slots = ((name, slot) for slot in itertools.count() for name in names)
            return next(claim for name, slot in slots if (claim := _try_to_claim(folder, name, slot)))
        finally:
            os.close(guard)
    except OSError as error:
        raise ConfigError(
            f"GPUs are claimed by files in {folder}, which cannot be used: {error}; let its owner open it to all "
            f"(chmod 1777, its files 644), or name another in {VARIABLE}, the same for all processes of this machine"
        ) from error


def _make_folder(folder: Path) -> None:
    """Makes the folder, for all users; one that is there is left as it is, and must be no link to elsewhere."""
    try:
        folder.mkdir()
    except FileExistsError:
        if not stat.S_ISDIR(folder.lstat().st_mode):
            raise
        return
    file = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        os.fchmod(file, 0o1777)
    finally:
        os.close(file)


def _wait_for(guard: int, path: Path) -> None:
    """Locks the file that makes claims one at a time."""
    end = time.monotonic() + WAIT_S
    for look in itertools.count():
        try:
            return fcntl.flock(guard, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > end:
                raise NoiseBankError(
                    f"no GPU can be claimed: somebody has kept {path} locked for {WAIT_S:g} s (fuser {path} says who); "
                    f"end that process, or name another folder in {VARIABLE}"
                ) from None
        if look == 20:
            _log.info("waits for the lock of %s to claim a GPU, for %g s at most", path, WAIT_S)
        time.sleep(0.05)


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
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC  # (a pipe in its place would block)
    try:
        file = os.open(path, flags | os.O_CREAT | os.O_EXCL, 0o644)
    except FileExistsError:
        return os.open(path, flags)
    os.fchmod(file, 0o644)  # (a umask may have kept other users out)
    return file


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
