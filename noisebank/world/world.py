"""Rows of the world, each made alone from a seed, a split and a number; lists of them, and their videos as files."""

from __future__ import annotations

import csv
from collections.abc import Iterable
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import numpy as np

from noisebank.world.attributes import COMBINATIONS, FRAMES
from noisebank.world.captions import write_caption
from noisebank.world.render import Pixels, render
from noisebank.world.scene import Scene, draw_scene

SPLITS = {"train": "seen", "pool": "seen", "prompts": "all", "oracle": "all"}
"""The splits of a world, which share no random number, and the combinations that each draws from."""
VIDEOS_A_FOLDER = 1000
COLUMNS = ("videoid", "contentUrl", "duration", "page_dir", "name")
"""Of a list, as WebVid has them."""


@dataclass(frozen=True)
class Row:
    """One captioned video that need not have been rendered."""

    number: int
    scene: Scene
    caption: str

    @property
    def path(self) -> str:
        """Of its video, in the folder of the split."""
        return f"{self.number // VIDEOS_A_FOLDER:04d}/{self.number:07d}.mp4"


@dataclass(frozen=True)
class World:
    """One split of a world; the same seed gives the same rows, whichever are asked for.

    ``World(seed=0, split="pool").row(12)`` is a row of the pool, and ``.pixels(12)`` its frames.
    """

    seed: int
    split: str
    things: int = 1
    pan: bool = False

    def __post_init__(self) -> None:
        if self.split not in SPLITS:
            raise ValueError(f"no split {self.split!r}; choose one of {', '.join(SPLITS)}")

    def row(self, number: int) -> Row:
        """A row by its number, from 0 on; there is no last one."""
        rng = np.random.default_rng([self.seed, list(SPLITS).index(self.split), number])
        scene = draw_scene(rng, COMBINATIONS[SPLITS[self.split]], self.things, self.pan)
        return Row(number, scene, write_caption(scene, rng))

    def pixels(self, number: int) -> Pixels:
        """The frames of a row, uint8 RGB ``[F, H, W, 3]``."""
        return render(self.row(number).scene)

    def write_list(self, path: str | Path, count: int, root: str) -> Path:
        """Writes a WebVid csv of the rows 0 to ``count`` - 1; no video is rendered.

        Args:
            path: of the list.
            root: address or folder that the videos' paths are under.
        """
        duration = f"PT00H00M{1:02d}S"
        path = Path(path)
        with path.open("w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(COLUMNS)
            for number in range(count):
                row = self.row(number)
                folder = row.path.split("/")[0]
                writer.writerow((number, f"{root}/{row.path}", duration, folder, row.caption))
        return path

    def write_videos(self, folder: str | Path, numbers: Iterable[int]) -> list[Path]:
        """Writes the videos of some rows, where their list has them; a video that is there already is left as it is.

        H.264 in yuv444p, nearly lossless: saturated things lose their edges with a chroma of half the size.
        """
        from noisebank.fixtures.videos import write_video

        paths = []
        for number in numbers:
            row = self.row(number)
            path = Path(folder, row.path)
            if not path.exists():
                path.parent.mkdir(parents=True, exist_ok=True)
                part = path.with_suffix(".part.mp4")
                write_video(part, render(row.scene), fps=Fraction(FRAMES), pixel_format="yuv444p")
                part.rename(path)
            paths.append(path)
        return paths
