"""Models are tried out before a build fetches anything, on this machine, where they will work."""

from __future__ import annotations

import apache_beam as beam

from noisebank.format.receipts import find_receipt
from noisebank.format.stage_names import CLIPS
from noisebank.planning.plan import Plan, read_task
from noisebank.processes import use_threads
from noisebank.stages.clips import clip_inputs
from noisebank.stages.stage import Stage
from noisebank.storage import Store, open_store
from transforms.shards import kept_model
from transforms.work import plan_of, step


@step
class TryModels(beam.PTransform):
    """Loads and tries out the models of stages, if there are clips to fetch for them: a model that does not work is to
    fail before that. Where nothing is to be fetched, the first shard does it.

    Args:
        stages: with a model.
        threads: of torch, as of :class:`.shards.MakeShards`.
        job: of which these models are kept for the shards (:func:`.shards.kept_model`).

    Input and output: the plan's path.
    """

    bank: str
    stages: tuple[Stage, ...]
    job: str
    threads: int | None = None

    def expand(self, plans: beam.PCollection[str]) -> beam.PCollection[str]:
        return plans | beam.Map(self._try)

    def _try(self, path: str) -> str:
        plan = plan_of(self.bank, path)
        if is_to_fetch(open_store(self.bank), plan):
            use_threads(self.threads)
            for stage in self.stages:
                model = kept_model(self.job, stage.name.name, stage.load_model)
                with model.turn:
                    stage.get_model(model, plan)
        return path


def is_to_fetch(store: Store, plan: Plan) -> bool:
    """Whether a shard of clips is not finished."""
    fingerprint = plan.fingerprints.get(CLIPS, "")
    return any(
        find_receipt(store, CLIPS, clip_inputs(fingerprint, read_task(store, task))) is None
        for task in plan.tasks.get(CLIPS, ())
    )
