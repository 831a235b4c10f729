"""What is in a snapshot, which files it is made of, and what changed between two."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from noisebank.errors import BankDamaged, BankNotFound, ConfigError
from noisebank.format.manifest import Snapshot, latest_snapshot
from noisebank.format.parts import part_entries, read_parts
from noisebank.format.reading import read_table
from noisebank.format.schemas import RECORDS, ROWS
from noisebank.format.stage_names import CAPTIONS, CLIPS, INDEX, NOISE, PLAN, SIDECARS, StageName
from noisebank.format.status import Status
from noisebank.format.tables import FAILURE_KEY, OverlayTable, slice_edges
from noisebank.planning.plan import find_refused_plan, plan_path, read_plan
from noisebank.storage import FileEntry, Store

KINDS = (CLIPS, SIDECARS, CAPTIONS, NOISE, INDEX, "rows", "records", "failures", "parts", "touched", "expired")
_SHOWN = ("shape", "dtype", "model", "inverter", "num_inference_steps", "replay_error")


def snapshot_files(store: Store, snapshot: Snapshot, kind: str | None = None) -> list[FileEntry]:
    """The files of a snapshot, sorted by path: by default all, else those of one kind.

    Args:
        store: the bank.
        snapshot: the snapshot.
        kind: one of :data:`KINDS`; ``clips`` are the tars, ``noise`` and ``records`` also ``noise/<set>``.

    Raises:
        ConfigError: there is no such kind, or no such noise set in the snapshot; lists those there are.
    """
    keys = sorted(snapshot.record_counts)
    kinds = [*KINDS, *(StageName.of_records(key).name for key in keys), *(f"records/{key}" for key in keys)]
    if kind not in (None, *kinds):
        raise ConfigError(f"kind: {kind!r} is not allowed; one of {', '.join(kinds)}")
    own = {
        "rows": snapshot.rows,
        "failures": snapshot.failures,
        "expired": snapshot.expired,
        "touched": (snapshot.touched,) if snapshot.touched else (),
        "index": tuple(file for segment in snapshot.index for file in segment.files),
        "parts": tuple(file for part in snapshot.parts.values() for file in part),
        **{f"records/{name}": entries for name, entries in snapshot.records.items()},
    }
    wanted = {name for name in (*own, *snapshot.parts) if kind in (None, name, name.partition("/")[0])}
    files = [file for name in wanted & own.keys() for file in own[name]]
    for name in wanted & snapshot.parts.keys():
        files += part_entries(read_parts(store, snapshot.parts[name]))
    return sorted(files, key=lambda entry: entry.path)


def describe(store: Store, snapshot: Snapshot) -> dict[str, Any]:
    """What ``noisebank show`` prints, as a JSON object: counts, noise sets, index, embedding, failures and bytes."""
    records = {StageName.of_records(key): count for key, count in snapshot.record_counts.items()}
    embedding = snapshot.models.get("captions", {})
    newest = snapshot.index[-1] if snapshot.index else None
    largest = max(snapshot.index, key=lambda segment: segment.size, default=None)
    return {
        "snapshot": snapshot.number,
        "parent": snapshot.parent,
        "created": snapshot.created,
        "rows": snapshot.in_bank,
        "sources": dict(snapshot.sources),
        "noise": {
            stage.set: {"records": count} | {key: (stage.find(snapshot.models) or {}).get(key) for key in _SHOWN}
            for stage, count in records.items()
            if stage.kind == NOISE
        },
        "stages": {stage.name: {"records": count} for stage, count in records.items() if stage.kind != NOISE},
        "index": {
            "kind": largest.kind if largest else None,
            "size": sum(segment.live for segment in snapshot.index),
            "recall": newest.recall if newest else None,
        },
        "embedding": {"model": embedding.get("model"), "dim": embedding.get("dim")},
        "failures": dict(snapshot.failure_counts),
        "bytes": snapshot.total_bytes,
    }


def read_failures(store: Store, snapshot: Snapshot) -> list[dict[str, Any]]:
    """Every row that is not in the bank, and why, sorted by id and stage.

    What a list is to blame for also says where it was read, if the snapshot's plan is still there.
    """
    return _read_failure_rows(store, snapshot.failures, snapshot.plan)


def read_unpublished_failures(store: Store) -> list[dict[str, Any]]:
    """What failed in the last build upon the latest snapshot that published nothing because too much did; as
    :func:`read_failures`, ``last_snapshot`` 0.

    Raises:
        BankNotFound: there is neither a snapshot nor such a build.
    """
    latest = latest_snapshot(store)
    refused = find_refused_plan(store, latest.uuid if latest else "")
    if refused is None and latest is None:
        raise BankNotFound(f"{store.url}: no snapshot, and no build that published nothing; check the address")
    return _read_failure_rows(store, refused[1], refused[0].hash) if refused else []


def _read_failure_rows(store: Store, files: Sequence[FileEntry], plan: str) -> list[dict[str, Any]]:
    """The failures in a table of them that hold; ``plan`` is the hash of the one that was carried out."""
    if not files:
        return []
    table = OverlayTable(store, files, FAILURE_KEY).read()
    table = table.filter(pc.not_equal(table.column("code"), "")).drop_columns(["num"])
    places = _read_places(store, plan)
    rows: list[dict[str, Any]] = table.sort_by([("id", "ascending"), ("stage", "ascending")]).to_pylist()
    for row in rows:
        if row["stage"] == PLAN and row["id"] in places:
            row["message"] += f" ({places[row['id']]})"
    return rows


def _read_places(store: Store, plan: str) -> dict[str, str]:
    """File and row of the invalid rows that a plan read, by id."""
    try:
        locations = read_plan(store, plan_path(plan)).locations if plan else ()
    except (FileNotFoundError, BankDamaged):  # (plans are working papers: vacuum removes them)
        return {}
    places: dict[str, str] = {}
    for entry in locations:
        table = read_table(store, entry.path).filter(pc.field("status") == "invalid")
        for row in table.to_pylist():
            places.setdefault(row["id"], f"{row['file']}, row {row['row']}")
    return places


def diff(store: Store, before: Snapshot, after: Snapshot) -> dict[str, Any]:
    """What changed between two snapshots, as a JSON object of counts.

    ``added`` and ``removed`` are rows with a clip and a caption; ``changed_clips`` and ``changed_captions`` are held in
    another place than before (also after compaction); ``noise`` the records added, removed and changed by set.
    """
    rows = _compare(store, before.rows, after.rows, ROWS, "clip_file", "clip_row")
    captions = _compare(store, before.rows, after.rows, ROWS, "caption_file", "caption_row")
    noise = {
        name: _compare(store, before.records.get(name, ()), after.records.get(name, ()), RECORDS, "file", "row")
        for name in sorted({*before.records, *after.records})
    }
    return {
        "before": before.number,
        "after": after.number,
        "added": rows["added"],
        "removed": rows["removed"],
        "changed_clips": rows["changed"],
        "changed_captions": captions["changed"],
        "noise": noise,
        "failures": {"before": sum(before.failure_counts.values()), "after": sum(after.failure_counts.values())},
        "bytes": {"before": before.total_bytes, "after": after.total_bytes},
    }


def _compare(
    store: Store, before: Sequence[FileEntry], after: Sequence[FileEntry], schema: pa.Schema, file: str, row: str
) -> dict[str, int]:
    """How many rows hold something only after, only before, or in another place."""
    counts = {"added": 0, "removed": 0, "changed": 0}
    tables = [OverlayTable(store, entries, schema=schema) for entries in (before, after)]
    held = (pc.field("status") != int(Status.REMOVED)) & (pc.field(file) != pa.scalar(0, pa.uint64()))
    edges = slice_edges(tables)
    for lo, hi in zip(edges, [*edges[1:], None], strict=True):
        old, new = (table.slice(lo, hi).filter(held).select(["num", file, row]) for table in tables)
        both = old.join(new, "num", join_type="full outer", right_suffix="_after")
        moved = [pc.not_equal(both.column(name), both.column(f"{name}_after")) for name in (file, row)]
        counts["added"] += both.column(file).null_count
        counts["removed"] += both.column(f"{file}_after").null_count
        counts["changed"] += pc.sum(pc.or_(*moved)).as_py() or 0
    return counts
