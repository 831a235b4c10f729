"""The child process that decodes: reads requests on stdin, answers on stdout, dies rather than hang.

A message is a 4-byte big-endian length and that much JSON; ``"bytes"`` in it announces as many bytes of payload. The
kernel's alarm clock kills the process when a request takes longer than its deadline, even inside an endless loop of C
code. End of file on stdin ends it, and so does the end of its parent, in the middle of a request too.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import os
import resource
import signal
import struct
import sys
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

from noisebank.errors import RowFailure
from noisebank.processes import end_with

MAX_ADDRESS_SPACE = 6 << 30
Answer = tuple[dict[str, Any], bytes]


def send(pipe: IO[bytes], message: dict[str, Any], payload: bytes = b"") -> None:
    """Writes one message."""
    head = json.dumps({**message, "bytes": len(payload)}).encode()
    pipe.write(struct.pack(">I", len(head)) + head + payload)
    pipe.flush()


def receive(pipe: IO[bytes]) -> Answer | None:
    """Reads one message and its payload; None where the other side has ended."""
    size = pipe.read(4)
    if len(size) < 4:
        return None
    head = pipe.read(*struct.unpack(">I", size))
    try:
        message: dict[str, Any] = json.loads(head)
    except ValueError:  # cut off
        return None
    payload = pipe.read(message["bytes"])
    return (message, payload) if len(payload) == message["bytes"] else None


def make_clip(request: dict[str, Any]) -> Answer:
    """Decodes and encodes one clip: ``{"path", "spec": fields of ClipSpec}`` to the fields of a clip and its mp4."""
    from noisebank.video.decode import ClipSpec, decode
    from noisebank.video.encode import encode_mp4

    spec = ClipSpec(**request["spec"])
    decoded = decode(Path(request["path"]), spec)
    mp4 = encode_mp4(decoded.frames, decoded.fps, spec.pixel_format)
    facts = {
        "sha256": hashlib.sha256(mp4).hexdigest(),
        "frames": len(decoded.frames),
        "height": spec.height,
        "width": spec.width,
        "fps": round(float(decoded.fps), 6),
        "source_fps": round(float(decoded.source_fps), 6),
        "source_width": decoded.source_width,
        "source_height": decoded.source_height,
        "duration_ms": decoded.duration_ms,
    }
    return facts, mp4


def serve(handle: Callable[[dict[str, Any]], Answer]) -> None:
    """Says hello, then answers requests until stdin ends.

    A :class:`RowFailure` is an answer; any other exception ends the process.
    """
    end_with(os.getppid())
    requests, answers = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a library prints must not get between the answers
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGALRM])
    resource.setrlimit(resource.RLIMIT_AS, (MAX_ADDRESS_SPACE, MAX_ADDRESS_SPACE))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    send(answers, {})
    while (received := receive(requests)) is not None:
        request, _ = received
        signal.setitimer(signal.ITIMER_REAL, request["deadline_s"])
        try:
            facts, payload = handle(request)
        except RowFailure as failure:
            facts, payload = {"failure": [failure.code, failure.message, failure.retryable]}, b""
        signal.setitimer(signal.ITIMER_REAL, 0)
        send(answers, facts, payload)


if __name__ == "__main__":
    importlib.import_module("noisebank.video.decode")  # before the hello: what is not installed shows at the start
    try:
        serve(make_clip)
    except BrokenPipeError:  # the parent has gone
        os._exit(1)
