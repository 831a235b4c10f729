"""The process that decodes: answers one request after another, and dies rather than hang.

Messages are bytes on a :class:`multiprocessing.connection.Connection`, never pickled objects: a request is JSON, an
answer is JSON and then the mp4. The kernel's alarm clock kills the process when a request takes too long, even inside
an endless loop of C code. It ends with its parent too, in the middle of a request if need be.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import sys
from collections.abc import Callable
from contextlib import suppress
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from noisebank.errors import RowFailure
from noisebank.options import ClipOptions
from noisebank.processes import end_with
from noisebank.video.decode import decode
from noisebank.video.encode import encode_mp4

MAX_ADDRESS_SPACE = 6 << 30
Answer = tuple[dict[str, Any], bytes]


def make_clip(request: dict[str, Any]) -> Answer:
    """Decodes and encodes one clip.

    Args:
        request: ``path``, ``clips`` (the fields of :class:`~noisebank.options.ClipOptions`), ``start_ms``, ``end_ms``.

    Returns:
        What of the fields of :class:`~.clips.Clip` does not follow from the mp4 and the request, and the mp4.
    """
    clips = ClipOptions(**request["clips"])
    decoded = decode(Path(request["path"]), clips, request["start_ms"], request["end_ms"])
    mp4 = encode_mp4(decoded.frames, decoded.fps, clips.pixel_format)
    facts = {
        "fps": round(float(decoded.fps), 6),
        "source_fps": round(float(decoded.source_fps), 6),
        "source_width": decoded.source_width,
        "source_height": decoded.source_height,
        "upscaled": decoded.upscaled,
    }
    return facts, mp4


def serve(handle: Callable[[dict[str, Any]], Answer]) -> None:
    """Says hello, then answers requests until the other side is closed.

    The command's arguments are the file descriptor of the connection and the seconds that a request may take. A
    :class:`RowFailure` is an answer; any other exception ends the process.
    """
    connection, deadline_s = Connection(int(sys.argv[1])), float(sys.argv[2])
    end_with(os.getppid())
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGALRM])
    resource.setrlimit(resource.RLIMIT_AS, (MAX_ADDRESS_SPACE, MAX_ADDRESS_SPACE))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with suppress(ConnectionError):  # the parent is gone
        connection.send_bytes(b"hello")
        while True:
            try:
                request = json.loads(connection.recv_bytes())
            except EOFError:
                return
            signal.setitimer(signal.ITIMER_REAL, deadline_s)
            try:
                facts, mp4 = handle(request)
            except RowFailure as failure:
                facts, mp4 = {"failure": vars(failure)}, b""
            signal.setitimer(signal.ITIMER_REAL, 0)
            connection.send_bytes(json.dumps(facts).encode())
            connection.send_bytes(mp4)


if __name__ == "__main__":
    serve(make_clip)
