"""Makes the clips of a shard: downloads overlapped with decoding, in the order asked for, in bounded space.

At most :data:`MAX_BACKLOG_BYTES` wait to be decoded or handed on when a download starts, and ``fetch.concurrency`` of
them are on their way, each of at most ``fetch.max_bytes`` (a member of a remote tar takes that twice). A download that
failed leaves nothing.

Requests of one video share one download, wherever they stand in the shard. Results do not depend on the number of
downloads or decoders, nor on who finishes first.
"""

from __future__ import annotations

import functools
import os
import shutil
import tempfile
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from noisebank.errors import RowFailure
from noisebank.options import ClipOptions, FetchOptions
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
    duration_ms: int
    """Of the video."""


Outcome = Clip | RowFailure


def make_clips(
    requests: Sequence[ClipRequest],
    clips: ClipOptions,
    options: FetchOptions,
    workdir: Path | None = None,
    sandbox: Sandbox | None = None,
) -> Iterator[tuple[ClipRequest, Outcome]]:
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
    sandbox = sandbox or shared_sandbox()
    with tempfile.TemporaryDirectory(prefix="noisebank-", dir=workdir, ignore_cleanup_errors=True) as folder:
        work = _Work(requests, clips, options, sandbox, Path(folder))
        try:
            work.start()
            for number, request in enumerate(requests):
                yield request, work.take(number)
        finally:
            work.stop()


@dataclass
class _Video:
    """The requests that one download serves; ``left`` of them are still to be decoded.

    All that a download writes, whatever fetches it, is in ``folder``, which goes when it failed or is decoded.
    """

    uri: str
    folder: Path
    numbers: list[int]
    left: int = 0


class _Backlog:
    """Bytes that wait to be decoded or handed on; holds downloads back while there are too many."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._bytes = 0
        self._wanted = 0
        self._stopped = False
        self._changed = threading.Condition()

    def add(self, size: int) -> None:
        with self._changed:
            self._bytes += size
            self._changed.notify_all()

    def wanted(self, number: int) -> None:
        """The caller waits for this request."""
        with self._changed:
            self._wanted = number
            self._changed.notify_all()

    def stop(self) -> None:
        with self._changed:
            self._stopped = True
            self._changed.notify_all()

    def wait(self, first: int) -> None:
        """Returns when there is room, or the caller waits for request ``first`` itself (else all would stand still)."""
        with self._changed:
            self._changed.wait_for(lambda: self._bytes < self._limit or first <= self._wanted or self._stopped)


class _Work:
    """The two pools of threads and what passes between them."""

    def __init__(
        self,
        requests: Sequence[ClipRequest],
        clips: ClipOptions,
        options: FetchOptions,
        sandbox: Sandbox,
        folder: Path,
    ) -> None:
        self._requests, self._clips, self._options = requests, clips, options
        self._sandbox, self._folder = sandbox, folder
        self._downloads = ThreadPoolExecutor(options.concurrency, "noisebank-fetch")
        self._decodes = ThreadPoolExecutor(sandbox.size, "noisebank-decode")
        self._lock = threading.Lock()
        self._outcomes: list[Future[Outcome]] = [Future() for _ in requests]
        self._backlog = _Backlog(MAX_BACKLOG_BYTES)

    def start(self) -> None:
        """Starts all work, in the order of the requests."""
        videos: dict[str, _Video] = {}
        for number, request in enumerate(self._requests):
            video = videos.setdefault(request.uri, _Video(request.uri, self._folder / str(number), []))
            video.numbers.append(number)
        for video in videos.values():
            video.left = len(video.numbers)
            self._downloads.submit(self._guarded, video.numbers, partial(self._download, video))

    def take(self, number: int) -> Outcome:
        """Waits for the outcome of a request and hands it over: it is not kept."""
        self._backlog.wanted(number)
        outcome = self._outcomes[number].result()
        self._outcomes[number] = Future()
        if isinstance(outcome, Clip):
            self._backlog.add(-len(outcome.mp4))
        return outcome

    def stop(self) -> None:
        """Gives up what has not begun; what has ends on its own (whoever interrupts a build does not wait for it)."""
        self._backlog.stop()
        self._downloads.shutdown(wait=False, cancel_futures=True)
        self._decodes.shutdown(wait=False, cancel_futures=True)

    def _guarded(self, numbers: list[int], step: Any) -> None:
        """Runs a step; its failure, or any error, is the outcome of the requests concerned."""
        try:
            step()
        except RowFailure as failure:
            for number in numbers:
                self._outcomes[number].set_result(failure)
        except BaseException as error:  # noqa: BLE001 (handed to the caller, who is waiting)
            for number in numbers:
                self._outcomes[number].set_exception(error)

    def _download(self, video: _Video) -> None:
        self._backlog.wait(video.numbers[0])
        span = _span([self._requests[number] for number in video.numbers])
        with _slots(self._options.concurrency, os.getpid()):
            video.folder.mkdir()
            try:
                fetched = fetch(video.uri, video.folder / "video", self._options, *span)
                size = sum(file.stat().st_size for file in video.folder.iterdir())
            except BaseException:
                shutil.rmtree(video.folder)
                raise
        self._backlog.add(size)
        for number in video.numbers:
            self._decodes.submit(self._guarded, [number], partial(self._decode, video, fetched, size, number))

    def _decode(self, video: _Video, fetched: Fetched, size: int, number: int) -> None:
        request = self._requests[number]
        try:
            spec = _spec(request, self._clips, fetched.start_ms)
            facts, mp4 = self._sandbox.run({"path": str(fetched.path.absolute()), "spec": spec})
        finally:
            with self._lock:
                video.left -= 1
                done = video.left == 0
            if done:
                shutil.rmtree(video.folder)
                self._backlog.add(-size)
        facts.pop("bytes")
        self._backlog.add(len(mp4))
        self._outcomes[number].set_result(Clip(id=request.id, mp4=mp4, **facts))


@functools.cache
def _slots(concurrency: int, pid: int) -> threading.BoundedSemaphore:
    """The process's downloads, shared by all shards that it works on at once."""
    return threading.BoundedSemaphore(concurrency)


def _span(requests: list[ClipRequest]) -> tuple[int | None, int | None]:
    """The range that holds those of all requests of a video; (None, None) where one wants all of it."""
    starts = [request.start_ms for request in requests if request.start_ms is not None]
    ends = [request.end_ms for request in requests if request.end_ms is not None]
    if not len(starts) == len(ends) == len(requests):
        return None, None
    return min(starts), max(ends)


def _spec(request: ClipRequest, clips: ClipOptions, file_start_ms: int) -> dict[str, Any]:
    """The fields of :class:`~.decode.ClipSpec` for a request, in a file that begins at ``file_start_ms``."""
    height, width = clips.height_width
    return {
        "frames": clips.frames,
        "frame_stride": clips.frame_stride or 1,
        "fps": clips.fps,
        "height": height,
        "width": width,
        "pixel_format": clips.pixel_format,
        "start_ms": (request.start_ms or 0) - file_start_ms,
        "end_ms": None if request.end_ms is None else request.end_ms - file_start_ms,
    }
