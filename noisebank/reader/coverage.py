"""How near the captions of a bank are to prompts, beside how near they are to each other.

The exact nearest caption of every prompt is found by streaming the captions files, so memory grows with the prompts
and not with the bank; the index is asked too, and compared.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from noisebank.errors import BankDamaged, ClipNotFound
from noisebank.format.caption_places import HELD, caption_places
from noisebank.format.parts import read_parts
from noisebank.format.reading import verified_table
from noisebank.format.stage_names import CAPTIONS
from noisebank.format.tables import matches
from noisebank.ids import Nums
from noisebank.progress import ReportProgress, silent
from noisebank.reader.pinned import PinnedSet, PinnedSnapshot
from noisebank.search.exhaustive import Nearest
from noisebank.search.index import TIE, Vectors
from noisebank.search.segments import Hit, Segment, search_segments

SAMPLE = 4096
"""Captions of the pool that are compared with all others; a larger pool is sampled."""
FAR_PERCENTILE = 5
_BATCH = 4096
_SEED = 0


@dataclass(frozen=True)
class Far:
    """A prompt that no caption is near to, and the nearest there is."""

    prompt: str
    nearest: Hit


@dataclass(frozen=True)
class Coverage:
    """How near a bank's captions are to prompts; cosines of Sentence-BERT embeddings throughout.

    Args:
        similarity: ``[P]`` float32, of each prompt with the nearest caption: the exact one, whatever the index finds.
        pool: ``[S]`` float32, sorted: of each caption with the nearest one of another clip; of a pool of more than
            4,096 captions, for as many drawn with a fixed seed. Empty where there is one clip alone.
        captions: how many captions there are.
        recall: recall@1 of the index for these prompts: the share for which it finds a clip with a nearest caption.
        clips_used: how many clips the index gives to these prompts.
        largest_share: of the prompts, that goes to one clip.
        below: a prompt with a lower similarity is far.
        far: each far prompt once, the farthest first.
    """

    similarity: npt.NDArray[np.float32]
    pool: npt.NDArray[np.float32]
    captions: int
    recall: float
    clips_used: int
    largest_share: float
    below: float
    far: tuple[Far, ...]

    @property
    def is_far(self) -> npt.NDArray[np.bool_]:
        """``[P]``, which prompts are far."""
        return self.similarity < self.below - TIE


def measure_coverage(
    pinned: PinnedSnapshot,
    prompts: Sequence[str],
    embed: Callable[[Sequence[str]], Vectors],
    records: PinnedSet | None = None,
    below: float | None = None,
    progress: ReportProgress = silent,
) -> Coverage:
    """What :meth:`noisebank.NoiseBank.coverage` returns, of the captions whose clips are among ``records``, or all."""
    distinct = list(dict.fromkeys(prompts))
    places_of = {prompt: place for place, prompt in enumerate(distinct)}
    rows = np.asarray([places_of[prompt] for prompt in prompts])
    pool = _Pool(pinned, records)
    work = _Work(progress, len(distinct) + pool.size)
    segments = pinned.segments if records is None else records.segments
    own, sample = pool.sample()
    queries = np.empty((len(distinct) + len(own), sample.shape[1]), np.float32)
    queries[len(distinct) :] = sample
    found = np.empty(len(distinct), np.int64)
    for start in range(0, len(distinct), _BATCH):
        batch = slice(start, min(start + _BATCH, len(distinct)))
        queries[batch] = embed(distinct[batch])
        found[batch] = _search(segments, queries[batch])
        work.add(batch.stop - start)
    nearest = Nearest(queries, np.concatenate([np.full(len(distinct), -1), own]))
    reached = np.full(len(distinct), -np.inf, np.float32)
    for nums, vectors in pool.blocks():
        nearest.see(nums, vectors)
        places, here = matches(nums, found)
        while here.any():  # (the captions of a clip follow each other)
            scores = np.einsum("qd,qd->q", queries[: len(distinct)][here], vectors[places[here]])
            reached[here] = np.maximum(reached[here], scores)
            places += 1
            here &= places < len(nums)
            here[here] = nums[places[here]] == found[here]
        work.add(len(nums))
    scores = np.minimum(nearest.scores, 1)
    best, others = scores[: len(distinct)], np.sort(scores[len(distinct) :])
    others = others[others > -np.inf]
    given = found[rows]
    used = np.unique(given[given >= 0], return_counts=True)[1]
    coverage = Coverage(
        similarity=best[rows],
        pool=others,
        captions=pool.size,
        recall=float(np.mean((reached >= best - TIE)[rows])),
        clips_used=len(used),
        largest_share=float(used.max(initial=0) / len(rows)),
        below=_threshold(others) if below is None else below,
        far=(),
    )
    is_far = best < coverage.below - TIE
    return replace(coverage, far=_name_far(pinned, distinct, queries, best, nearest.nums[: len(distinct)], is_far))


def _threshold(pool: npt.NDArray[np.float32]) -> float:
    if not len(pool):
        raise ValueError(
            "the pool has one caption, so nothing says what is far: give below (--below on the command line)"
        )
    return float(np.percentile(pool, FAR_PERCENTILE))


def _search(segments: Sequence[Segment], queries: Vectors) -> Nums:
    """The number of the clip that the index gives to each query; -1 where it finds none."""
    _, origins, positions = (column[:, 0] for column in search_segments(segments, queries, 1))
    found = np.full(len(queries), -1, np.int64)
    for origin in np.unique(origins[origins >= 0]):
        here = origins == origin
        found[here] = segments[origin].entries.nums()[positions[here]]
    return found


def _name_far(
    pinned: PinnedSnapshot,
    prompts: Sequence[str],
    queries: Vectors,
    best: Vectors,
    nums: Nums,
    is_far: npt.NDArray[np.bool_],
) -> tuple[Far, ...]:
    """The far prompts with their nearest captions, which are looked up in the order of the index."""
    clips: dict[int, Hit] = {}
    far = np.flatnonzero(is_far)
    for place in far[np.argsort(nums[far], kind="stable")].tolist():
        num = int(nums[place])
        clip = pinned.find(num, queries[place])
        if clip is None:
            raise BankDamaged(f"clip number {num}: its caption is held, and it is not in the index; run verify")
        clips[place] = clip
    order = [place for place in np.argsort(best, kind="stable").tolist() if is_far[place]]
    return tuple(Far(prompts[i], replace(clips[i], score=float(best[i]))) for i in order)


class _Work:
    """Counts what is done."""

    def __init__(self, progress: ReportProgress, total: int) -> None:
        self._progress, self._total, self._done = progress, total, 0
        self.add(0)

    def add(self, count: int) -> None:
        self._done += count
        self._progress(self._done, self._total)


class _Pool:
    """The captions that can be found, in the files that hold them."""

    def __init__(self, pinned: PinnedSnapshot, records: PinnedSet | None) -> None:
        self._pinned = pinned
        snapshot, wanted = pinned.snapshot, HELD
        if records is not None:
            wanted &= pc.is_in(pc.field("num"), pa.array(records.nums()))
        part = read_parts(pinned.store, snapshot.parts.get(CAPTIONS, ()))
        self._places = caption_places(pinned.store, snapshot.rows, part, wanted)
        self.size = sum(len(rows) for _, rows in self._places)
        if not self.size:
            whose = "no caption" if records is None else f"no caption with a record in noise set {records.name!r}"
            raise ClipNotFound(f"{pinned.store.url}: {whose} in snapshot {snapshot.number} to compare prompts with")

    def blocks(self, chosen: Nums | None = None) -> Iterator[tuple[Nums, Vectors]]:
        """Numbers, ascending, and embeddings ``[N, D]``, a file at a time; ``chosen``: only these, by their place."""
        start = 0
        for entry, rows in self._places:
            wanted, start = rows, start + len(rows)
            if chosen is not None:
                first, last = np.searchsorted(chosen, [start - len(rows), start])
                wanted = rows[chosen[first:last] - (start - len(rows))]
            if not len(wanted):
                continue
            table = verified_table(self._pinned.store, entry, ["num", "embedding"]).take(pa.array(wanted))
            vectors = table.column("embedding").combine_chunks().flatten().to_numpy().reshape(len(wanted), -1)
            yield table.column("num").to_numpy(), vectors

    def sample(self) -> tuple[Nums, Vectors]:
        """Numbers and embeddings of all captions, or of as many as are compared with the others."""
        chosen = None
        if self.size > SAMPLE:
            chosen = np.sort(np.random.default_rng(_SEED).choice(self.size, SAMPLE, replace=False))
        nums, vectors = zip(*self.blocks(chosen), strict=True)
        return np.concatenate(nums), np.concatenate(vectors)
