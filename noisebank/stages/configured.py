"""The stages that a configuration asks for, and what a plan must know of each before any work is done."""

from __future__ import annotations

from typing import Any

from noisebank.errors import ConfigError
from noisebank.format.manifest import Snapshot
from noisebank.ids import source_number
from noisebank.options import Config
from noisebank.stages.captions import CaptionsStage
from noisebank.stages.clips import ClipsStage
from noisebank.stages.noise import NoiseStage
from noisebank.stages.over_clips import STAGES
from noisebank.stages.stage import Stage


def all_stages(config: Config) -> list[Stage]:
    """Every stage that makes shards, in the order in which they follow each other."""
    rhythms = {
        source_number(source.name or source.kind): config.clips.of_source(source)
        for source in config.sources
        if source.rhythm
    }
    noise = [NoiseStage(options) for options in config.noise]
    own = [STAGES[options.kind](options) for options in config.stages]
    return [
        ClipsStage(config.clips, config.fetch, rhythms, config.early_stop),
        CaptionsStage(config.captions),
        *noise,
        *own,
    ]


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
