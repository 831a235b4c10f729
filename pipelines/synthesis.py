"""The job that makes synthetic clips: which prompts are left, Beam's runner, progress, and what came of it."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import apache_beam as beam

from noisebank.errors import JobFailed
from noisebank.format.manifest import open_apart
from noisebank.format.receipts import find_receipts
from noisebank.models.config import absolute_path
from noisebank.progress import show_progress
from noisebank.storage import Store, absolute_address
from noisebank.synthesis.checks import check_options
from noisebank.synthesis.job import KeptWork, ShardFolder, clear_work, look_at_work, shard_inputs
from noisebank.synthesis.options import STAGE, SynthesisOptions, TransformersRewardOptions, synthesis_fingerprint
from noisebank.synthesis.prompts import (
    Finished,
    Prompt,
    count_failures,
    cut_shards,
    list_prompts,
    read_finished,
    without_taken,
)
from pipelines.jobs import run_pipeline
from pipelines.progress import watching
from runners.engine import Needs
from runners.engines import find_engine
from transforms.synthesis import SynthesizeClips


def run_synthesis(options: SynthesisOptions, beam_arguments: Sequence[str]) -> dict[str, Any]:
    """Makes the clips that are missing in a source.

    Returns:
        The document of ``noisebank synthesize --json``: ``out``, ``prompts`` (``read``, ``duplicate``, ``made`` and
        ``failed`` now, ``found`` from before), ``failed_by_code`` of all prompts listed, ``tars`` and ``sheets`` made.

    Raises:
        NoiseBankError: an option cannot work, or the job failed.
        JobFailed: more than ``max_failed`` of the prompts have no clip.
    """
    options = _with_absolute_paths(options)
    engine = find_engine([*beam_arguments, *(f"--beam_plugin={module}" for module in options.modules)])
    engine.prepare(find_needs(options))
    store = open_apart(options.out, "synthetic clips")
    digests = check_options(options)
    fingerprint = synthesis_fingerprint(options, digests)
    listed, duplicates = list_prompts(options.prompts)
    found = read_finished(store)
    prompts = without_taken(listed, found)
    cut = cut_shards(prompts, found, fingerprint, options.clips.maxcount, options.retry_failures)
    shards = {shard_inputs(fingerprint, shard): shard for shard in cut}
    finished = found
    if shards:
        for inputs, shard in shards.items():
            ShardFolder(store, inputs).plan(shard)
        with _watch(store, fingerprint, shards):
            make = SynthesizeClips(options, fingerprint, digests)
            run_pipeline(engine, lambda pipeline: pipeline | beam.Create([*shards]) | make)
        finished = read_finished(store)
    clear_work(store, fingerprint, prompts)
    counts = _count(prompts, duplicates, {prompt.id for shard in cut for prompt in shard}, finished)
    _check_failed(options, prompts, finished)
    receipts = [*find_receipts(store, [(STAGE, inputs) for inputs in shards])]
    return {
        "out": store.url,
        "prompts": counts,
        "failed_by_code": dict(sorted(count_failures(prompts, finished).items())),
        "tars": [receipt.info["tar"] for receipt in receipts if receipt.rows],
        "sheets": [receipt.info["sheet"] for receipt in receipts if receipt.rows],
    }


def _with_absolute_paths(options: SynthesisOptions) -> SynthesisOptions:
    """The options with addresses that mean the same to workers, which may start elsewhere."""
    images, reward, motion = options.images, options.reward, options.motion_adapter
    if isinstance(reward, TransformersRewardOptions):
        processor = reward.processor and absolute_path(reward.processor)
        reward = dataclasses.replace(reward, model=absolute_path(reward.model), processor=processor)
    return dataclasses.replace(
        options,
        out=absolute_address(options.out),
        prompts=absolute_address(options.prompts),
        model=absolute_path(options.model),
        motion_adapter=motion and absolute_path(motion),
        images=dataclasses.replace(images, model=images.model and absolute_path(images.model)),
        reward=reward,
    )


def find_needs(options: SynthesisOptions) -> Needs:
    """What the job asks of its engine."""
    named = [options.model, options.motion_adapter, options.images.model]
    if isinstance(options.reward, TransformersRewardOptions):
        named += [options.reward.model, options.reward.processor]
    return Needs([options.out], [model for model in named if model], modules=options.modules)


@contextmanager
def _watch(store: Store, fingerprint: str, shards: Mapping[str, tuple[Prompt, ...]]) -> Iterator[None]:
    """Shows how many prompts are done, and what is going on, while the block runs; ``shards``: by inputs hash."""
    kept = KeptWork(store, fingerprint)
    documents = {inputs: [kept.keys(prompt)[-1] for prompt in shard] for inputs, shard in shards.items()}
    size = sum(map(len, documents.values()))

    def look() -> None:
        done, going_on = look_at_work(store, documents)
        stages = Counter(going_on)
        said = ", ".join(name if count == 1 else f"{count} {name}" for name, count in sorted(stages.items()))
        progress.what = f"synthesize: {said}" if said else "synthesize"
        progress.report(done, size)

    with show_progress("synthesize", "prompts") as progress, watching(store, look):
        yield


def _count(prompts: Sequence[Prompt], duplicates: int, tried: set[str], finished: Finished) -> dict[str, int]:
    """The prompts of the list: how many were read, made now, found made, and have no clip."""
    failed = finished.failures.keys() & {prompt.id for prompt in prompts}
    made = tried - failed
    return {
        "read": len(prompts) + duplicates,
        "made": len(made),
        "found": len(prompts) - len(made) - len(failed),
        "failed": len(failed),
        "duplicate": duplicates,
    }


def _check_failed(options: SynthesisOptions, prompts: Sequence[Prompt], finished: Finished) -> None:
    """Raises JobFailed where too many prompts have no clip."""
    codes = count_failures(prompts, finished)
    if codes.total() > options.max_failed * len(prompts):
        counted = ", ".join(f"{count} {code}" for code, count in codes.most_common())
        examples = [finished.failures[prompt.id] for prompt in prompts if prompt.id in finished.failures][:3]
        said = "; ".join(f"{failure.id}: {failure.message}" for failure in examples)
        raise JobFailed(
            f"{codes.total()} of {len(prompts)} prompts have no clip, more than max_failed {options.max_failed:g}. "
            f"Failed: {counted}. {said}. The other clips are in {options.out}; mend what failed and run the same "
            "command with --retry-failures all, or with a larger max_failed"
        )
