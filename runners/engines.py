"""The engines by the short names of Beam's runners."""

from __future__ import annotations

from collections.abc import Sequence

from runners.clusters import ClusterEngine, SparkEngine
from runners.dataflow import DataflowEngine
from runners.engine import Engine
from runners.flink import FlinkEngine
from runners.local import LocalEngine
from runners.options import beam_options, name_runner

ENGINES: dict[str, type[Engine]] = {
    "fnapi": LocalEngine,
    "flink": FlinkEngine,
    "spark": SparkEngine,
    "portable": ClusterEngine,
    "dataflow": DataflowEngine,
}


def find_engine(words: Sequence[str]) -> Engine:
    """The engine that command-line words ask for, by default this machine's.

    Args:
        words: that are Beam's.

    Raises:
        ConfigError: a word is no option of Beam's.
    """
    options = beam_options(words)
    return ENGINES.get(name_runner(options), Engine)(options, words)
