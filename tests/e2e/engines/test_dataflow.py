"""Dataflow, by the job that Beam's own code describes, stages and submits: to a service on loopback that runs it from
what was staged, with a bank in an emulated bucket."""

from __future__ import annotations

import copy
import io
import json
import os
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml
from apache_beam.internal import pickler
from apache_beam.portability.api import beam_runner_api_pb2 as api
from apache_beam.portability.common_urns import primitives, resource_hints
from apache_beam.transforms import DoFn

from noisebank.storage import open_store
from tests.support.dataflow import DataflowService, pickled, read_address, texts_in, unpack
from tests.support.emulators import Emulator
from tests.support.minilm import MINILM
from tests.support.portable import assert_same
from tests.support.projects import Project, Ran

pytestmark = pytest.mark.engines

IMAGE = "europe-docker.pkg.dev/p/images/noisebank:cuda"
L4 = "type:nvidia-l4;count:1;install-nvidia-driver"
MIN_RAM = {"Make clips": 9, "Make captions": 10, "Index": 11, "Make noise/small": 20, "": 8}
"""Gigabytes by the beginning of a step's name; of all others the last."""
SECRETS = {
    name: f"hush-{name}"
    for name in ("AWS_SECRET_ACCESS_KEY", "AZURE_STORAGE_ACCOUNT_KEY", "GOOGLE_BEARER_TOKEN", "HF_TOKEN")
}
ROOT = Path(__file__).parents[3]


class Job(NamedTuple):
    """A job as it was submitted, and the pipeline that was staged."""

    request: dict[str, Any]
    pipeline: api.Pipeline

    @property
    def pool(self) -> dict[str, Any]:
        (pool,) = self.request["environment"]["workerPools"]
        return dict(pool)


class Launch:
    """A project whose bank, list and models are where Dataflow's workers find them."""

    def __init__(self, folder: Path, store: Emulator, service: DataflowService, videos: Path, model: Path) -> None:
        self.store, self.service, self.folder = store, service, folder
        self.models = folder / "image"
        for source, name in ((model, "small"), (Path(MINILM), "minilm")):
            shutil.copytree(source, self.models / name)
        self.project = Project(folder / "launcher", self.models / "small", videos)
        rows = [row._replace(uri=str(videos / Path(row.uri).name)) for row in self.project.rows(2)]
        self.project.write_list([*rows, rows[0]._replace(id="gone", uri="/nowhere/gone.mp4")])
        open_store(f"{store.url}/lists").put("list.csv", (self.project.folder / "list.csv").read_bytes())
        noise = self.project.config["noise"][0] | {"accelerator": L4, "min_ram": "20GB"}
        self.project.configure(
            sources=[self.project.config["sources"][0] | {"path": f"{store.url}/lists/list.csv"}],
            clips=self.project.config["clips"] | {"min_ram": "9GB"},
            captions={"model": str(self.models / "minilm"), "min_ram": "10GB"},
            index={"min_ram": "11GB"},
            noise=[noise],
            max_failed=0.5,
        )

    @property
    def words(self) -> list[str]:
        place = ["--project=p", "--region=europe-west4", f"--temp_location={self.store.url}/tmp"]
        image = [f"--sdk_container_image={IMAGE}", f"--image_models={self.models}"]
        return ["--runner=DataflowRunner", *place, *image, *self.service.words]

    def run(self, bank: str, *words: str) -> Ran:
        return self.project.run("build", "--bank", f"{self.store.url}/{bank}", *self.words, *words)


@pytest.fixture(scope="module")
def launch(
    tmp_path_factory: pytest.TempPathFactory, start_emulator: Callable[[str], Emulator], videos: Path, small_model: Path
) -> Iterator[Launch]:
    pytest.importorskip("google.cloud.dataflow", reason="google-cloud-dataflow-client is not installed: make gcp")
    folder = tmp_path_factory.mktemp("dataflow")
    (folder / "service").mkdir()
    with (
        start_emulator("gs").found() as store,
        DataflowService(folder / "service") as service,
        pytest.MonkeyPatch.context() as patch,
    ):
        patch.setenv("STORAGE_EMULATOR_HOST", f"http://{store.environment['STORAGE_EMULATOR_HOST']}")
        for name, value in SECRETS.items():
            patch.setenv(name, value)
        yield Launch(folder, store, service, videos, small_model)


@pytest.fixture(scope="module")
def ran(launch: Launch) -> Ran:
    """A build that was submitted and is done."""
    return launch.run("bank")


@pytest.fixture(scope="module")
def job(launch: Launch, ran: Ran) -> Job:
    assert ran.exit_code == 0, ran.stderr
    (request,) = launch.service.jobs
    url = request["environment"]["sdkPipelineOptions"]["options"]["pipelineUrl"]
    return Job(request, api.Pipeline.FromString(read_address(url)))


def check(job: Job) -> None:
    """What the request of a build says: the image, one process a machine, and the machines of each stage."""
    request, parts = job.request["environment"], job.pipeline.components
    assert "no_use_multiple_sdk_containers" in request["experiments"]
    assert "use_multiple_sdk_containers" not in request["experiments"]
    assert job.pool["numThreadsPerWorker"] == 1
    used = {step.environment_id for step in parts.transforms.values() if step.environment_id}
    images = {image["environmentId"]: image for image in job.pool["sdkHarnessContainerImages"]}
    assert images.keys() == used
    for image in images.values():
        assert image["containerImage"] == IMAGE
        assert not image.get("useSingleCorePerContainer"), "a process, and so a model, a CPU"
    for name in used:
        docker = api.DockerPayload.FromString(parts.environments[name].payload)
        assert docker.container_image == IMAGE
    seen = set()
    for step in parts.transforms.values():
        if step.spec.urn == primitives.PAR_DO.urn:
            stage = next(stage for stage in MIN_RAM if step.unique_name.startswith(stage))
            stage = "" if "Reshuffle" in step.unique_name or step.unique_name.startswith("Index/Files") else stage
            hints = parts.environments[step.environment_id].resource_hints
            assert hints.get(resource_hints.MIN_RAM_BYTES.urn) == str(MIN_RAM[stage] * 10**9).encode(), step.unique_name
            wanted = L4.encode() if stage == "Make noise/small" else None
            assert hints.get(resource_hints.ACCELERATOR.urn) == wanted, step.unique_name
            seen.add(stage)
    assert seen == MIN_RAM.keys()


def test_a_build_is_submitted_runs_from_what_was_staged_and_makes_the_files_of_a_local_one(
    launch: Launch, ran: Ran
) -> None:
    assert ran.exit_code == 0, ran.stderr
    assert (ran.document["committed"], ran.document["rows"]["in_bank"]) == (True, 2)
    assert ran.document["failed_by_code"] == {"missing_file": 1}
    launch.project.build("--bank", f"{launch.store.url}/local")
    assert_same([f"{launch.store.url}/bank", f"{launch.store.url}/local"])


def test_the_request_has_the_image_one_process_a_machine_and_machines_for_each_stage(job: Job) -> None:
    check(job)


def lose_hint(urn: str) -> Callable[[Job], None]:
    def lose(job: Job) -> None:
        for environment in job.pipeline.components.environments.values():
            environment.resource_hints.pop(urn, None)

    return lose


def lose_image(job: Job) -> None:
    job.request["environment"]["workerPools"][0]["sdkHarnessContainerImages"][0]["containerImage"] = "beam"


def lose_staged_image(job: Job) -> None:
    for environment in job.pipeline.components.environments.values():
        environment.payload = api.DockerPayload(container_image="beam").SerializeToString()


def gain_processes(job: Job) -> None:
    job.request["environment"]["workerPools"][0]["sdkHarnessContainerImages"][0]["useSingleCorePerContainer"] = True


def lose_experiment(job: Job) -> None:
    job.request["environment"]["experiments"].remove("no_use_multiple_sdk_containers")


@pytest.mark.parametrize(
    "change",
    [
        lose_hint(resource_hints.ACCELERATOR.urn),
        lose_hint(resource_hints.MIN_RAM_BYTES.urn),
        lose_image,
        lose_staged_image,
        gain_processes,
        lose_experiment,
    ],
)
def test_a_request_that_lacks_one_of_these_is_noticed(job: Job, change: Callable[[Job], None]) -> None:
    changed = copy.deepcopy(job)
    change(changed)
    with pytest.raises(AssertionError):
        check(changed)


def test_every_function_unpickles_and_has_neither_a_secret_nor_a_path_of_the_launcher(launch: Launch, job: Job) -> None:
    texts = [json.dumps(job.request), job.pipeline.SerializeToString().decode("latin-1")]
    functions = 0
    for _, payload in pickled(job.pipeline):
        texts += texts_in(payload)
        if unpack(payload):
            loaded = pickler.loads(payload)
            functions += isinstance(loaded, tuple) and isinstance(loaded[0], DoFn)
    assert functions > 40
    assert any(f"{launch.models}/small" in text for text in texts[2:]), "the model's path in the image is not seen"
    for text in texts:
        for secret in SECRETS.values():
            assert secret not in text
        left = text.replace(str(launch.models), "")
        assert str(launch.folder) not in left, text[:2000]


@pytest.mark.parametrize("way", ["--dry_run", "--template_location={}/templates/job"])
def test_a_job_that_is_only_described_ends_well_and_says_what_was_written(launch: Launch, way: str) -> None:
    submitted = len(launch.service.jobs)
    ran = launch.run("described", way.format(launch.store.url))
    assert ran.exit_code == 0, ran.stderr
    assert len(launch.service.jobs) == submitted
    written = "nothing was written" if way == "--dry_run" else f"{launch.store.url}/templates/job was written"
    assert written in ran.document["left"] and "nothing" in ran.document["left"]
    if way != "--dry_run":
        assert json.loads(read_address(f"{launch.store.url}/templates/job"))["environment"]["workerPools"]
    assert not list(open_store(f"{launch.store.url}/described").list("snapshots"))


def test_a_flex_launch_reads_its_configuration_from_a_bucket_and_writes_the_job(launch: Launch, tmp_path: Path) -> None:
    store = launch.store.url
    document = yaml.safe_dump(launch.project.config | {"bank": f"{store}/flex"}).encode()
    open_store(f"{store}/flex-launch").put("bank.yaml", document)
    words = [f"--config={store}/flex-launch/bank.yaml", f"--template_location={store}/flex-launch/job", *launch.words]
    command = [sys.executable, str(ROOT / "pipelines/build.py"), *words]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    launched = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert launched.returncode == 0, launched.stderr
    assert f"{store}/flex-launch/job was written" in launched.stdout
    options = json.loads(read_address(f"{store}/flex-launch/job"))["environment"]["sdkPipelineOptions"]["options"]
    assert options["sdk_container_image"] == IMAGE


def test_a_set_up_file_brings_the_code_of_the_launching_machine(launch: Launch, tmp_path: Path) -> None:
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, tmp_path)
    for name in ("noisebank", "schemas", "transforms", "pipelines", "runners"):
        shutil.copytree(ROOT / name, tmp_path / name)
    template = f"{launch.store.url}/set-up/job"
    ran = launch.run("set-up", f"--setup_file={tmp_path / 'setup.py'}", f"--template_location={template}")
    assert ran.exit_code == 0, ran.stderr
    job = json.loads(read_address(template))
    packages = {one["name"]: one["location"] for one in job["environment"]["workerPools"][0]["packages"]}
    staged = read_address(packages["workflow.tar.gz"].replace("storage.googleapis.com/", "gs://"))
    with tarfile.open(fileobj=io.BytesIO(staged)) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert {"noisebank/options.py", "transforms/shards.py", "runners/flex/__init__.py"} <= names


def test_a_job_that_fails_says_what_its_worker_said(launch: Launch) -> None:
    source = launch.project.config["sources"][0] | {"path": f"{launch.store.url}/lists/none.csv"}
    ran = launch.run("failing", f"--sources={json.dumps([source])}")
    assert ran.exit_code == 2
    message = f"source mine: path '{launch.store.url}/lists/none.csv': no such file"
    assert ran.document["error"] == {"type": "ConfigError", "message": message, "exit_code": 2}
