"""Where a job may run: workers on other machines must be able to read the bank and the lists."""

from __future__ import annotations

import logging
from pathlib import Path

import apache_beam as beam
import pytest

from noisebank.errors import ConfigError, JobFailed
from noisebank.options import CaptionOptions, Config, NoiseOptions
from pipelines.jobs import find_needs, run_pipeline
from runners.engines import find_engine
from tests.support.projects import Project

DATAFLOW = ("--runner=DataflowRunner", "--project=p", "--region=europe-west4", "--temp_location=gs://bucket/tmp")


@pytest.mark.parametrize(
    ("words", "elsewhere"),
    [
        ((), False),
        (("--runner=DirectRunner",), False),
        (("--runner=PrismRunner",), False),
        (DATAFLOW, True),
        (("--runner", "dataflow"), True),
        (("--runner=FlinkRunner",), False),
        (("--runner=FlinkRunner", "--flink_master=[local]"), False),
        (("--runner=FlinkRunner", "--flink_master=localhost:8081"), False),
        (("--runner=FlinkRunner", "--flink_master=flink.internal:8081"), True),
        (("--runner=flink", "--flink_master=http://10.0.0.7:8081"), True),
        (("--runner=SparkRunner",), False),
        (("--runner=SparkRunner", "--spark_master_url=spark://host:7077"), True),
        (("--runner=PortableRunner", "--job_endpoint=localhost:8099"), False),
        (("--runner=PortableRunner", "--job_endpoint=jobs.internal:8099"), True),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_which_workers_run_on_other_machines(words: tuple[str, ...], elsewhere: bool) -> None:
    assert find_engine(words).runs_elsewhere == elsewhere


def test_dataflow_takes_no_local_path() -> None:
    engine = find_engine(DATAFLOW)
    engine.check_addresses(["gs://me/bank", "https://host.example/list.csv", "s3://b/x", "az://c/y"])
    for address in ("./bank", "/mnt/bank", "file:///mnt/bank", "memory://bank"):
        with pytest.raises(ConfigError, match=f"{address}: workers on other machines .* gs://, s3:// or az://"):
            engine.check_addresses(["gs://me/bank", address])


def test_a_cluster_may_share_a_mounted_folder_with_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    engine = find_engine(["--runner=FlinkRunner", "--flink_master=flink.internal:8081"])
    with caplog.at_level(logging.WARNING, "runners"):
        engine.check_addresses(["/mnt/bank", "gs://me/list.csv"])
    assert [record.getMessage().split(":")[0] for record in caplog.records] == ["/mnt/bank"]
    with pytest.raises(ConfigError, match="memory://bank"):
        engine.check_addresses(["memory://bank"])
    find_engine([]).check_addresses(["memory://bank", "./bank"])
    with pytest.raises(ConfigError, match="memory://bank: workers in other processes"):
        find_engine(["--direct_running_mode=multi_processing"]).check_addresses(["./bank", "memory://bank"])
    assert len(caplog.records) == 1


def test_models_in_local_folders_are_told_to_be_wanted_on_the_workers_too(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    models = [str(tmp_path), "sentence-transformers/all-MiniLM-L6-v2"]
    with caplog.at_level(logging.WARNING, "runners"):
        find_engine([]).check_models(models)
        assert not caplog.records
        find_engine(["--runner=FlinkRunner", "--flink_master=flink.internal:8081"]).check_models(models)
    (said,) = [record.getMessage() for record in caplog.records]
    assert said.startswith(f"{tmp_path}: workers on other machines load this")


@pytest.mark.parametrize(
    ("command", "loaded"),
    [("build", ["captions", "noise", "adapter"]), ("captions", ["captions"]), ("noise", ["noise", "adapter"])]
    + [(command, []) for command in ("clips", "index", "commit")],
)
def test_which_models_the_workers_of_a_stage_load(command: str, loaded: list[str]) -> None:
    noise = (NoiseOptions(model="noise", motion_adapter="adapter"),)
    assert find_needs(Config(captions=CaptionOptions(model="captions"), noise=noise), command).models == loaded


@pytest.mark.parametrize("command", ["build", "clips", "noise"])
def test_a_bank_or_list_that_workers_cannot_read_is_a_usage_error(project: Project, command: str) -> None:
    project.write_list(project.rows(1))
    ran = project.run(command, *DATAFLOW)
    assert ran.exit_code == 2 and f"{project.bank}: workers on other machines" in ran.document["error"]["message"]
    ran = project.run(command, *DATAFLOW, "--bank=gs://me/bank")
    assert ran.exit_code == 2 and f"{project.folder / 'list.csv'}: workers" in ran.document["error"]["message"]
    assert not project.bank.exists()


def test_plan_runs_here_alone(project: Project) -> None:
    project.write_list(project.rows(1))
    ran = project.run("plan", *DATAFLOW)
    assert ran.exit_code == 2 and "leave out --runner" in ran.document["error"]["message"]


def test_plan_is_refused_what_a_build_is(project: Project) -> None:
    project.write_list(project.rows(1))
    for command in ("plan", "build"):
        ran = project.run(command, "--runner=PortableRunner")
        assert ran.exit_code == 2 and "--job_endpoint=HOST:PORT" in ran.document["error"]["message"]
    assert not project.bank.exists()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--dry_run"], "'noisebank plan' says what a build would do"),
        (["--template_location=gs://b/t"], "only a job of Dataflow's"),
        (["--dry_run=false"], "'false' is not allowed"),
    ],
)
def test_an_engine_that_can_only_run_a_job_is_not_asked_for_its_description(
    project: Project, words: list[str], said: str
) -> None:
    ran = project.run("build", *words)
    assert ran.exit_code == 2 and said in ran.document["error"]["message"]
    assert not project.bank.exists()


@pytest.mark.parametrize("words", [[], ["--direct_running_mode=multi_processing"]], ids=["here", "in a worker"])
def test_what_nobody_foresaw_is_told_in_one_line(words: list[str]) -> None:
    with pytest.raises(JobFailed) as raised:
        run_pipeline(find_engine(words), lambda p: p | beam.Create([0]) | beam.Map(lambda zero: 1 // zero))
    assert str(raised.value) == "the job failed: ZeroDivisionError: integer division or modulo by zero"
