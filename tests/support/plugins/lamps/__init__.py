"""A package of a user's own: a judge of how light a clip is, and an arm that mixes in nothing but the record's mean."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from noisebank.evaluation.arms import ARMS, Arm, register_arm
from noisebank.evaluation.judges import Judge, register_judge
from noisebank.evaluation.options import JudgeOptions
from noisebank.options import option

__version__ = "1.0"


@dataclass(frozen=True)
class LampOptions(JudgeOptions):
    """How light is light."""

    brightest: float = option(128.0, "a mean above it is light", minimum=0, maximum=255)


@register_judge("lamp", LampOptions)
def load_lamp(options: LampOptions) -> Judge:
    """Light or dark by the mean of all pixels; and nothing at all in a clip of one colour."""

    def judge(frames: np.ndarray) -> Mapping[str, str | None]:
        if frames.std() == 0:
            return {"light": None}
        return {"light": "light" if frames.mean() > options.brightest else "dark"}

    return judge


register_arm("mean_alone", Arm(ARMS["nearest"].choose, lambda record, _: record.mean() + 0 * record))
