"""Build a FAISS index over caption embeddings, and raise its effort until its measured recall is good enough.

The type follows from the number of vectors by a table. Recall is measured against exact search on held-out queries,
which are not indexed vectors but blends of two captions' embeddings, as a prompt lies between captions. Equal vectors
give equal bytes: seeds are fixed and FAISS runs on one thread while it builds.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import faiss
import numpy as np
import numpy.typing as npt

from noisebank.errors import JobFailed
from noisebank.ids import Nums
from noisebank.processes import one_thread

FLAT_LIMIT = 50_000
FULL_LIMIT = 2_000_000
RECALL_AT = (1, 5)
TIE = 1e-5
"""Scores closer than this count as equal."""

_BLOCK = 65_536
_FLOAT_BYTES = 4
_HNSW_LINKS = 32
_LINK_BYTES = 4
_EFFORTS = tuple(8 << i for i in range(28))
_POINTS_PER_LIST = 64
_QUERIES = 512
_SEED = 1234

Vectors = npt.NDArray[np.float32]

faiss.cvar.distance_compute_blas_threshold = 8
"""Batches of this many queries on Flat go through BLAS, ten times faster than one by one; FAISS's own default never
does below 128,000 queries."""


def choose_index(n: int, dim: int, memory: int | None = None, final: bool = False) -> str:
    """The index for ``n`` vectors of ``dim`` float32, as ``faiss.index_factory`` calls it.

    Exact up to 50,000 vectors; then inverted lists, ``nlist = 4 sqrt(n)``; above 2 million vectors, or where they do
    not fit in ``memory`` bytes, with 8 bits a dimension. Product quantisation is never chosen: its recall is 0.65.

    Args:
        memory: bytes that the index may take; None: as many as it needs.
        final: nothing will be added for long and latency matters: a graph, unless it does not fit.

    >>> choose_index(10_000, 384), choose_index(1_000_000, 384)
    ('Flat', 'IVF4000,Flat')
    """
    room = math.inf if memory is None else memory
    full, links = n * dim * _FLOAT_BYTES, n * 2 * _HNSW_LINKS * _LINK_BYTES
    fits = full <= room
    if n <= FLAT_LIMIT and fits:
        return "Flat"
    if final and n <= FULL_LIMIT and full + links <= room:
        return f"HNSW{_HNSW_LINKS},Flat"
    nlist = min(n, round(4 * math.sqrt(n)))
    return f"IVF{nlist},{'Flat' if n <= FULL_LIMIT and fits else 'SQ8'}"


@dataclass(frozen=True)
class TunedIndex:
    """A finished index.

    Args:
        index: the FAISS index; ids are the positions of the vectors, and its own nprobe or efSearch is ``effort``.
        kind: such as ``Flat`` or ``IVF256,Flat``.
        effort: lists visited (nprobe) or candidates kept (efSearch) a query; 0 for exact search.
        recall: recall@k by k, for k in 1 and 5.
    """

    index: Any
    kind: str
    effort: int
    recall: dict[int, float]


def build_index(vectors: Vectors, min_recall: float, kind: str) -> TunedIndex:
    """Trains and fills an index, and raises its effort until recall@1 and recall@5 reach ``min_recall``.

    Args:
        vectors: ``[N, D]`` float32 of length one, N at least 1; a memory map will do.
        min_recall: 0 to 1.
        kind: what ``faiss.index_factory`` makes (:func:`choose_index`).

    Raises:
        JobFailed: the recall is lower even at the highest effort.
    """
    n, dim = vectors.shape
    with one_thread(faiss.omp_get_max_threads, faiss.omp_set_num_threads):
        index = faiss.index_factory(dim, kind, faiss.METRIC_INNER_PRODUCT)
        if not index.is_trained:  # (it has inverted lists)
            sample = np.random.default_rng(_SEED).choice(n, min(n, index.nlist * _POINTS_PER_LIST), replace=False)
            index.train(np.ascontiguousarray(vectors[np.sort(sample)]))
        for start in range(0, n, _BLOCK):
            index.add(np.ascontiguousarray(vectors[start : start + _BLOCK]))
        queries = held_out_queries(vectors)
        exact = exact_scores(vectors, queries, max(RECALL_AT))
        recall: dict[int, float] = {}
        effort = 0
        for effort in _raise_effort(index, n):
            _, positions = index.search(queries, max(RECALL_AT))
            recall = recall_of(_true_scores(vectors, queries, positions), exact)
            if min(recall.values()) >= min_recall:
                return TunedIndex(index, kind, effort, recall)
    raise JobFailed(
        f"index {kind} over {n} captions: recall@1 {recall[1]:.3f}, recall@5 {recall[5]:.3f} at the highest "
        f"effort ({effort}), index.min_recall is {min_recall}; lower it"
    )


def held_out_queries(vectors: Vectors) -> Vectors:
    """512 queries ``[Q, D]`` that are no indexed vectors: normalised sums of two random ones, always the same."""
    pairs = np.random.default_rng(_SEED).integers(0, len(vectors), (2, _QUERIES))
    return blend(*vectors[pairs])


def blend(first: Vectors, second: Vectors) -> Vectors:
    """The normalised sums of pairs of vectors of length one; the first where a pair cancels out."""
    sums = first + second
    lengths = np.linalg.norm(sums, axis=1, keepdims=True)
    return np.where(lengths > TIE, sums / np.maximum(lengths, TIE), first).astype(np.float32)


def exact_scores(vectors: Vectors, queries: Vectors, k: int) -> Vectors:
    """The ``k`` best inner products ``[Q, k]`` of each query, descending; -inf where there are fewer vectors."""
    scores, positions = faiss.knn(queries, vectors, k, metric=faiss.METRIC_INNER_PRODUCT)
    return np.where(positions < 0, np.float32(-np.inf), scores)


def recall_of(found: Vectors, exact: Vectors) -> dict[int, float]:
    """recall@k, for k in 1 and 5: how many of the k results are as near as the exact k nearest.

    Captions can be equal, so results are judged by their true scores and not by their ids.

    Args:
        found: true scores ``[Q, K]`` of the results, in their order; -inf where there is none.
        exact: ``[Q, K]`` scores of exact search, descending.
    """
    recall = {}
    for k in RECALL_AT:
        wanted = exact[:, :k] > -np.inf
        hits = (found[:, :k] >= exact[:, k - 1 : k] - TIE) & (found[:, :k] > -np.inf)
        recall[k] = float(hits.sum() / wanted.sum())
    return recall


def _raise_effort(index: Any, n: int) -> Iterator[int]:
    """Sets nprobe or efSearch, which are written with the index, to more and more, up to the last that can help; what
    is exact has 0 once."""
    if isinstance(index, faiss.IndexIVF):
        holder, name, last = index, "nprobe", index.nlist
    elif isinstance(index, faiss.IndexHNSW):
        holder, name, last = index.hnsw, "efSearch", n
    else:
        yield 0
        return
    for effort in [*(effort for effort in _EFFORTS if effort < last), last]:
        setattr(holder, name, effort)
        yield effort


def _true_scores(vectors: Vectors, queries: Vectors, positions: Nums) -> Vectors:
    """True inner products of search results; -inf where FAISS found nothing (position -1)."""
    scores = np.einsum("qd,qkd->qk", queries, vectors[np.maximum(positions, 0)])
    return np.where(positions >= 0, scores, -np.inf).astype(np.float32)
