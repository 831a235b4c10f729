"""Google Cloud Dataflow: workers on machines that it starts for the job, fitted to what each stage needs; what cannot
run there is refused before anything is read, staged or paid for."""

from __future__ import annotations

import importlib.util
import logging
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath

from apache_beam.options.pipeline_options import (
    DebugOptions,
    GoogleCloudOptions,
    SetupOptions,
    StandardOptions,
    TestOptions,
    WorkerOptions,
)
from apache_beam.pipeline import Pipeline
from apache_beam.portability.common_urns import protocols
from apache_beam.runners.dataflow import dataflow_runner
from apache_beam.transforms.environments import DockerEnvironment

from noisebank.errors import ConfigError
from runners.engine import Engine, Needs
from runners.options import DataflowOptions

MIN_RAM = "min_ram=8GB"
"""Of the machines of steps that do not say it themselves: as of the stages on CPUs, whose machines they then share."""
ONE_PROCESS, MANY_PROCESSES = "no_use_multiple_sdk_containers", "use_multiple_sdk_containers"
_ACCELERATOR = re.compile(r"type:[a-z0-9-]+;count:(?P<count>[1-9][0-9]*)(;[^;]+)*")
_CREDENTIAL = re.compile(
    r"://[^/?#]*@|[?&](x-(amz|goog)-[^=]*|sig|signature|([^=&]*[-_])?(token|key|apikey|password|secret))=", re.I
)
_PAGE = "docs/engines/dataflow.md"
_log = logging.getLogger(__name__)


class DataflowRunner(dataflow_runner.DataflowRunner):  # (Beam goes by this name)
    """Beam's own, which says of the workers' image besides that one process of it uses all CPUs of a machine."""

    def _adjust_pipeline_for_dataflow_v2(self, pipeline: Pipeline) -> None:
        """What Beam does last before it describes the job."""
        super()._adjust_pipeline_for_dataflow_v2(pipeline)
        image: DockerEnvironment = self._default_environment
        self._default_environment = DockerEnvironment(
            image.container_image,
            capabilities=[*image.capabilities(), protocols.MULTI_CORE_BUNDLE_PROCESSING.urn],
            artifacts=image.artifacts(),
            resource_hints=image.resource_hints(),
        )


class DataflowEngine(Engine):
    """Dataflow."""

    @property
    def runs_elsewhere(self) -> bool:
        """Always."""
        return True

    @property
    def takes_paths(self) -> bool:
        """Never: its workers mount nothing."""
        return False

    @property
    def fits_machines(self) -> bool:
        """Always: this is Dataflow's right fitting."""
        return True

    @property
    def leaves(self) -> str:
        """The job's description, where it is only written, as a Flex launch does; or that it is only put together."""
        template = self.options.view_as(GoogleCloudOptions).template_location
        if self.options.view_as(TestOptions).dry_run:
            return "a dry run: the job can be put together; nothing was written and nothing submitted"
        if template:
            return (
                f"{template} was written, the description of this one job, to be launched once; nothing was submitted"
            )
        return ""

    def prepare(self, needs: Needs) -> None:
        """Sets what nobody said: one process and one shard at a time on a machine, and memory for every step.

        Raises:
            ConfigError: as any engine; also where project, region or a place for files is not said, the code cannot get
                to the workers, a stage that may want a GPU has none, or an option cannot go with fitted machines.
        """
        self._check_place()
        super().prepare(needs)
        self._check_code(needs)
        self._check_fitting()
        self._check_gpus(needs.on_gpu)
        debug, standard = self.options.view_as(DebugOptions), self.options.view_as(StandardOptions)
        if not self._has_many_processes:
            debug.experiments = [*(debug.experiments or []), ONE_PROCESS]
            debug.number_of_worker_harness_threads = debug.number_of_worker_harness_threads or 1
        if not any(hint.startswith("min_ram=") for hint in standard.resource_hints):
            standard.resource_hints = [*standard.resource_hints, MIN_RAM]
        if not _has_clients():
            raise ConfigError("DataflowRunner: Google's clients are not installed; pip install 'noisebank[gcp]'")

    def runner(self) -> DataflowRunner | None:
        """Beam's, where a process a CPU is asked for; else ours."""
        return None if self._has_many_processes else DataflowRunner()

    def check_addresses(self, addresses: Sequence[str]) -> None:
        """Also refuses credentials in addresses, which would stand in the job's description for all to read."""
        super().check_addresses(addresses)
        for address in filter(_CREDENTIAL.search, addresses):
            shown = re.sub(r"://[^/?#]*@", "://", address).partition("?")[0]
            raise ConfigError(
                f"{shown}: a credential in this address would stand in the description of the job, for all who may see "
                "the project's jobs; give the workers' service account access, or copy the list to a bucket"
            )

    def check_models(self, models: Sequence[str]) -> None:
        """Refuses folders of this machine: workers have what is in their image, and this machine the same path for the
        models to be identified by. Warns of models that workers would download."""
        folder = PurePosixPath(self.options.view_as(DataflowOptions).image_models)
        for model in models:
            if model.startswith((".", "~")) or Path(model).is_absolute() or Path(model).is_dir():
                if folder not in PurePosixPath(model).parents or ".." in PurePosixPath(model).parts:
                    raise ConfigError(
                        f"{model}: a folder of this machine, which workers do not have; have the model in {folder} of "
                        f"their image and here, or name another folder by --image_models ({_PAGE})"
                    )
            elif not self._image:
                _log.warning("%s: every worker downloads this model; an image can have it (%s)", model, _PAGE)

    @property
    def _image(self) -> str:
        return self.options.view_as(WorkerOptions).sdk_container_image or ""

    @property
    def _has_many_processes(self) -> bool:
        """Whether a process a CPU is asked for, as Beam would have it."""
        return MANY_PROCESSES in (self.options.view_as(DebugOptions).experiments or [])

    def _check_place(self) -> None:
        google = self.options.view_as(GoogleCloudOptions)
        wanted = {
            "project": (google.project, "the Google Cloud project that pays, such as my-project"),
            "region": (google.region or os.environ.get("CLOUDSDK_COMPUTE_REGION"), "such as europe-west4"),
            "temp_location": (google.temp_location, "a folder for temporary files, such as gs://my-bucket/tmp"),
        }
        for name, (value, what) in wanted.items():
            if not value:
                raise ConfigError(f"--{name}: Dataflow needs it: {what}")
        for name in ("temp_location", "staging_location"):
            value = getattr(google, name)
            if value and not re.fullmatch(r"gs://[^/]+/.+", value):
                raise ConfigError(f"--{name}: {value!r} is not allowed; a folder of a bucket, gs://bucket/folder, is")

    def _check_code(self, needs: Needs) -> None:
        setup = self.options.view_as(SetupOptions)
        if not (self._image or setup.setup_file or setup.extra_packages):
            raise ConfigError(
                "--sdk_container_image: Dataflow's own image has no noisebank; name one that has it, made from "
                f"runners/containers/Dockerfile, or have each worker install it by --setup_file ({_PAGE})"
            )
        if not (self._image or setup.requirements_file):
            raise ConfigError(
                "--requirements_file: Dataflow's own image lacks the libraries that noisebank works with, which "
                f"--setup_file alone does not install; name a list of them, or an image that has them ({_PAGE})"
            )
        if setup.setup_file:
            if not Path(setup.setup_file).is_file():
                raise ConfigError(f"--setup_file: {setup.setup_file}: no such file")
            setup.setup_file = str(Path(setup.setup_file).absolute())  # (Beam goes to its folder)
        if needs.modules and not self._image:
            _log.warning("modules %s: workers import them; what --setup_file installs must have them", needs.modules)

    def _check_fitting(self) -> None:
        google = self.options.view_as(GoogleCloudOptions)
        if google.flexrs_goal:
            raise ConfigError(f"--flexrs_goal: {google.flexrs_goal} cannot go with machines that are fitted to stages")
        for option in google.dataflow_service_options or ():
            if option.startswith("worker_accelerator"):
                raise ConfigError(
                    f"--dataflow_service_options: {option} gives every machine a GPU; give those that need one a hint, "
                    "noise.NAME.accelerator"
                )

    def _check_gpus(self, on_gpu: Mapping[str, str]) -> None:
        for name, accelerator in on_gpu.items():
            hint = _ACCELERATOR.fullmatch(accelerator)
            key = f"noise.{name}.accelerator"
            if not accelerator:
                raise ConfigError(
                    f"{key}: Dataflow gives a stage a GPU where it asks for one, such as "
                    f"type:nvidia-l4;count:1;install-nvidia-driver; or set noise.{name}.device to cpu"
                )
            if not hint:
                raise ConfigError(
                    f"{key}: {accelerator!r} is not allowed; type:NAME;count:NUMBER and what else Dataflow knows, such "
                    "as type:nvidia-l4;count:1;install-nvidia-driver"
                )
            if int(hint["count"]) > 1 and not self._has_many_processes:
                raise ConfigError(
                    f"{key}: {accelerator!r} is not allowed; a machine has one process, which uses one GPU: count:1, "
                    f"and more machines (or --experiments={MANY_PROCESSES}, a process and a model a CPU)"
                )
            if "install-nvidia-driver" not in accelerator:
                _log.warning("%s: without install-nvidia-driver the machines may have no driver", key)


def _has_clients() -> bool:
    try:
        return importlib.util.find_spec("google.cloud.dataflow") is not None
    except ModuleNotFoundError:
        return False
