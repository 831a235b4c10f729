"""What every engine is to a job: the runner that Beam is given, defaults for what nobody said, and checks that refuse
before anything starts what could not run there."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from apache_beam.options.pipeline_options import GoogleCloudOptions, PipelineOptions, TestOptions
from apache_beam.runners.runner import PipelineRunner, PipelineState

from noisebank.errors import ConfigError

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Needs:
    """What a job asks of the machines that its engine gives it.

    Args:
        addresses: of the bank, lists and folders that workers read and write.
        models: hub ids or folders that workers load.
        on_gpu: Beam's accelerator hint (empty where none is given) of each stage that may want a GPU, by its name.
        only_gpu: names of those that can do without a GPU nowhere.
        modules: of the user's, which workers import.
        may_wait: whether it can be described now and run later, by somebody else.
    """

    addresses: Sequence[str] = ()
    models: Sequence[str] = ()
    on_gpu: Mapping[str, str] = field(default_factory=dict)
    only_gpu: Sequence[str] = ()
    modules: Sequence[str] = ()
    may_wait: bool = False


class Engine:
    """An engine that Beam finds by the name of its runner, with workers on this machine.

    Args:
        options: Beam's, of a job.
        words: the words of the command line that they were read from.
    """

    def __init__(self, options: PipelineOptions, words: Sequence[str] = ()) -> None:
        self.options, self.words = options, words

    def check_unknown(self, words: Sequence[str]) -> None:
        """Refuses words of the command line that Beam does not know, unless the engine does.

        Raises:
            ConfigError: names the first one.
        """
        if words:
            raise ConfigError(f"{words[0]}: neither an option of noisebank nor of Beam; see --help")

    @property
    def runs_elsewhere(self) -> bool:
        """Whether the workers run on other machines than this, as far as the options tell."""
        return False

    @property
    def shares_this_process(self) -> bool:
        """Whether the workers are threads of this process."""
        return False

    @property
    def takes_paths(self) -> bool:
        """Whether the workers may have a file system in common with this machine."""
        return True

    @property
    def fits_machines(self) -> bool:
        """Whether it has machines to choose from, by the memory that each step needs."""
        return False

    @property
    def leaves(self) -> str:
        """What a job leaves in place of a run, in words, where the options ask for no run."""
        return ""

    def prepare(self, needs: Needs) -> None:
        """Sets options that nobody said, and refuses a job that cannot run.

        Raises:
            ConfigError: names what is missing or cannot be, and what to do.
        """
        template = self.options.view_as(GoogleCloudOptions).template_location
        if (template or self.options.view_as(TestOptions).dry_run) and not self.leaves:
            raise ConfigError(
                "--dry_run and --template_location: only a job of Dataflow's can be described and not run; 'noisebank "
                "plan' says what a build would do"
            )
        if self.leaves and not needs.may_wait:
            raise ConfigError("--dry_run and --template_location: a build or one of its stages can be described alone")
        self.check_addresses(needs.addresses)
        self.check_models(needs.models)

    def runner(self) -> PipelineRunner | None:
        """What runs a pipeline; None for what Beam finds by its name."""
        return None

    def conclude(self, state: str | None) -> str:
        """How a job ended: nothing where all is done, or else what is to be said.

        Args:
            state: a state of Beam's.
        """
        return "" if self.leaves or state == PipelineState.DONE else f"the job ended as {state}"

    def says(self, *names: str) -> bool:
        """Whether one of these options, such as ``--parallelism``, was given on the command line."""
        return any(word.partition("=")[0] in names for word in self.words)

    def check_addresses(self, addresses: Sequence[str]) -> None:
        """Refuses what workers in other processes or on other machines cannot read; warns where a mounted folder may
        be meant.

        Raises:
            ConfigError: names the first address that cannot be read.
        """
        workers = "on other machines" if self.runs_elsewhere else "in other processes"
        for address in addresses:
            scheme, separator, _ = address.partition("://")
            wanted = f"{address}: workers {workers} cannot read it; use an address such as gs://, s3:// or az://"
            is_path = not separator or scheme == "file"
            if (scheme == "memory" and not self.shares_this_process) or (is_path and not self.takes_paths):
                raise ConfigError(wanted)
            if is_path and self.runs_elsewhere:
                _log.warning("%s, unless this is a folder that all of them mount (with hard links)", wanted)

    def check_models(self, models: Sequence[str]) -> None:
        """Warns of models in local folders: workers on other machines look for them at the same path of their own."""
        for model in models if self.runs_elsewhere else ():
            if Path(model).is_dir():
                _log.warning(
                    "%s: workers on other machines load this model from the same path; have it in their image, mount "
                    "the folder there, or give the id of a model on the hub",
                    model,
                )
