"""What a Flink cluster says of itself by its REST API: its version, its slots, and how it restarts what failed."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any
from urllib.error import URLError
from urllib.request import ProxyHandler, build_opener

from noisebank.errors import ConfigError

WAIT_S = 8.0
_DELAYS = {
    "fixed-delay": "fixed-delay.delay",
    "failure-rate": "failure-rate.delay",
    "exponential-delay": "exponential-delay.initial-backoff",
}
"""By the type of a restart strategy, the setting that says how long it waits."""
_UNITS = {"ms": 1, "s": 1000, "min": 60_000, "h": 3_600_000, "d": 86_400_000}


@dataclass(frozen=True)
class FlinkCluster:
    """A cluster.

    Args:
        version: of Flink.
        managers: how many TaskManagers it has.
        slots: how many they have in all.
        restart_ms: milliseconds before it restarts what failed; 0 where it restarts nothing.
    """

    version: str
    managers: int
    slots: int
    restart_ms: int


def ask_cluster(address: str) -> FlinkCluster:
    """What the cluster at an address says of itself.

    Args:
        address: of its JobManager, as ``--flink_master`` gives it.

    Raises:
        ConfigError: no cluster answers there.
    """
    url = address if "://" in address else f"http://{address}"
    overview = _get(url, "/overview")
    settings = {entry["key"]: entry["value"] for entry in _get(url, "/jobmanager/config")}
    kind = settings.get("restart-strategy.type") or settings.get("restart-strategy") or "none"
    delay = settings.get(f"restart-strategy.{_DELAYS[kind]}", "1 s") if kind in _DELAYS else "0"
    return FlinkCluster(
        overview["flink-version"], overview["taskmanagers"], overview["slots-total"], parse_duration(delay)
    )


def parse_duration(text: str) -> int:
    """Milliseconds of a duration as Flink writes it: ``8 s``, ``500ms``, ``1 min``; 1000 for what is none."""
    match = re.fullmatch(r"\s*(\d+)\s*(ms|s|min|h|d)?[a-z]*\s*", text.lower())
    return int(match[1]) * _UNITS[match[2] or "ms"] if match else 1000


def _get(url: str, path: str) -> Any:
    try:
        with build_opener(ProxyHandler({})).open(f"{url.rstrip('/')}{path}", timeout=WAIT_S) as answer:
            return json.loads(answer.read())
    except (OSError, ValueError) as error:
        reason = error.reason if isinstance(error, URLError) else error
        raise ConfigError(
            f"--flink_master: no Flink cluster answers at {url}{path} within {WAIT_S:g} s ({reason}); start it, or "
            "name host and port of its REST API"
        ) from error
