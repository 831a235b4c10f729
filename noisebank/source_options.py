"""The options of sources: which lists, where their videos are, which of their rows are taken, and what a row says."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from noisebank.conditions import Condition, parse_condition, parse_where
from noisebank.errors import ConfigError
from noisebank.option_fields import option


@dataclass(frozen=True)
class SourceOptions:
    """One list of captioned videos."""

    kind: str = option(help="layout of the list: webvid, internvid, table, webdataset, folder, or one of your own")
    path: tuple[str, ...] = option(help="file, glob, brace range, URL, or a list of them")
    name: str = option("", "identity of the source and prefix of its ids (default: the kind)")
    id: str | None = option(None, "table: column of the clip id, or a template (default: derived from uri and range)")
    uri: str | None = option(
        None, "column of the video's path or address, or a template of columns: '{page_dir}/{videoid}.mp4'"
    )
    caption: str | tuple[str, ...] | None = option(
        None, "table: column of the caption, or a list of columns; a cell may be a list of captions"
    )
    start: str | None = option(None, "table: column of the clip's start, seconds or HH:MM:SS.mmm")
    end: str | None = option(None, "table: column of the clip's end, seconds or HH:MM:SS.mmm")
    frame_stride: int | None = option(
        None, "take every n-th frame of these videos, in place of clips.frame_stride", minimum=1, maximum=100_000
    )
    fps: float | None = option(
        None, "take frames at this rate, in place of the clips section's", minimum=0.001, maximum=1000
    )
    root: str | None = option(None, "folder that relative uris start from, in place of the list's")
    cut: bool = option(
        False, "the files are the clips already: times name a clip and are not applied", since_first=False
    )
    where: tuple[tuple[str, str], ...] = option(
        (),
        "conditions on columns, or on a tar's json ({score: '>= 5'}); other rows are filtered",
        parse=parse_where,
        since_first=False,
    )
    limit: int | None = option(
        None,
        "take this many clips, those of the smallest numbers: the same ones again with more",
        minimum=1,
        maximum=10**12,
    )
    range: str | None = option(
        None, "table: column of the clip's range, [start, end], or of a list of them, a clip each"
    )

    @property
    def label(self) -> str:
        """What the source is called."""
        return self.name or self.kind

    @property
    def addresses(self) -> list[str]:
        """Where its lists and videos are, as far as the configuration says."""
        return [*self.path, *([self.root] if self.root else [])]

    @property
    def conditions(self) -> list[Condition]:
        """Those of ``where``."""
        return [parse_condition(column, text) for column, text in self.where]

    @property
    def filter(self) -> str:
        """What keeps rows of its lists out, in words; empty where nothing does."""
        said = [f"where {condition}" for condition in self.conditions]
        return ", ".join(said if self.limit is None else [*said, f"limit {self.limit}"])

    @property
    def caption_columns(self) -> tuple[str, ...]:
        """The columns that captions are in."""
        return (self.caption,) if isinstance(self.caption, str) else self.caption or ()

    @property
    def rhythm(self) -> str:
        """Which frames of its videos a clip has, where the source has a word in that; else empty."""
        if self.fps is not None:
            return f"fps={self.fps!r}"
        return "" if self.frame_stride is None else f"frame_stride={self.frame_stride}"

    def check(self, where: str) -> None:
        """Raises :class:`ConfigError` unless the options fit each other; ``where`` they stand, for the message."""
        self._refuse(
            where,
            ("id", "caption", "start", "end", "range"),
            f"only a table names its columns; {self.kind} has its own",
        )

    def _refuse(self, where: str, names: Iterable[str], why: str) -> None:
        named = next((name for name in names if getattr(self, name)), None)
        if named:
            raise ConfigError(f"{where}.{named}: {why}")


@dataclass(frozen=True)
class TableOptions(SourceOptions):
    """A list whose columns the configuration names."""

    def check(self, where: str) -> None:
        """Raises :class:`ConfigError` unless the columns that every row needs are named."""
        if not (self.uri and self.caption):
            raise ConfigError(f"{where}: a table needs the columns uri and caption")
        if self.range and (self.start or self.end):
            raise ConfigError(f"{where}.range: {self.range} has both times; leave out start and end")


@dataclass(frozen=True)
class TarOptions(SourceOptions):
    """Tars of others: their members are the videos."""

    def check(self, where: str) -> None:
        """Raises :class:`ConfigError` where something is named that the tars say, which is all but ids."""
        self._refuse(
            where, ("uri", "caption", "start", "end", "range", "root"), f"not for a {self.kind}; its tars say that"
        )


@dataclass(frozen=True)
class FolderOptions(SourceOptions):
    """Folders of videos with their captions beside them."""

    def check(self, where: str) -> None:
        """Raises :class:`ConfigError` where something is named that the files say."""
        self._refuse(
            where,
            ("id", "uri", "caption", "start", "end", "range", "root"),
            f"not for a {self.kind}; its files say that",
        )
