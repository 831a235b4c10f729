"""The stages that a configuration asks for, and what a plan must know of each before any work is done."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from noisebank.errors import ConfigError
from noisebank.format.manifest import Snapshot
from noisebank.hub import pin, split_reference
from noisebank.ids import source_number
from noisebank.models.config import absolute_path
from noisebank.options import CaptionOptions, Config, NoiseOptions
from noisebank.search.embed import MODULES as EMBEDDER_MARKER
from noisebank.stages.captions import CaptionsStage
from noisebank.stages.clips import ClipsStage
from noisebank.stages.noise import NoiseStage
from noisebank.stages.over_clips import STAGES
from noisebank.stages.stage import Stage
from noisebank.storage import absolute_address

ModelOptions = TypeVar("ModelOptions", CaptionOptions, NoiseOptions)


def all_stages(config: Config) -> list[Stage]:
    """Every stage that makes shards, in the order in which they follow each other."""
    rhythms = {
        source_number(source.label): config.clips.of_source(source) for source in config.sources if source.rhythm
    }
    noise = [NoiseStage(options) for options in config.noise]
    own = [STAGES[options.kind](options) for options in config.stages]
    return [
        ClipsStage(config.clips, config.fetch, rhythms, config.early_stop),
        CaptionsStage(config.captions),
        *noise,
        *own,
    ]


def with_absolute_paths(config: Config) -> Config:
    """A configuration whose paths mean the same to workers, which may start in another folder; what the bank records,
    and what tells stages apart, is the same for both."""
    sources = [
        replace(
            source, path=tuple(map(absolute_address, source.path)), root=source.root and absolute_address(source.root)
        )
        for source in config.sources
    ]
    noise = [
        replace(
            options,
            model=absolute_path(options.model),
            motion_adapter=options.motion_adapter and absolute_path(options.motion_adapter),
        )
        for options in config.noise
    ]
    captions = replace(config.captions, model=absolute_path(config.captions.model))
    bank = absolute_address(config.bank)
    return replace(config, bank=bank, sources=tuple(sources), captions=captions, noise=tuple(noise))


def pin_revisions(config: Config, planned: Config | None = None) -> Config:
    """A configuration whose hub models are each at one commit, so that all workers load what was planned with.

    Args:
        config: of the build.
        planned: pinned already, of the plan that is to be carried out; None: the commits of now.
    """
    known = {options.name: options for options in planned.noise} if planned else {}
    captions = _pin(config.captions, planned.captions if planned else None, (EMBEDDER_MARKER,))
    noise = [_pin(options, known.get(options.name), ("model_index.json",)) for options in config.noise]
    pinned = [
        options
        if options.motion_adapter is None
        else replace(options, motion_adapter=_pin_reference(options.motion_adapter, _adapter_of(known, options)))
        for options in noise
    ]
    return replace(config, captions=captions, noise=tuple(pinned))


def _adapter_of(known: Mapping[str, NoiseOptions], options: NoiseOptions) -> str | None:
    return known[options.name].motion_adapter if options.name in known else None


def _pin(options: ModelOptions, planned: ModelOptions | None, markers: Sequence[str]) -> ModelOptions:
    reference = _pin_reference(options.reference, planned.reference if planned else None, markers)
    return replace(options, revision=split_reference(reference)[1])


def _pin_reference(model: str, planned: str | None, markers: Sequence[str] = ("config.json",)) -> str:
    """The reference that was planned with, if it is of the same model, else the commit of now; a model that cannot be
    found is left for its stage to refuse."""
    if planned is not None and split_reference(planned)[0] == split_reference(model)[0] and not Path(model).is_dir():
        return planned
    with suppress(ConfigError):
        return pin(model, markers)
    return model


def identify_stages(config: Config, latest: Snapshot | None = None) -> tuple[dict[str, str], dict[str, Any]]:
    """The fingerprints of all stages, and what the snapshot is to say of their models, both by stage name.

    Args:
        config: of the build.
        latest: the newest snapshot of the bank; what was checked for it is not checked again.

    Raises:
        ConfigError: a model cannot be found, loaded or inverted, or a noise set cannot take these clips; or a stage of
            a user's own says a shape that is none.
    """
    stages = all_stages(config)
    names = [stage.name.name for stage in stages]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise ConfigError(f"stages: {twice} is there twice; give each set a name of its own")
    known = {stage.name.name: stage.identify(config, latest) for stage in stages}
    for name, identity in known.items():
        shape = identity.model.get("shape", ())
        if not isinstance(shape, list | tuple) or not all(isinstance(size, int) and size > 0 for size in shape):
            raise ConfigError(f"{name}: the shape of a record is {shape!r}; a list of whole numbers above 0 is wanted")
    fingerprints = {name: identity.fingerprint for name, identity in known.items()}
    return fingerprints, {name: dict(identity.model) for name, identity in known.items() if identity.model}
