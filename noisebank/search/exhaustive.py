"""Exact nearest neighbours over more vectors than fit in memory: they come in blocks, and the best so far is kept.

What is held is the queries, a few candidates of each and one block; of the similarities never more than FAISS's own
tile.
"""

from __future__ import annotations

import faiss
import numpy as np

from noisebank.ids import Nums
from noisebank.search.index import Vectors


class Nearest:
    """For each query the nearest of all vectors that were seen, but for its own.

    Args:
        queries: ``[Q, D]`` float32 of length one.
        own: ``[Q]``, the number of those vectors that a query is one of itself; -1 where it is none.

    Attributes:
        scores: ``[Q]`` float32, the best inner products; -inf where nothing was seen.
        nums: ``[Q]``, whose they are; -1 where nothing was seen. Of equal ones the first that was seen.
    """

    def __init__(self, queries: Vectors, own: Nums) -> None:
        self._queries, self._own = queries, own
        self.scores = np.full(len(queries), -np.inf, np.float32)
        self.nums = np.full(len(queries), -1, np.int64)

    def see(self, nums: Nums, vectors: Vectors) -> None:
        """Takes in a block: ``vectors`` ``[N, D]`` float32 of length one, and their numbers; of vectors of one
        number all are in one block."""
        most = int(np.unique(nums, return_counts=True)[1].max(initial=1))
        scores, positions = faiss.knn(self._queries, vectors, 1 + most, metric=faiss.METRIC_INNER_PRODUCT)
        found = nums[positions]
        scores[(positions < 0) | (found == self._own[:, None])] = -np.inf
        at = np.arange(len(scores)), scores.argmax(axis=1)
        better = scores[at] > self.scores
        self.scores[better], self.nums[better] = scores[at][better], found[at][better]
