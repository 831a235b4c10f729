"""The table of benchmarks: its command line, and how lines get into a document."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import roundtrip
from benchmarks.__main__ import main
from benchmarks.table import BEGIN, END, Row, lines, replace_lines

ROW = Row("a fast thing", "a floor", 1.0 / 3, "<= 1.2", 1234.5, "a note")


def document(path: Path, table: str = "") -> Path:
    path.write_text(f"# Title\n\n{BEGIN}\n{table}{END}\n\nMore text.\n", encoding="utf-8")
    return path


def test_a_row_has_three_digits_and_dashes_for_what_is_not_measured() -> None:
    assert lines("fast", [ROW]) == "| fast | a fast thing | a floor | 0.333 | <= 1.2 | 1234 | a note |\n"
    unmeasured = Row("a plan", "-", None, "-", None)
    assert lines("plan", [unmeasured]) == "| plan | a plan | - | - | - | - |  |\n"


def test_benchmarks_that_were_not_run_keep_their_lines_and_the_order_is_the_suites(tmp_path: Path) -> None:
    path = document(tmp_path / "a.md")
    order = ["one", "two", "three"]
    replace_lines(path, {"three": "| three | old |\n", "one": "| one | 1 |\n"}, order, "a machine")
    replace_lines(path, {"three": "| three | new |\n", "two": "| two | 2 |\n"}, order, "another machine")
    text = path.read_text(encoding="utf-8")
    assert text.startswith(f"# Title\n\n{BEGIN}\n")
    assert text.endswith(f"\nanother machine\n\n{END}\n\nMore text.\n")
    assert "a machine" not in text
    rows = [line for line in text.splitlines() if line.startswith("|")]
    assert rows[2:] == ["| one | 1 |", "| two | 2 |", "| three | new |"]


def test_a_document_without_a_place_for_the_table_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.md"
    path.write_text("# Title\n", encoding="utf-8")
    with pytest.raises(ValueError, match=r"a\.md: no lines"):
        replace_lines(path, {"one": "| one | 1 |\n"}, ["one"], "a machine")
    assert path.read_text(encoding="utf-8") == "# Title\n"


@pytest.mark.parametrize(
    ("arguments", "says"),
    [(["nothing"], "no benchmark 'nothing'; there are shard"), (["--quick", "--write", "a.md"], "leave --quick out")],
)
def test_wrong_usage(arguments: list[str], says: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit:
        main(arguments)
    assert exit.value.code == 2
    assert says in capsys.readouterr().err


def test_half_precision_costs_the_pipeline_more_than_the_record_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(roundtrip, "SHAPES", {"stable-diffusion": (1, 64, 64)})
    _, _, row = roundtrip.precisions(tmp_path)
    family, *cells = row.strip("| ").split(" | ")
    recorded, pipeline = [float(cell) for cell in cells[:-1:2]], [float(cell) for cell in cells[1::2]]
    assert (family, len(recorded), len(pipeline)) == ("stable-diffusion", 3, 3)
    assert pipeline[0] == pytest.approx(recorded[0], rel=0.1)
    assert pipeline[1] > 2 * recorded[1] and pipeline[2] > 2 * recorded[2]
    assert pipeline[0] < pipeline[1] < pipeline[2]
    assert float(cells[-1]) > 2 * recorded[2]
