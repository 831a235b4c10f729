"""What reads attributes off generated clips. :func:`register_judge` adds a judge of one's own."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from noisebank.errors import ConfigError
from noisebank.evaluation.options import JudgeOptions
from noisebank.options import register_options

Frames = npt.NDArray[np.uint8]
"""uint8 RGB ``[F, H, W, 3]``."""

Judge = Callable[[Frames], Mapping[str, str | None]]
"""``judge(frames) -> by attribute the value that is seen``, None where it cannot be told."""

JudgeLoader = Callable[[Any], Judge]
"""From the options of a judge to the judge; called once."""

JUDGES: dict[str, JudgeLoader] = {}


def register_judge(kind: str, options: type[JudgeOptions] = JudgeOptions) -> Callable[[JudgeLoader], JudgeLoader]:
    """Decorator that makes a judge selectable as ``judge: {kind: <kind>}``.

    In a package of your own, which ``modules`` names::

        @register_judge("light")
        def load_light(options: JudgeOptions) -> Judge:
            return lambda frames: {"light": "bright" if frames.mean() > 128 else "dark"}

    Args:
        kind: its name.
        options: a dataclass that extends :class:`~.options.JudgeOptions` by options of the judge's own.
    """

    def register(load: JudgeLoader) -> JudgeLoader:
        register_options("judge", kind, options, load.__module__)
        JUDGES[kind] = load
        return load

    return register


def load_judge(options: JudgeOptions) -> Judge:
    """The judge that the options name; ConfigError where nobody registered it."""
    if options.kind not in JUDGES:
        raise ConfigError(f"judge.kind: {options.kind!r} is not known; import the package that registers it (modules)")
    return JUDGES[options.kind](options)


def read_attributes(judge: Judge, frames: Frames, attributes: tuple[str, ...]) -> dict[str, str | None]:
    """What a judge reads of some attributes.

    Raises:
        ConfigError: it does not know one of them, or answers what is neither text nor None.
    """
    found = judge(frames)
    if not isinstance(found, Mapping):
        raise ConfigError(f"judge: it answers {found!r:.80}; readings by attribute are wanted")
    if missing := [name for name in attributes if name not in found]:
        raise ConfigError(f"attributes: the judge does not read {missing[0]!r}; it reads {', '.join(found)}")
    for name in attributes:
        if found[name] is not None and not (isinstance(found[name], str) and found[name]):
            raise ConfigError(f"judge: it reads {name!r} as {found[name]!r:.80}; text that says something, or None")
    return {name: found[name] for name in attributes}


@register_judge("world")
def load_world_judge(options: JudgeOptions) -> Judge:
    """The judge of the small world (:mod:`noisebank.world.judge`): colour, shape, motion and position."""
    from noisebank.world.judge import read_clip

    return lambda frames: vars(read_clip(frames))
