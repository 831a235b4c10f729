"""What passes between workers: descriptors of shards, never rows, videos, embeddings or noise."""

from __future__ import annotations

from benchmarks.shuffled import watch_shuffles
from tests.support.projects import Project

ROWS = 12
BYTES_A_SHARD = 900
"""Of a task, or of finished clips on their way to a stage that follows them."""
BYTES_A_ROW = 800
"""Of everything, the plan's own shuffles included, where a shard has four rows; clips and noise are many KB a row."""


def test_shards_are_shuffled_as_descriptors_however_many_rows_they_have(project: Project) -> None:
    project.write_list(project.rows(ROWS))
    sizes = {}
    for rows_a_shard in (4, ROWS):
        project.configure(bank=str(project.folder / f"bank{rows_a_shard}"))
        with watch_shuffles() as shuffled:
            project.build("--clips.maxcount", rows_a_shard)
        shards = [one.bytes for one in shuffled if b"ShardWork" in one.value]
        assert len(shards) == 3 * ROWS / rows_a_shard, "once before clips, captions and noise each"
        assert max(shards) < BYTES_A_SHARD
        sizes[rows_a_shard] = sum(one.bytes for one in shuffled), sum(shards)
    assert sizes[4][0] < BYTES_A_ROW * ROWS
    assert sizes[ROWS][1] * 2 < sizes[4][1], "what is shuffled grows with shards, not with rows"
