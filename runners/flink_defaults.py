"""Options without which a job is slow on Flink, or does not survive what it could, set where nobody said them."""

from __future__ import annotations

import logging
import math

from apache_beam.options.pipeline_options import FlinkRunnerOptions, PortableOptions

from noisebank.devices import count_gpus
from runners.engine import Engine, Needs
from runners.flink_cluster import FlinkCluster

MODE = "execution_mode_for_batch"
"""Of the job server: with ``BATCH`` a stage begins when those before it are finished, and what failed is made again
alone; with ``PIPELINED``, its default, all of them are."""
CACHE_MS = 5_000
"""For how long workers without work are kept for the next stage, where nothing is known of the cluster."""
MOST_CACHE_MS = 60_000
KEPT = 0.6
"""For which share of the restart delay they are kept: a dead one must be forgotten when its stage begins again."""
_log = logging.getLogger(__name__)


def set_defaults(engine: Engine, needs: Needs, cluster: FlinkCluster | None) -> None:
    """Sets how many subtasks a stage has, how many worker processes a TaskManager has, and how long these are kept.

    Args:
        engine: whose options are completed.
        needs: of the job.
        cluster: what it says of itself, if it was asked.
    """
    flink, portable = engine.options.view_as(FlinkRunnerOptions), engine.options.view_as(PortableOptions)
    if cluster and not engine.says("--parallelism"):
        flink.parallelism = max(1, cluster.slots)
    if cluster and 0 < cluster.slots < flink.parallelism:
        _log.warning(
            "--parallelism=%d: the cluster has %d slots; unless it starts more TaskManagers itself, the job waits for "
            "them and fails",
            flink.parallelism,
            cluster.slots,
        )
    if cluster and not engine.says("--sdk_worker_parallelism"):
        subtasks = math.ceil(flink.parallelism / max(1, cluster.managers))
        gpus = 1 if engine.runs_elsewhere else count_gpus() or subtasks
        portable.sdk_worker_parallelism = min(subtasks, gpus) if needs.on_gpu else subtasks  # (a model a GPU)
    _keep_workers(engine, portable, cluster)


def _keep_workers(engine: Engine, portable: PortableOptions, cluster: FlinkCluster | None) -> None:
    restart_ms = cluster.restart_ms if cluster else None
    if not engine.says("--environment_cache_millis"):
        kept = CACHE_MS if restart_ms is None else min(MOST_CACHE_MS, int(KEPT * restart_ms)) or MOST_CACHE_MS
        portable.environment_cache_millis = kept
    if restart_ms == 0:
        _log.warning(
            "the cluster restarts nothing: a worker that dies ends the job; set restart-strategy.type: fixed-delay and "
            "restart-strategy.fixed-delay.delay: 8 s in its configuration"
        )
    elif restart_ms and int(portable.environment_cache_millis) >= restart_ms:
        _log.warning(
            "--environment_cache_millis=%s: not less than the %d ms after which the cluster restarts what failed, so a "
            "worker that dies ends the job",
            portable.environment_cache_millis,
            restart_ms,
        )
