"""The launch file of a Flink cluster in containers, and the settings that the documentation recommends: what can be
said of them without containers."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

from runners.flink_cluster import parse_duration
from runners.flink_defaults import CACHE_MS

ROOT = Path(__file__).parents[3]
LAUNCH = ROOT / "runners/containers/flink.compose.yaml"


def services() -> dict[str, Any]:
    document: dict[str, Any] = yaml.safe_load(LAUNCH.read_text())["services"]
    return document


def settings() -> dict[str, Any]:
    (text,) = {
        service["environment"]["FLINK_PROPERTIES"] for service in services().values() if "environment" in service
    }
    found: dict[str, Any] = yaml.safe_load(text)
    return found


def test_every_task_manager_has_a_worker_pool_in_its_network() -> None:
    managers = {f"service:{name}" for name, service in services().items() if service.get("command") == "taskmanager"}
    pools = [service for service in services().values() if service["image"] == "noisebank"]
    assert sorted(pool["network_mode"] for pool in pools) == sorted(managers)
    assert all(pool["entrypoint"] == ["python", "-m", "runners.worker_pool"] for pool in pools)
    assert (ROOT / "runners/worker_pool.py").exists()


def test_what_failed_is_tried_again_after_dead_workers_are_forgotten() -> None:
    assert parse_duration(settings()["restart-strategy.fixed-delay.delay"]) > CACHE_MS


def test_the_documentation_recommends_the_settings_of_the_launch_file() -> None:
    (block,) = re.findall(r"```yaml\n(restart-strategy.*?)```", (ROOT / "docs/engines/flink.md").read_text(), re.DOTALL)
    recommended = {key: value for key, value in yaml.safe_load(block).items() if key != "io.tmp.dirs"}
    assert recommended.items() <= settings().items()
