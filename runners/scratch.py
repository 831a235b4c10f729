"""One folder for all temporary files of a command and its workers, which goes when they are gone, whatever ended them.

A small process sees to that. It reads a named pipe in the folder, which the command and every worker keep open; the
kernel closes it when they end, by themselves or killed, and the reading ends with the last of them.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from subprocess import DEVNULL, Popen

_PIPE = "in-use"
_REMOVE = 'cat; rm -rf "$1"'


def use_scratch_folder() -> None:
    """Makes the folder, and the place for temporary files of this process and of those that it starts.

    Raises:
        OSError: there is no place for temporary files.
    """
    folder = tempfile.mkdtemp(prefix="noisebank-")
    os.mkfifo(Path(folder, _PIPE))
    os.environ["TMPDIR"] = tempfile.tempdir = folder
    hold_scratch_folder()
    with Path(folder, _PIPE).open("rb") as pipe:
        line = ["sh", "-c", _REMOVE, "sh", folder]
        Popen(line, stdin=pipe, stdout=DEVNULL, stderr=DEVNULL, start_new_session=True)  # (Ctrl-C does not end it)


def hold_scratch_folder() -> None:
    """Keeps the folder, if the command has made one, for as long as this process lives."""
    pipe = Path(tempfile.gettempdir(), _PIPE)
    if pipe.is_fifo():
        os.open(pipe, os.O_RDWR)
