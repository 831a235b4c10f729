"""CPU seconds a clip of writing a shard, against a bare loop over the same fetch, decode, resize and encode.

Sources are 5 s, 640 x 360, 25 fps, H.264, served over loopback HTTP by a process that is not counted. The shard's side
counts everything: threads, pipes, the start of the decoding processes, temporary files, the tar.

    python -m benchmarks.shard [clips]
"""

from __future__ import annotations

import functools
import multiprocessing
import resource
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np

from noisebank.fixtures.videos import write_video
from noisebank.format.shards import ShardSample, write_shard
from noisebank.options import ClipOptions, FetchOptions
from noisebank.video.clips import Clip, ClipRequest, make_clips
from noisebank.video.decode import decode
from noisebank.video.encode import encode_mp4
from noisebank.video.sandbox import Sandbox

CLIPS = ClipOptions(frames=16, frame_stride=8, size=256)
DISTINCT = 4
ROUNDS = 2


def run(clips: int = 128) -> dict[str, float]:
    """CPU seconds a clip of both sides (the better of two rounds each) and their ratio."""
    with tempfile.TemporaryDirectory(prefix="noisebank-bench-") as folder:
        served = Path(folder, "served")
        served.mkdir()
        for number in range(DISTINCT):
            source(served / f"{number}.mp4", number)
        near, far = multiprocessing.get_context("spawn").Pipe()
        server = multiprocessing.get_context("spawn").Process(target=serve, args=(str(served), far), daemon=True)
        server.start()
        url = near.recv()
        uris = [f"{url}/{number % DISTINCT}.mp4?{number}" for number in range(clips)]
        try:
            rounds = [(_cpu(_bare, uris, Path(folder)), _cpu(_shard, uris, Path(folder))) for _ in range(ROUNDS)]
        finally:
            server.terminate()
            server.join()
    bare, shard = (min(values) / clips for values in zip(*rounds, strict=True))
    return {"clips": clips, "bare_cpu_s_a_clip": bare, "shard_cpu_s_a_clip": shard, "ratio": shard / bare}


def _bare(uris: list[str], folder: Path) -> None:
    """The floor: one process, one thread, nothing kept."""
    path = folder / "bare.mp4"
    for uri in uris:
        with urllib.request.urlopen(uri) as response:
            path.write_bytes(response.read())
        decoded = decode(path, CLIPS)
        encode_mp4(decoded.frames, decoded.fps, CLIPS.pixel_format)


def _shard(uris: list[str], folder: Path) -> None:
    """What a build does."""
    sandbox = Sandbox()
    requests = [ClipRequest(f"bench-{number}", uri) for number, uri in enumerate(uris)]
    made = make_clips(requests, CLIPS, FetchOptions(allow_private_hosts=True), folder, sandbox)
    samples = (
        ShardSample(request.id, clip.mp4, "a caption", {"sha256": clip.sha256})
        for request, clip in made
        if isinstance(clip, Clip)
    )
    written = write_shard(folder / "shard.tar", samples)
    sandbox.close()
    assert written == len(uris)


def _cpu(side: Callable[[list[str], Path], None], uris: list[str], folder: Path) -> float:
    """CPU seconds of this process and of those of its children that have ended."""

    def now() -> float:
        children = resource.getrusage(resource.RUSAGE_CHILDREN)
        return time.process_time() + children.ru_utime + children.ru_stime

    began = now()
    side(uris, folder)
    return now() - began


def source(path: Path, seed: int, frames: int = 125) -> None:
    """A textured picture of 640 x 360 that pans, with a little grain; 25 frames a second."""
    rng = np.random.default_rng(seed)
    field = np.cumsum(np.cumsum(rng.normal(size=(720, 1280, 3)), 0), 1)
    field = 20 + 200 * (field - field.min()) / (field.max() - field.min())
    grain = rng.normal(size=(360, 640, 1)) * 6
    pictures = (field[n : n + 360, 2 * n : 2 * n + 640] + grain for n in range(frames))
    write_video(path, (picture.clip(0, 255).astype(np.uint8) for picture in pictures), options={})


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        """Silent."""


def serve(folder: str, ready: Connection) -> None:
    """Serves a folder over loopback HTTP; tells its address."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(_Quiet, directory=folder))
    ready.send(f"http://127.0.0.1:{server.server_port}")
    server.serve_forever()


if __name__ == "__main__":
    for name, value in run(*map(int, sys.argv[1:2])).items():
        print(f"{name:22} {value:.3f}")
