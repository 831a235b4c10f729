"""Dataflow: what is refused before a job is described, and what is asked for where nobody says anything."""

from __future__ import annotations

import logging
from pathlib import Path

import apache_beam as beam
import pytest
from apache_beam.options.pipeline_options import DebugOptions, StandardOptions
from apache_beam.portability.common_urns import resource_hints

from noisebank.config import config_from_mapping
from noisebank.errors import ConfigError
from pipelines.graph import build_pipeline
from runners.engine import Needs
from runners.engines import find_engine

PLACE = ("--project=p", "--region=europe-west4", "--temp_location=gs://bucket/tmp")
IMAGE = "--sdk_container_image=europe-docker.pkg.dev/p/images/noisebank:cuda"
L4 = "type:nvidia-l4;count:1;install-nvidia-driver"
BANK = "gs://bucket/bank"


def prepare(*words: str, **needs: object) -> DebugOptions:
    engine = find_engine(["--runner=DataflowRunner", *words])
    engine.prepare(Needs(**{"addresses": [BANK], **needs}))  # type: ignore[arg-type]
    return engine.options.view_as(DebugOptions)


@pytest.mark.parametrize(
    ("words", "needs", "said"),
    [
        ((IMAGE, *PLACE[1:]), {}, "--project: Dataflow needs it"),
        ((IMAGE, PLACE[0], PLACE[2]), {}, "--region: Dataflow needs it"),
        ((IMAGE, *PLACE[:2]), {}, "--temp_location: Dataflow needs it"),
        ((IMAGE, *PLACE[:2], "--temp_location=/tmp/x"), {}, "--temp_location: '/tmp/x' is not allowed"),
        ((IMAGE, *PLACE, "--staging_location=gs://bucket"), {}, "--staging_location: 'gs://bucket' is not allowed"),
        (PLACE, {}, "--sdk_container_image: Dataflow's own image has no noisebank"),
        ((*PLACE, "--setup_file=./setup.py"), {}, "--requirements_file: Dataflow's own image lacks the libraries"),
        ((IMAGE, *PLACE, "--setup_file=no/setup.py"), {}, "--setup_file: no/setup.py: no such file"),
        ((IMAGE, *PLACE), {"addresses": ["./bank"]}, "./bank: workers on other machines cannot read it"),
        ((IMAGE, *PLACE), {"models": ["/home/me/model"]}, "/home/me/model: a folder of this machine"),
        ((IMAGE, *PLACE), {"models": ["/models/../home/me"]}, "/models/../home/me: a folder of this machine"),
        ((IMAGE, *PLACE), {"models": ["./model"]}, "./model: a folder of this machine"),
        (
            (IMAGE, *PLACE, "--image_models=/opt/m"),
            {"models": ["/models/a"]},
            "have the model in /opt/m of their image",
        ),
        ((IMAGE, *PLACE), {"on_gpu": {"small": ""}}, "noise.small.accelerator: Dataflow gives a stage a GPU where"),
        ((IMAGE, *PLACE), {"on_gpu": {"small": "nvidia-l4"}}, "noise.small.accelerator: 'nvidia-l4' is not allowed"),
        ((IMAGE, *PLACE), {"on_gpu": {"a": "type:nvidia-l4;count:2"}}, "one process, which uses one GPU: count:1"),
        ((IMAGE, *PLACE, "--dry_run"), {"may_wait": False}, "a build or one of its stages can be described alone"),
        ((IMAGE, *PLACE, "--flexrs_goal=COST_OPTIMIZED"), {}, "--flexrs_goal: COST_OPTIMIZED cannot go"),
        ((IMAGE, *PLACE, "--dataflow_service_options=worker_accelerator=type:nvidia-l4;count:1"), {}, "every machine"),
    ],
)
def test_what_cannot_run_on_dataflow_is_refused_by_its_name(
    monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...], needs: dict[str, object], said: str
) -> None:
    monkeypatch.delenv("CLOUDSDK_COMPUTE_REGION", raising=False)
    with pytest.raises(ConfigError) as refused:
        prepare(*words, **needs)
    assert said in str(refused.value)


@pytest.mark.parametrize(
    "address",
    [
        "https://me:hush@host.example/list.csv",
        "https://host.example/list.csv?X-Amz-Credential=hush&X-Amz-Signature=hush",
        "https://host.example/list.csv?download=true&access_token=hush",
        "https://account.blob.example/list.csv?sv=2024&sig=hush",
    ],
)
def test_an_address_with_a_credential_is_refused_without_repeating_it(address: str) -> None:
    with pytest.raises(ConfigError, match=r"^https://[a-z.]+/list.csv: a credential in this address") as refused:
        prepare(IMAGE, *PLACE, addresses=[BANK, address])
    assert "hush" not in str(refused.value)


def test_one_process_and_one_shard_at_a_time_on_a_machine_unless_the_user_says_otherwise(tmp_path: Path) -> None:
    pytest.importorskip("google.cloud.dataflow", reason="google-cloud-dataflow-client is not installed: make gcp")
    (tmp_path / "setup.py").touch()
    installed = (f"--setup_file={tmp_path / 'setup.py'}", "--requirements_file=constraints.txt")
    for words, experiments, threads in [
        ((IMAGE,), ["no_use_multiple_sdk_containers"], 1),
        ((*installed, "--number_of_worker_harness_threads=3"), ["no_use_multiple_sdk_containers"], 3),
        ((IMAGE, "--experiments=use_multiple_sdk_containers"), ["use_multiple_sdk_containers"], None),
    ]:
        debug = prepare(*PLACE, *words, models=["/models/small", "hub/id"], on_gpu={"small": L4})
        assert (debug.experiments, debug.number_of_worker_harness_threads) == (experiments, threads)
    for words, hints in [((), ["min_ram=8GB"]), (("--resource_hint=min_ram=4GB",), ["min_ram=4GB"])]:
        debug = prepare(*PLACE, IMAGE, *words)
        assert debug.view_as(StandardOptions).resource_hints == hints


def test_models_that_each_worker_would_download_are_told(caplog: pytest.LogCaptureFixture) -> None:
    engine = find_engine(["--runner=DataflowRunner", *PLACE, "--setup_file=setup.py"])
    with caplog.at_level(logging.WARNING, "runners"):
        engine.check_models(["/models/small", "hub/id"])
        find_engine(["--runner=DataflowRunner", *PLACE, IMAGE]).check_models(["hub/id"])
    assert [record.getMessage() for record in caplog.records] == [
        "hub/id: every worker downloads this model; an image can have it (docs/engines/dataflow.md)"
    ]


@pytest.mark.parametrize("fit", [False, True])
def test_only_an_engine_that_fits_machines_to_stages_is_told_their_memory(fit: bool) -> None:
    noise = [{"name": "cpu", "device": "cpu"}, {"name": "gpu", "accelerator": L4, "min_ram": "32GB"}]
    document = {"bank": BANK, "sources": [{"kind": "webvid", "path": "gs://b/list.csv"}], "noise": noise}
    pipeline = beam.Pipeline()
    config = config_from_mapping(document, {"index.min_ram": "12GB"})
    build_pipeline(pipeline, config, run_id="run", fit_machines=fit)
    parts = pipeline.to_runner_api().components
    found = {}
    for step in parts.transforms.values():
        hints = parts.environments[step.environment_id].resource_hints if step.environment_id else {}
        memory, gpu = (
            hints.get(urn, b"").decode() for urn in (resource_hints.MIN_RAM_BYTES.urn, resource_hints.ACCELERATOR.urn)
        )
        if memory or gpu:
            name = step.unique_name.split("/RunInference")[0].partition("/FlatMap")[0]
            found[name] = (int(memory or 0) // 10**9, gpu)
    memory_of = {"Make clips": 8, "Make captions": 8, "Index/Build": 12, "Make noise/cpu": 16, "Make noise/gpu": 32}
    expected = {name: (memory, "") for name, memory in memory_of.items()} if fit else {}
    assert found == expected | {"Make noise/gpu": (32 if fit else 0, L4)}
