"""Ids: safe as names in tars, stable, and the numbers that stand for them."""

from __future__ import annotations

import re

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from noisebank.ids import CLIP_BITS, NUMBER_BITS, clip_number, clip_numbers, safe, xxh64, xxh64_of

texts = st.text(max_size=200).filter(lambda text: text.isprintable())
names = st.from_regex(r"[A-Za-z0-9_]{1,20}", fullmatch=True)
times = st.integers(0, 10**8)


@pytest.mark.parametrize(
    ("text", "digest"),
    [("", 0xEF46DB3751D8E999), ("a", 0xD24EC4F1A98C6E5B), ("abc", 0x44BC2CF5AD770999)],
)
def test_the_hash_is_xxh64_with_seed_zero_as_its_specification_has_it(text: str, digest: int) -> None:
    assert xxh64(text) == digest
    assert xxh64_of(pa.array([text])).tolist() == [digest]


@given(texts)
def test_a_safe_name_has_only_letters_digits_underscores_and_hyphens(text: str) -> None:
    assert re.fullmatch(r"[A-Za-z0-9_-]*", safe(text))
    assert len(safe(text)) <= 180


@given(texts, texts)
def test_different_texts_have_different_safe_names(one: str, other: str) -> None:
    assert (safe(one) == safe(other)) == (one == other)


@pytest.mark.parametrize("text", ["../../etc/passwd", "a.b", "a/b", "ä", "x" * 1000, "a\\b", "C:\\x"])
def test_what_is_no_safe_name_carries_a_hash_of_the_whole(text: str) -> None:
    assert safe(text).endswith(f"-{xxh64(text):016x}")


@given(st.lists(st.tuples(names, texts, st.one_of(st.none(), st.tuples(times, times))), min_size=1, max_size=20))
def test_the_column_form_gives_the_same_numbers(parts: list[tuple[str, str, tuple[int, int] | None]]) -> None:
    ids = ["-".join([source, safe(video), *map(str, span or ())]) for source, video, span in parts]
    numbers = clip_numbers(pa.array(ids))
    assert numbers.dtype == np.int64
    assert numbers.tolist() == [clip_number(id) for id in ids]
    assert all(0 <= number < 1 << NUMBER_BITS for number in numbers.tolist())


@given(names, names, times, times)
def test_clips_of_one_video_are_neighbours(source: str, video: str, start: int, end: int) -> None:
    whole, part = clip_number(f"{source}-{video}"), clip_number(f"{source}-{video}-{start}-{end}")
    assert whole >> CLIP_BITS == part >> CLIP_BITS == xxh64(f"{source}-{video}") >> (64 - 24)
    assert part & (1 << CLIP_BITS) - 1 == xxh64(f"{source}-{video}-{start}-{end}") >> (64 - CLIP_BITS)
