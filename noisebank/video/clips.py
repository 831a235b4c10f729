"""Makes the clips of a shard: downloads overlapped with decoding, in the order asked for, in bounded space.

At most :data:`MAX_BACKLOG_BYTES` wait to be decoded or handed on when a download starts, and ``fetch.concurrency`` of
them are on their way, each of at most ``fetch.max_bytes`` (a member of a remote tar takes that twice). A download that
failed leaves nothing.

Requests of one video share one download, wherever they stand in the shard. Results do not depend on the number of
downloads or decoders, nor on who finishes first.
"""

from __future__ import annotations

import functools
import hashlib
import os
import shutil
import sys
import tempfile
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

from noisebank.decode import Dialect, decode
from noisebank.errors import RowFailure
from noisebank.options import ClipOptions, FetchOptions, option
from noisebank.video.fetch import Fetched, fetch
from noisebank.video.sandbox import Sandbox, shared_sandbox

MAX_BACKLOG_BYTES = 10**9
"""No download starts while this much waits on disk or in memory to be decoded or handed on."""


@dataclass(frozen=True)
class ClipRequest:
    """One clip wanted: a video, or the range ``[start_ms, end_ms)`` of one."""

    id: str
    uri: str
    start_ms: int | None = None
    end_ms: int | None = None
    clips: ClipOptions | None = None
    """What this clip is, if not what those of the shard are."""


@dataclass(frozen=True)
class Clip:
    """One clip made."""

    id: str
    mp4: bytes
    sha256: str
    """Of ``mp4``."""
    frames: int
    height: int
    width: int
    fps: float
    """Of the clip, as ``source_fps`` is of its video."""
    source_fps: float
    source_width: int
    source_height: int
    upscaled: bool = False
    """Whether the picture was smaller than the clip."""


@dataclass(frozen=True)
class _Facts:
    """What only the decoding process knows of a clip; checked, because that process read a file of a stranger's."""

    fps: float = option(minimum=0, maximum=1000)
    source_fps: float = option(minimum=0, maximum=1000)
    source_width: int = option(minimum=1, maximum=1 << 15)
    source_height: int = option(minimum=1, maximum=1 << 15)
    upscaled: bool = option(False)


_ANSWER = Dialect(lambda problem: RowFailure("decoder_crashed", f"the decoder's answer makes no sense: {problem}"))


def make_clips(
    requests: Sequence[ClipRequest],
    clips: ClipOptions,
    options: FetchOptions,
    workdir: Path | None = None,
    sandbox: Sandbox | None = None,
) -> Iterator[tuple[ClipRequest, Clip | RowFailure]]:
    """Fetches, decodes and encodes.

    Args:
        requests: the clips of a shard.
        clips: what a clip is.
        options: how to fetch; ``concurrency`` downloads run at once.
        workdir: folder for temporary files, by default the system's.
        sandbox: where to decode, by default that of the process.

    Yields:
        Each request, in the order given, with its clip or the reason why there is none. Other exceptions (a full disk)
        end the iteration.
    """
    with tempfile.TemporaryDirectory(prefix="noisebank-", dir=workdir, ignore_cleanup_errors=True) as folder:
        work = _Work(requests, clips, options, sandbox or shared_sandbox(), Path(folder))
        try:
            for number, request in enumerate(requests):
                yield request, work.take(number, request)
        finally:
            work.stop()


@dataclass
class _Video:
    """A downloaded video, of which ``left`` clips are still to be decoded.

    All that its download wrote is in ``folder``, which goes with the last of them.
    """

    fetched: Fetched
    folder: Path
    size: int
    left: int


class _Work:
    """The two pools of threads and what passes between them."""

    def __init__(
        self, requests: Sequence[ClipRequest], clips: ClipOptions, options: FetchOptions, sandbox: Sandbox, folder: Path
    ) -> None:
        self._clips, self._options, self._sandbox, self._folder = clips, options, sandbox, folder
        self._fetching = ThreadPoolExecutor(options.concurrency, "noisebank-fetch")
        self._decoding = ThreadPoolExecutor(sandbox.size, "noisebank-decode")
        self._changed = threading.Condition()
        self._backlog = 0  # bytes that wait to be decoded or handed on
        self._asked = 0  # number of the request that the caller waits for
        videos: dict[str, dict[int, ClipRequest]] = {}
        for number, request in enumerate(requests):
            videos.setdefault(request.uri, {})[number] = request
        self._downloads = {uri: self._fetching.submit(self._download, uri, wanted) for uri, wanted in videos.items()}

    def take(self, number: int, request: ClipRequest) -> Clip | RowFailure:
        """Waits for the outcome of a request and hands it over: it is not kept."""
        self._ask(number)
        try:
            clip = self._downloads[request.uri].result().pop(number).result()
        except RowFailure as failure:
            return failure
        self._add(-len(clip.mp4))
        return clip

    def stop(self) -> None:
        """Gives up what has not begun; what has ends on its own (whoever interrupts a build does not wait for it)."""
        self._ask(sys.maxsize)
        self._fetching.shutdown(wait=False, cancel_futures=True)
        self._decoding.shutdown(wait=False, cancel_futures=True)

    def _ask(self, number: int) -> None:
        with self._changed:
            self._asked = number
            self._changed.notify_all()

    def _add(self, size: int) -> None:
        with self._changed:
            self._backlog += size
            self._changed.notify_all()

    def _download(self, uri: str, wanted: dict[int, ClipRequest]) -> dict[int, Future[Clip]]:
        """The clips of a video by the numbers of their requests.

        Waits for room, unless the caller waits for the first of them itself (else all would stand still).
        """
        first = min(wanted)
        with self._changed:
            self._changed.wait_for(lambda: self._backlog < MAX_BACKLOG_BYTES or first <= self._asked)
        folder = self._folder / str(first)
        with _slots(self._options.concurrency, os.getpid()):
            folder.mkdir()
            try:
                fetched = fetch(uri, folder / "video", self._options, _range([*wanted.values()]))
            except BaseException:
                shutil.rmtree(folder)
                raise
        video = _Video(fetched, folder, sum(file.stat().st_size for file in folder.iterdir()), len(wanted))
        self._add(video.size)
        return {number: self._decoding.submit(self._decode, video, request) for number, request in wanted.items()}

    def _decode(self, video: _Video, request: ClipRequest) -> Clip:
        path, skipped_ms = video.fetched
        span = {
            "start_ms": (request.start_ms or 0) - skipped_ms,
            "end_ms": None if request.end_ms is None else request.end_ms - skipped_ms,
        }
        try:
            options = asdict(request.clips or self._clips)
            answer, mp4 = self._sandbox.run({"path": str(path.absolute()), "clips": options, **span})
            facts = decode(answer, _Facts, "", _ANSWER)
        finally:
            with self._changed:
                video.left -= 1
                done = not video.left
            if done:
                shutil.rmtree(video.folder)
                self._add(-video.size)
        self._add(len(mp4))
        digest, shape = hashlib.sha256(mp4).hexdigest(), (self._clips.frames, *self._clips.height_width)
        return Clip(request.id, mp4, digest, *shape, **vars(facts))


@functools.cache
def _slots(concurrency: int, pid: int) -> threading.BoundedSemaphore:
    """The process's downloads, shared by all shards that it works on at once."""
    return threading.BoundedSemaphore(concurrency)


def _range(requests: list[ClipRequest]) -> tuple[int, int] | None:
    """The range in ms that holds those of all requests of a video; None where one wants all of it."""
    ranges = [(r.start_ms, r.end_ms) for r in requests if r.start_ms is not None and r.end_ms is not None]
    if len(ranges) < len(requests):
        return None
    starts, ends = zip(*ranges, strict=True)
    return min(starts), max(ends)
