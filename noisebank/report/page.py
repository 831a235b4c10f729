"""The page itself: facts, records and clips of a snapshot, put into a template that escapes all it is given.

The page is one file. Its policy lets it load nothing and run no script, so that what captions and addresses hold is
text and stays text.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from markupsafe import Markup

from noisebank.format.manifest import read_snapshot
from noisebank.reader.pinned import PinnedSnapshot
from noisebank.report.facts import Facts, gather
from noisebank.report.gallery import Card, Gallery, find_replays, make_gallery
from noisebank.report.plots import bars, histogram
from noisebank.report.records import SetFacts, read_sets
from noisebank.storage import Store

CLIPS = 12
"""Clips in the gallery unless said otherwise: about 60 kB each."""
_SETTINGS = ("model", "family", "inverter", "num_inference_steps", "dtype", "shape")
_CODES = 12
_NOT_HTML = {code: None for code in [*range(32), *range(127, 160)] if chr(code) not in "\t\n"}
"""Control characters, which no HTML may have and no caption needs."""


@dataclass(frozen=True)
class Report:
    """A page and what it shows.

    Args:
        html: the page.
        document: the same as a JSON object.
        unknown: ids of replays whose clip is not in the snapshot.
    """

    html: str
    document: dict[str, Any]
    unknown: Sequence[str]


def make_report(
    store: Store,
    snapshot: int | None = None,
    *,
    compare: int | None = None,
    clips: int = CLIPS,
    replays: Path | None = None,
) -> Report:
    """The page of a snapshot.

    Args:
        store: the bank.
        snapshot: its number; default: the latest.
        compare: number of another snapshot, to say what changed since.
        clips: how many are shown at most.
        replays: folder of clips that a generator gave back from stored records, ``{id}.mp4`` or ``.gif``; they come
            first, beside their sources.

    Raises:
        BankNotFound, SnapshotExpired: as :func:`.manifest.read_snapshot`.
        BankDamaged: a file that the page needs is missing or damaged.
        ConfigError: ``replays`` is no folder, or holds a video that cannot be decoded.
    """
    wanted = find_replays(replays)
    pinned = PinnedSnapshot(store, read_snapshot(store, snapshot))
    try:
        with pinned.reading():
            compared = None if compare is None else read_snapshot(store, compare)
            facts = gather(store, pinned.snapshot, compared)
            sets = read_sets(store, pinned.snapshot)
            gallery = make_gallery(pinned, clips, wanted) if clips else Gallery()
    finally:
        pinned.close()
    html = render(store.url, facts, sets, gallery.cards)
    return Report(html, describe_report(facts, sets, gallery.cards), gallery.unknown)


def describe_report(facts: Facts, sets: Sequence[SetFacts], cards: Sequence[Card]) -> dict[str, Any]:
    """What the page shows, but for its pictures, as a JSON object."""
    return {
        **facts.description,
        "failed": [{**vars(one)} for one in facts.failures],
        "files": {one.kind: {"files": one.files, "rows": one.rows, "bytes": one.bytes} for one in facts.files},
        "stages_of": facts.built,
        "seconds": {one.name: one.seconds for one in facts.stages if one.done},
        "records": {one.name: _describe_set(one) for one in sets},
        "clips": [
            {"id": card.clip.id, "replayed": card.replayed, "neighbours": [hit.id for hit in card.neighbours]}
            for card in cards
        ],
        "difference": facts.difference,
    }


def _describe_set(one: SetFacts) -> dict[str, Any]:
    statistics = {stat.name: {"measured": len(stat.values), **stat.summary} for stat in one.statistics}
    return {"records": one.records, "looked_at": one.looked_at, **statistics}


def render(url: str, facts: Facts, sets: Sequence[SetFacts], cards: Sequence[Card]) -> str:
    """The page as HTML."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("noisebank.report"), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    environment.filters |= _FILTERS
    snapshot = facts.snapshot
    by_source = facts.failed_by_source
    rows = {**dict.fromkeys(by_source, 0), **snapshot.sources}
    text: str = environment.get_template("page.html").render(
        name=url.rstrip("/").rpartition("/")[2] or url,
        url=url,
        facts=facts,
        snapshot=snapshot,
        sets=sets,
        cards=cards,
        replays=any(card.replayed for card in cards),
        rows=sum(rows.values()),
        sources=sorted(rows.items(), key=lambda item: (-item[1], item[0])),
        by_source=by_source,
        failed=sum(by_source.values()),
        codes_failed=len({one.code for one in facts.failures}),
        files=sum(one.files for one in facts.files),
        plots=_plot(facts, sets),
        difference=facts.difference,
        codes=[*_compare_codes(facts)],
    )
    return text.translate(_NOT_HTML)


def _plot(facts: Facts, sets: Sequence[SetFacts]) -> dict[Any, Markup]:
    codes: Counter[str] = Counter()
    for failed in facts.failures:
        codes[failed.code] += failed.rows
    plots: dict[Any, Markup] = {}
    if codes:
        names, counts = zip(*codes.most_common(_CODES), strict=True)
        plots["failures"] = bars(names, counts, [*map(show_count, counts)], "Failures by code, as in the table below")
    kinds = [one.kind for one in facts.files]
    sizes = [one.bytes for one in facts.files]
    plots["storage"] = bars(kinds, sizes, [*map(show_bytes, sizes)], "Bytes by kind of file")
    for one in sets:
        for stat in one.statistics:
            about = f"Histogram of {stat.name} in {one.name}"
            drawn = histogram(stat.values, "relative", about) if len(stat.values) else Markup()
            plots[one.name, stat.name] = drawn
    return plots


def _compare_codes(facts: Facts) -> Iterator[tuple[str, int, int]]:
    """Each code with its failures in the compared snapshot and in this."""
    if facts.compared:
        before, after = facts.compared.failure_counts, facts.snapshot.failure_counts
        for code in sorted({*before, *after}):
            yield code, before.get(code, 0), after.get(code, 0)


def show_count(number: int) -> str:
    """A whole number with separators."""
    return f"{number:,}"


def show_bytes(number: float) -> str:
    """A size with three digits, in the units of disks.

    >>> show_bytes(999), show_bytes(131_072), show_bytes(1.3e12)
    ('999 B', '131 kB', '1.3 TB')
    """
    for unit in ("B", "kB", "MB", "GB", "TB"):  # noqa: B007
        if number < 999.5:
            break
        number /= 1000
    return f"{number:.3g} {unit}"


def show_seconds(seconds: float) -> str:
    """A time in the unit that people would take.

    >>> show_seconds(0.25), show_seconds(90), show_seconds(7300)
    ('0.25 s', '90 s', '2.03 h')
    """
    if seconds < 600:
        return f"{seconds:.3g} s"
    return f"{seconds / 60:.3g} min" if seconds < 6000 else f"{seconds / 3600:.3g} h"


def show_small(number: float) -> str:
    """A small number with two digits."""
    return f"{number:.2g}" if 0.01 <= number < 1000 else f"{number:.1e}"


def _show_day(moment: str) -> str:
    try:
        return f"{datetime.fromisoformat(moment):%Y-%m-%d %H:%M} UTC"
    except ValueError:
        return moment


def _choose_settings(model: Mapping[str, Any]) -> list[tuple[str, str]]:
    named = {name: model.get(name) for name in _SETTINGS}
    return [
        (name.replace("_", " "), " × ".join(map(str, value)) if isinstance(value, list) else str(value))
        for name, value in named.items()
        if value is not None
    ]


_FILTERS: dict[str, Callable[..., Any]] = {
    "count": show_count,
    "bytes": show_bytes,
    "seconds": show_seconds,
    "small": show_small,
    "day": _show_day,
    "settings": _choose_settings,
}
