"""A stage over clips such as a user's module brings: how bright a clip is. To import it is to register the stage."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from noisebank.errors import RowFailure
from noisebank.format.shards import ShardSample
from noisebank.options import StageOptions, option
from noisebank.stages.job import failure_of
from noisebank.stages.over_clips import KEYS, StageOverClips, Written, register_stage
from noisebank.video.frames import decode_mp4

RECORDS = pa.schema([("num", pa.int64()), ("id", pa.string()), ("sha256", pa.string()), ("brightness", pa.float64())])


@dataclass(frozen=True)
class BrightnessOptions(StageOptions):
    """Options of the stage."""

    darkest: float = option(0.0, "a clip whose mean is below this fails", minimum=0, maximum=255)


def brightness_of(mp4: bytes) -> float:
    """The mean of all pixels, 0 to 255."""
    return float(decode_mp4(mp4).mean())


@register_stage("brightness", BrightnessOptions)
@dataclass(frozen=True)
class Brightness(StageOverClips):
    """Measures the brightness of clips."""

    def write(
        self,
        path: Path,
        samples: Iterator[ShardSample],
        clips: pa.Table,
        plan: Mapping[str, Any],
        model: Callable[[], Any],
    ) -> Written:
        rows, failures = [], []
        for sample, clip in zip(samples, clips.to_pylist(), strict=True):
            brightness = brightness_of(sample.mp4)
            if brightness < self.options.darkest:
                failures.append(failure_of(clip, self.name.name, RowFailure("too_dark", f"{brightness:.1f}")))
            else:
                rows.append({name: clip[name] for name in KEYS} | {"brightness": brightness})
        pq.write_table(pa.Table.from_pylist(rows, RECORDS), path)
        return Written(len(rows), failures)
