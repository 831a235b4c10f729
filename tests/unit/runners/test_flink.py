"""What a job on Flink is checked for before anything starts, and what is set where nobody says it. The cluster is its
REST API on loopback, with answers of a real one."""

from __future__ import annotations

import json
import logging
from typing import Any

import pytest
from apache_beam.options.pipeline_options import FlinkRunnerOptions, PortableOptions

from noisebank.errors import ConfigError
from runners.engine import Engine, Needs
from runners.engines import find_engine
from runners.flink_cluster import ask_cluster, parse_duration
from tests.support.emulators import free_port
from tests.support.projects import Project
from tests.support.servers import AnyMethodHandler, LoopbackServer

ELSEWHERE = ["--runner=PortableRunner", "--job_endpoint=flink.example:8099"]


class RestApi(LoopbackServer):
    """Answers for a cluster of two TaskManagers with three slots each."""

    def __init__(self, version: str = "1.19.0", **settings: str) -> None:
        overview = {"taskmanagers": 2, "slots-total": 6, "slots-available": 6, "flink-version": version}
        named = [
            {"key": f"restart-strategy.{key.replace('_', '-')}", "value": value} for key, value in settings.items()
        ]
        self.answers = {"/overview": overview, "/jobmanager/config": named}
        super().__init__(_Handler)


class _Handler(AnyMethodHandler):
    def answer_any(self) -> None:
        body = json.dumps(self.server.owner.answers[self.path]).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


def prepare(api: RestApi, *words: str, **needs: Any) -> Engine:
    """The engine of a job, prepared for it."""
    with api:
        engine = find_engine(["--runner=FlinkRunner", f"--flink_master={api.url}", *words])
        engine.prepare(Needs(**needs))
    return engine


def settings_of(engine: Engine) -> tuple[Any, ...]:
    flink, portable = engine.options.view_as(FlinkRunnerOptions), engine.options.view_as(PortableOptions)
    workers = (int(portable.sdk_worker_parallelism), int(portable.environment_cache_millis))
    return flink.parallelism, *workers, portable.environment_type, flink.flink_version


def test_what_nobody_says_is_set_by_what_the_cluster_says() -> None:
    api = RestApi(type="fixed-delay", **{"fixed_delay.delay": "10 s"})
    engine = prepare(api)
    assert settings_of(engine) == (6, 3, 6000, "LOOPBACK", "1.19")
    assert engine.options.get_all_options(retain_unknown_options=True)["execution_mode_for_batch"] == "BATCH"


def test_what_is_said_stands() -> None:
    api = RestApi(type="fixed-delay", **{"fixed_delay.delay": "10 s"})
    words = ["--parallelism=2", "--sdk_worker_parallelism=1", "--environment_cache_millis=0", "--flink_version=2.1"]
    assert settings_of(prepare(api, *words)) == (2, 1, 0, "LOOPBACK", "2.1")


def test_a_process_a_slot_unless_a_gpu_may_be_wanted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("runners.flink_defaults.count_gpus", lambda: 2)
    for on_gpu, processes in (({}, 3), ({"modelscope": ""}, 2)):
        assert settings_of(prepare(RestApi(), on_gpu=on_gpu))[1] == processes


@pytest.mark.parametrize(
    ("settings", "words", "warning"),
    [
        ({}, [], "the cluster restarts nothing: a worker that dies ends the job"),
        ({"type": "none"}, [], "the cluster restarts nothing"),
        ({"type": "fixed-delay"}, ["--environment_cache_millis=1000"], "not less than the 1000 ms after which"),
        ({"type": "exponential-delay"}, ["--parallelism=7"], "--parallelism=7: the cluster has 6 slots"),
    ],
    ids=["no strategy", "none", "kept too long", "too few slots"],
)
def test_what_a_job_would_not_survive_is_said(
    caplog: pytest.LogCaptureFixture, settings: dict[str, str], words: list[str], warning: str
) -> None:
    with caplog.at_level(logging.WARNING, "runners"):
        prepare(RestApi(**settings), *words)
    (record,) = caplog.records
    assert warning in record.getMessage()


def test_a_restart_delay_that_workers_are_forgotten_within_is_no_warning(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "runners"):
        assert settings_of(prepare(RestApi(type="failure-rate")))[2] == 600
    assert not caplog.records


@pytest.mark.parametrize(
    ("text", "milliseconds"),
    [("8 s", 8000), ("500ms", 500), ("1 min", 60_000), ("2 h", 7_200_000), ("750", 750), ("10 sec", 10_000)],
)
def test_durations_as_flink_writes_them(text: str, milliseconds: int) -> None:
    assert parse_duration(text) == milliseconds


def test_an_address_without_a_cluster_is_refused(project: Project) -> None:
    project.write_list(project.rows(1))
    master = f"localhost:{free_port()}"
    ran = project.run("build", "--runner=FlinkRunner", f"--flink_master={master}")
    assert ran.exit_code == 2 and not project.bank.exists()
    assert f"--flink_master: no Flink cluster answers at http://{master}/overview within 8 s" in ran.stderr


def test_a_cluster_of_a_version_without_a_job_server_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"runs Flink 1\.17\.2, and this Beam has job servers for 1\.19, .*_jar"):
        prepare(RestApi("1.17.2"))
    with RestApi("1.17.2") as api:
        assert ask_cluster(api.url).slots == 6


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("--flink_job_server_jar=missing.jar", "--flink_job_server_jar: missing.jar: no such file"),
        ("--job_server_java_launcher=no-java", "no-java is not there, which its job server needs; install a JDK"),
        ("--environment_type=EXTERNAL", "--environment_config: '' is no address"),
        (f"--job_endpoint=localhost:{free_port()}", "--job_endpoint: no job server answers"),
    ],
    ids=["jar", "java", "pool", "server"],
)
def test_what_is_missing_on_this_machine_is_named(word: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message.replace("(", r"\(")):
        prepare(RestApi(), word)


def test_a_worker_pool_that_does_not_listen_is_named() -> None:
    pool = f"localhost:{free_port()}"
    with pytest.raises(ConfigError, match=rf"nobody answers at {pool} .*; start a worker pool there: python -m "):
        prepare(RestApi(), "--environment_type=EXTERNAL", f"--environment_config={pool}")


@pytest.mark.parametrize("word", ["--environment_type=LOOPBACK", "--environment_type=DOCKER", "--parallelism=1"])
def test_a_cluster_elsewhere_needs_workers_that_have_noisebank(word: str) -> None:
    engine = find_engine([*ELSEWHERE, word])
    with pytest.raises(ConfigError, match=r"flink\.example:8099 .* use --environment_type=EXTERNAL .*worker_pool"):
        engine.find_workers(Needs())  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    "word", ["--environment_config=registry.example/noisebank", "--sdk_container_image=registry.example/noisebank"]
)
def test_a_cluster_elsewhere_takes_an_image(word: str) -> None:
    engine = find_engine([*ELSEWHERE, "--environment_type=DOCKER", word])
    engine.find_workers(Needs(only_gpu=["modelscope"]))  # type: ignore[attr-defined]


def test_a_stage_that_must_have_a_gpu_is_refused_where_workers_here_have_none(project: Project) -> None:
    project.write_list(project.rows(1))
    with RestApi() as api:
        words = ["--runner=FlinkRunner", f"--flink_master={api.url}", "--noise.small.device=cuda"]
        ran = project.run("build", *words)
    assert ran.exit_code == 2 and not project.bank.exists()
    assert "noise.small.device: cuda, and torch sees no GPU here, where the workers are" in ran.stderr


def test_a_portable_runner_without_a_job_server_is_refused() -> None:
    with pytest.raises(ConfigError, match="--job_endpoint=HOST:PORT of a job server is wanted"):
        find_engine(["--runner=PortableRunner"]).prepare(Needs())


def test_a_word_that_nobody_knows_is_refused_by_a_job_server_too() -> None:
    with pytest.raises(ConfigError, match="--job_endpoint: no job server answers"):
        find_engine(["--runner=PortableRunner", f"--job_endpoint=localhost:{free_port()}", "--sharpness=3"])
