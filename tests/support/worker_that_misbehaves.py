"""A decoding process for tests: the real one, but some file names make it crash, hang, or lose its temper."""

from __future__ import annotations

import json
import os
import signal
import struct
import sys
import time
from pathlib import Path
from typing import Any

from noisebank.video.worker import Answer, make_clip, serve


def handle(request: dict[str, Any]) -> Answer:
    """Does what the file's name says."""
    path = Path(request["path"])
    if path.stem == "segfault":
        os.kill(os.getpid(), signal.SIGSEGV)
    if path.stem == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    if path.stem == "spin":
        path.touch()  # (it has begun)
        while True:
            pass
    if path.stem == "sleep":
        time.sleep(3600)
    if path.stem == "half":  # of an answer
        os.write(int(sys.argv[1]), struct.pack("!i", 1000) + b"{")
        os.kill(os.getpid(), signal.SIGKILL)
    if path.stem == "nonsense":
        os.write(int(sys.argv[1]), struct.pack("!i", 1) + b"{")
        return {}, b""
    if path.stem == "exception":
        raise ZeroDivisionError("a bug")
    if path.stem == "prints":
        print("x" * 100_000)
        sys.stdout.flush()
        os.write(1, b"y" * 100_000)
    if path.stem == "second":  # crashes unless it is the first request of its process
        marker = Path(request["path"] + f".{os.getpid()}")
        if _served:
            marker.touch()
            os.kill(os.getpid(), signal.SIGSEGV)
    _served.append(path.name)
    if path.stem.startswith("answers"):
        return json.loads(path.read_text()), b""
    if path.stem == "pid":
        return {"pid": os.getpid()}, b""
    if path.stem == "environment":
        return {"names": sorted(os.environ)}, b""
    return make_clip(request)


_served: list[str] = []

if __name__ == "__main__":
    serve(handle)
