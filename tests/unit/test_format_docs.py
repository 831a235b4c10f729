"""The tables of columns in docs/format.md are those of the schemas."""

from __future__ import annotations

import re
from pathlib import Path

import pyarrow as pa
import pytest

from schemas.captions import ENTRIES, captions_schema
from schemas.clips import CLIPS
from schemas.failures import FAILURES
from schemas.noise import noise_schema

FORMAT = Path(__file__).parents[2] / "docs" / "format.md"
SHAPE = (2, 3, 5, 7)
DIM = 11
LETTERS = {SHAPE: "C, F, H, W", (2,): "C", (6,): "C * F", (DIM,): "D"}
NAMES = {pa.float16(): "float16", pa.float32(): "float32", pa.float64(): "float64"}


def documented(heading: str) -> list[tuple[str, str]]:
    """Names and types of the table that follows the line that starts with ``heading``."""
    (_, text) = FORMAT.read_text(encoding="utf-8").split(f"\n`{heading}`, sorted by")
    table = text.split("\n\n")[1]
    rows = [re.split(r"(?<!\\)\|", line)[1:-1] for line in table.splitlines()]
    assert [cell.strip() for cell in rows[0]] == ["column", "type", "meaning", "unit"]
    assert all(len(row) == 4 and row[2].strip() for row in rows)
    return [(row[0].strip(" `"), row[1].strip()) for row in rows[2:]]


def type_name(type: pa.DataType) -> str:
    """A type as the document writes it."""
    if isinstance(type, pa.FixedShapeTensorType):
        return f"fixed_shape_tensor<{type_name(type.value_type)}>[{LETTERS[tuple(type.shape)]}]"
    if pa.types.is_fixed_size_list(type):
        return f"fixed_size_list<{type_name(type.value_type)}>[{LETTERS[type.list_size,]}]"
    return NAMES.get(type, str(type))


@pytest.mark.parametrize(
    ("heading", "schema"),
    [("clips/*.parquet", CLIPS), ("captions/*.parquet", captions_schema(DIM)), ("failures/*.parquet", FAILURES)],
)
def test_parquet_columns(heading: str, schema: pa.Schema) -> None:
    assert documented(heading) == [(field.name, type_name(field.type)) for field in schema]


def test_entries_have_the_first_columns_of_captions() -> None:
    assert documented("captions/*.parquet")[:4] == [(field.name, type_name(field.type)) for field in ENTRIES]


@pytest.mark.parametrize("dtype", ["float16", "int8"])
def test_noise_columns(dtype: str) -> None:
    columns = [(name, type.replace("float16 or int8", dtype)) for name, type in documented("noise/<set>/*.arrow")]
    if dtype == "float16":
        columns = [column for column in columns if column[0] != "scale"]
    assert columns == [(field.name, type_name(field.type)) for field in noise_schema(SHAPE, dtype)]
