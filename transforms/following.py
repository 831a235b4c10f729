"""Shards of a stage over clips as somebody else finishes their clips: each worker waits for its share of them."""

from __future__ import annotations

from collections.abc import Iterator

import apache_beam as beam

from noisebank.options import Config
from noisebank.stages.following import Follower
from noisebank.stages.stage import ShardWork, Stage
from noisebank.storage import open_store
from transforms.work import plan_of, step


@step
class FollowClips(beam.PTransform):
    """The work of a stage over clips, found while clips are being made (:class:`~noisebank.stages.following.Follower`).

    What follows in the graph must be fused with it: a worker does a shard before it looks for the next one.

    Args:
        stage: the stage.
        pause: seconds between two looks at the bank.
        workers: among how many the shards are shared out.

    Input: the plan's path. Output: :class:`~noisebank.stages.stage.ShardWork`.
    """

    config: Config
    stage: Stage
    pause: float
    workers: int = 1

    def expand(self, plans: beam.PCollection[str]) -> beam.PCollection[ShardWork]:
        return (
            plans
            | "Workers" >> beam.FlatMap(lambda path, workers: [(path, i) for i in range(workers)], self.workers)
            | "SpreadWorkers" >> beam.Reshuffle()
            | "Follow" >> beam.FlatMap(self._follow)
        )

    def _follow(self, share: tuple[str, int]) -> Iterator[ShardWork]:
        path, number = share
        bank = self.config.bank
        plan = plan_of(bank, path)
        follower = Follower(open_store(bank), plan, self.config, self.pause)
        for work in follower.find_work(self.stage.name.name, number, self.workers):
            yield from self.stage.split(plan, work)
