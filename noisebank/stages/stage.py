"""The stages of a build: each knows its name, its options, what tells its output apart, and the jobs it consists of.

There are the clips (:mod:`.clips`), their captions (:mod:`.captions`), and any number of stages over clips
(:mod:`.over_clips`), of which noise is one and a user's own may be others.
"""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from noisebank.format.manifest import Snapshot
from noisebank.format.receipts import Receipt
from noisebank.format.stage_names import StageName
from noisebank.loading import loading_a_model
from noisebank.options import Config
from noisebank.planning.cut import Task
from noisebank.planning.plan import Plan
from noisebank.stages.job import ShardJob
from noisebank.storage import Store


@dataclass(frozen=True)
class Identity:
    """What a plan must know of a stage before any work is done.

    Args:
        fingerprint: hash of everything that changes the stage's output.
        model: what the snapshot is to say of its model; empty where it has none. ``shape``, that of a record's values,
            decides how many clips a file of a stage over clips is made of.
    """

    fingerprint: str
    model: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class ShardWork:
    """One shard's work at a stage.

    Args:
        plan: where the plan is.
        task: of the plan.
        clips: the receipt of the task's clips, for what follows from new clips; None for tasks over existing clips.
        file: which of the files that a stage makes of these clips (:meth:`Stage.split`).
    """

    plan: str
    task: Task
    clips: Receipt | None = None
    file: int = 0


class LazyModel:
    """A model that is loaded when the first shard needs it: a build in which nothing is to be made loads none.

    Runners call models from several threads. These take a ``turn``, one for all models of a process: their batches
    would not fit one device, and torch has one number of threads for the whole process, on which last bits depend.

    Args:
        load: loads the model of a digest, the one that was planned with.
    """

    turn: ClassVar[threading.Lock] = threading.Lock()

    def __init__(self, load: Callable[[str], Any]) -> None:
        self._load = load
        self._model: Any = None

    def get(self, digest: str, try_out: Callable[[Any], object] | None = None) -> Any:
        """The model; one that is loaded now is tried out first."""
        if self._model is None:
            with loading_a_model:
                model = self._load(digest)
            if try_out:
                try_out(model)
            self._model = model
        return self._model


@dataclass(frozen=True)
class Stage(ABC):
    """One stage of a build.

    Args:
        options: its options.
    """

    options: Any

    @property
    @abstractmethod
    def name(self) -> StageName:
        """Its name."""

    @property
    def has_model(self) -> bool:
        """Whether it loads a model, which a worker keeps between shards."""
        return type(self).load_model is not Stage.load_model

    @property
    def accelerator(self) -> str | None:
        """Beam's hint for its workers, if they need an accelerator."""
        return None

    @property
    def min_ram(self) -> int:
        """Bytes of memory that its workers need; 0: as those of steps without an option for it."""
        return int(getattr(self.options, "min_ram", 0))

    @abstractmethod
    def identify(self, config: Config, latest: Snapshot | None) -> Identity:
        """What it is, from its options and from the files of its model, whose weights are not loaded.

        Args:
            config: of the build.
            latest: the newest snapshot; what was checked for it need not be checked again.

        Raises:
            ConfigError: its model cannot be found or used, or it cannot take these clips.
        """

    def load_model(self, digest: str) -> Any:
        """Loads its model, which must have this digest."""
        raise NotImplementedError(f"{self.name.name} has no model")

    def split(self, plan: Plan, work: ShardWork) -> list[ShardWork]:
        """The shards that work comes to, each a job of its own: one, unless a stage makes several files of a tar."""
        return [work]

    def try_out(self, model: Any, plan: Plan) -> dict[str, Any]:
        """Uses the model that was just loaded on something made up, so that one which does not work fails in seconds,
        and tells the log how long the plan will take; by default nothing.

        Returns:
            What was found, plain JSON.

        Raises:
            JobFailed: it does not work.
        """
        return {}

    def get_model(self, model: LazyModel, plan: Plan) -> Any:
        """Its model, loaded and tried out if it is not there."""
        return model.get(plan.models[self.name.name]["digest"], lambda loaded: self.try_out(loaded, plan))

    @abstractmethod
    def job(self, store: Store, plan: Plan, work: ShardWork, model: LazyModel) -> ShardJob | None:
        """The job that makes a shard; None where there is nothing to make (every clip of a task failed)."""
