"""The shards of synthetic clips, made by Beam's RunInference, which keeps the models in a process."""

from __future__ import annotations

from collections.abc import Mapping

import apache_beam as beam
from apache_beam.ml.inference.base import RunInference

from noisebank.stages.stage import LazyModel
from noisebank.storage import BankWriter, open_store
from noisebank.synthesis.entry import Models, load_models
from noisebank.synthesis.job import ShardFolder, SynthesisShard
from noisebank.synthesis.options import SynthesisOptions
from transforms.shards import ShardHandler, run_and_count
from transforms.work import step


@step
class SynthesizeClips(beam.PTransform):
    """Makes the shards that are written down in the source's folder of work, each with a receipt.

    Args:
        options: of the job.
        fingerprint: of options and models.
        digests: of the models.

    Input: inputs hashes of the shards. Output: those of the finished shards.
    """

    options: SynthesisOptions
    fingerprint: str
    digests: Mapping[str, str]

    def expand(self, shards: beam.PCollection[str]) -> beam.PCollection[str]:
        run = RunInference(ShardHandler(self._load, self._finish, "synthesis"))
        if self.options.accelerator:
            run = run.with_resource_hints(accelerator=self.options.accelerator)
        return shards | beam.Reshuffle() | run | beam.FlatMap(lambda finished: finished)

    def _load(self, _: str) -> Models:
        return load_models(self.options, self.digests)

    def _finish(self, inputs: str, models: LazyModel) -> list[str]:
        store = open_store(self.options.out)
        prompts = ShardFolder(store, inputs).prompts()
        shard = SynthesisShard(prompts, self.options, self.fingerprint, self.digests, lambda: models.get(""))
        run_and_count(shard.job, BankWriter(store), make=True, verify=True)
        return [inputs]
