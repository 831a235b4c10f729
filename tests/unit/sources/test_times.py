"""Times of lists in milliseconds, one at a time and in columns."""

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from noisebank.sources.times import duration_ms, each_ms, time_ms, times_ms


@given(st.lists(st.one_of(st.none(), st.integers(0, 99 * 3_600_000)), max_size=20), st.integers(0, 3))
def test_a_column_agrees_with_its_values(times: list[int | None], kind: int) -> None:
    def clock(ms: int) -> str:
        return f"{ms // 3_600_000:02d}:{ms // 60_000 % 60:02d}:{ms // 1000 % 60:02d}.{ms % 1000:03d}"

    texts = [None if ms is None else clock(ms) for ms in times]
    if kind == 1:
        texts = [None if ms is None else f"{ms / 1000:.3f}" for ms in times]
    if kind == 2 and texts:
        texts[0] = "12:5"
        times = [725_000, *times[1:]]
    column = pa.array(texts, pa.string()) if kind < 3 else pa.array([ms and ms / 1000 for ms in times], pa.float64())
    parsed, bad = times_ms(column)
    assert parsed.to_pylist() == times
    assert not bad.any()


@pytest.mark.parametrize(
    "text", ["-1", "nan", "inf", "00:60:00", "00:00:61.000", "0x10", "1:2:3:4", "5s", "00:00:0a.000"]
)
def test_what_is_no_time_is_bad(text: str) -> None:
    for others in ([], ["00:00:01.000"], ["2.5"]):
        parsed, bad = times_ms(pa.array([text, *others]))
        assert bad.tolist() == [True] + [False] * len(others)
        assert parsed.to_pylist()[1:] == [time_ms(other) for other in others]


def test_empty_text_is_no_time_and_not_bad() -> None:
    parsed, bad = times_ms(pa.array(["", None, "3"]))
    assert (parsed.to_pylist(), bad.tolist()) == ([None, None, 3000], [False] * 3)


@pytest.mark.parametrize("kind", [pa.uint64(), pa.int64()])
def test_a_number_too_large_for_a_time_costs_its_row(kind: pa.DataType) -> None:
    parsed, bad = times_ms(pa.array([5, 2**53 + 1, 2**63 - 1, None], kind))
    assert (parsed.to_pylist(), bad.tolist()) == ([5000, None, None, None], [False, True, True, False])


def test_durations_of_webvid() -> None:
    texts = ["PT00H00M05S", "PT1H0M0.5S", "PT00H00M00S", "5", "", "PT", "PT5S "]
    assert each_ms(pa.array(texts), duration_ms).to_pylist() == [5000, 3_600_500, None, None, None, None, 5000]
