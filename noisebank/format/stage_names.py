"""Stages by name: which kind of work a shard, a receipt, a data file or a failure is of.

``clips``, ``captions`` and ``index`` are there once. Every other stage makes one record of each clip, has as many
*sets* as the configuration names, and is called ``<kind>/<set>``: ``noise/modelscope``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

CLIPS, CAPTIONS, INDEX, NOISE = "clips", "captions", "index", "noise"
PLAN = "plan"
"""Stage of the failures that a list itself is to blame for."""
SIDECARS = "sidecars"
"""Kind of the Parquet files beside the tars."""


@dataclass(frozen=True, order=True)
class StageName:
    """One stage.

    Args:
        kind: ``clips``, ``captions``, ``index``, ``noise``, or a kind that a module registered.
        set: name of the set of a stage over clips; empty for the others.
    """

    kind: str
    set: str = ""

    @classmethod
    def parse(cls, name: str) -> StageName:
        """The stage of a name.

        >>> StageName.parse("noise/modelscope")
        StageName(kind='noise', set='modelscope')
        """
        kind, _, set = name.partition("/")
        return cls(kind, set)

    @classmethod
    def of_records(cls, key: str) -> StageName:
        """The stage whose :attr:`records` is ``key``."""
        return cls.parse(key) if "/" in key else cls(NOISE, key)

    @property
    def name(self) -> str:
        """Its name, which is also the folder of its files and receipts."""
        return f"{self.kind}/{self.set}" if self.set else self.kind

    @property
    def records(self) -> str:
        """By which a snapshot knows the table of its records: the set's name for noise, the whole name for others."""
        return self.set if self.kind == NOISE else self.name

    @property
    def is_over_clips(self) -> bool:
        """Whether it makes a record of every clip."""
        return bool(self.set)

    def find(self, nested: Mapping[str, Any]) -> Any:
        """What a mapping in the form of snapshots, ``{kind: value or {set: value}}``, says of it; None if nothing."""
        value = nested.get(self.kind)
        return (value or {}).get(self.set) if self.set else value


def over_clips(names: Iterable[str]) -> list[StageName]:
    """The stages over clips among these names, in their order."""
    return [stage for stage in map(StageName.parse, names) if stage.is_over_clips]


def nest(values: Mapping[str, Any]) -> dict[str, Any]:
    """Values by stage name in the form of snapshots; sets of noise are there even if there is none.

    >>> nest({"clips": "a", "noise/modelscope": "b"})
    {'noise': {'modelscope': 'b'}, 'clips': 'a'}
    """
    nested: dict[str, Any] = {NOISE: {}}
    for name, value in values.items():
        stage = StageName.parse(name)
        if stage.is_over_clips:
            nested.setdefault(stage.kind, {})[stage.set] = value
        else:
            nested[stage.kind] = value
    return nested


def flatten(fingerprints: Mapping[str, Any]) -> dict[str, str]:
    """Fingerprints of snapshots by stage name: :func:`nest` undone.

    >>> flatten({"clips": "a", "noise": {"modelscope": "b"}})
    {'clips': 'a', 'noise/modelscope': 'b'}
    """
    flat: dict[str, str] = {}
    for kind, value in fingerprints.items():
        flat |= {f"{kind}/{set}": one for set, one in value.items()} if isinstance(value, Mapping) else {kind: value}
    return flat
