"""Lists of prompts: a text file with one a line, or csv, jsonl or Parquet with a column ``prompt``.

Every command that takes prompts reads them here, and what one writes is read by the others. A row that cannot be used
is kept, with the reason, and costs nobody else anything; a list without rows is an error.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from noisebank.errors import ConfigError
from noisebank.ids import xxh64
from noisebank.options import SourceOptions
from noisebank.sources import FORMATS, RANGE_BYTES, ListFile, expand
from noisebank.sources.block import QUOTED, Block, parse_records
from noisebank.sources.formats import text_format
from noisebank.sources.json_lines import last_record_end

LONGEST_PROMPT = 10_000
"""Characters; a longer one is a mistake in the list, and embedding it would hold up the others."""
_PROMPT, _ID = "prompt", "id"


def _parse_lines(data: bytes, header: list[str], columns: list[str]) -> Block:
    lines = (line.removesuffix(b"\r") for line in data.split(b"\n"))
    return parse_records(filter(bytes.strip, lines), [_PROMPT], lambda line: [line.decode("utf-8-sig")], "bad_line")


_FORMATS = {name: FORMATS[name] for name in ("csv", "jsonl", "parquet")} | {
    "txt": text_format((".txt",), lambda file: ([_PROMPT], 0), last_record_end, _parse_lines)
}


def read_prompts(path: str | Path, also: Sequence[str] = ()) -> pa.Table:
    """The prompts of a list, in its order.

    Args:
        path: file that ends in ``.txt``, ``.csv``, ``.jsonl`` or ``.parquet``; local, or ``gs://``, ``s3://``,
            ``az://``; a glob or brace range gives several, one after the other.
        also: names of further columns to read, as text; null where a list has none.

    Returns:
        Text columns ``prompt`` (as it stands; empty where it cannot be read), ``id`` (as listed; where the list has
        none, 16 hexadecimal digits of the prompt's XXH64), ``invalid`` (null, or ``"code: message"`` of a row that
        cannot be used: ``empty_prompt``, ``long_prompt``, ``bad_utf8``, ``ragged_row``, ``bad_json``,
        ``bad_list``) and those of ``also``. Blank lines are no rows. Ids need not be unique, nor prompts.

    Raises:
        ConfigError: a file is missing, cannot be read, is of another format or has no column ``prompt``; or the list
            has no rows.
    """
    source = SourceOptions("prompts", (str(path),))
    blocks = [_rows(block, also) for address in expand(source) for block in _blocks(source, address, also)]
    schema = pa.schema([(name, pa.string()) for name in (_PROMPT, _ID, "invalid", *also)])
    table = pa.concat_tables([schema.empty_table(), *blocks]).combine_chunks()
    if not table.num_rows:
        raise ConfigError(f"prompts {path}: there is none in it; one a line, or rows with a column {_PROMPT!r}")
    return table


def read_usable(path: str) -> tuple[list[dict[str, str]], list[dict[str, Any]]]:
    """The rows of a list that can be used, and those that cannot.

    Returns:
        ``prompt``, ``id`` and ``image`` (its full address; empty where there is none) of the former; ``row`` (counted
        from 1), ``id``, ``code`` and ``message`` of the latter.

    Raises:
        ConfigError: as :func:`read_prompts`; or no row can be used.
    """
    usable, invalid = [], []
    for number, row in enumerate(read_prompts(path, also=["image"]).to_pylist(), 1):
        if row["invalid"]:
            code, _, message = row["invalid"].partition(": ")
            invalid.append({"row": number, "id": row[_ID], "code": code, "message": message})
        else:
            image = image_address(path, row["image"])
            image = str(Path(image).absolute()) if image and "://" not in image else image
            usable.append({_PROMPT: row[_PROMPT], _ID: row[_ID], "image": image})
    if not usable:
        first = invalid[0]
        raise ConfigError(f"prompts {path}: no row can be used; row 1 is {first['code']}: {first['message']}")
    return usable, invalid


def image_address(path: str, image: str | None) -> str:
    """Where the image of a row of the list ``path`` is, if it names one: a relative path is one beside the list."""
    folder, image = path.rpartition("/")[0], (image or "").strip()
    is_relative = image and "://" not in image and not image.startswith("/")
    return f"{folder}/{image}" if is_relative and folder else image


def list_bytes(name: str, rows: Sequence[Mapping[str, str]]) -> bytes:
    """A list that :func:`read_prompts` reads as these rows: ``.jsonl``, or ``.txt``, which has the prompts alone.

    Args:
        name: of the file.
        rows: ``prompt``, ``id`` and ``image`` (:func:`read_usable`); of equal ones the first is written.

    Raises:
        ConfigError: the name ends otherwise; or it is ``.txt``, and a row has an image or a prompt that is no line.
    """
    rows = [*{tuple(row.items()): row for row in rows}.values()]
    if name.lower().endswith(".jsonl"):
        return b"".join(json.dumps({key: text for key, text in row.items() if text}).encode() + b"\n" for row in rows)
    if not name.lower().endswith(".txt"):
        raise ConfigError(f"{name}: a name that ends in .txt or .jsonl is wanted")
    for row in rows:
        prompt = row[_PROMPT]
        if row["image"] or "\n" in prompt or prompt.endswith("\r") or prompt.startswith("\ufeff"):
            kept = "the image of" if row["image"] else "all of"
            raise ConfigError(f"{name}: a line cannot hold {kept} prompt {prompt[:QUOTED]!r}; name a .jsonl")
    return "".join(f"{row[_PROMPT]}\n" for row in rows).encode()


def _blocks(source: SourceOptions, address: str, also: Sequence[str]) -> Iterator[Block]:
    suffix = Path(address).suffix.lower()
    format = next((name for name, known in _FORMATS.items() if suffix in known.suffixes), None)
    if format is None:
        allowed = ", ".join(suffix for known in _FORMATS.values() for suffix in known.suffixes)
        raise ConfigError(f"prompts {address}: a name that ends in one of {allowed} is wanted")
    file, reader = ListFile(source, address, 0, format), _FORMATS[format]
    if file.is_http:
        raise ConfigError(f"prompts {address}: a local path or gs://, s3:// or az:// is wanted; download it first")
    header = reader.columns(file)
    if header and header.count(_PROMPT) != 1:
        problem = "is there twice" if _PROMPT in header else "is missing"
        raise ConfigError(f"prompts {address}: column {_PROMPT!r} {problem}; found: {', '.join(header)}")
    if not header and format != "jsonl":  # (of jsonl, these are the keys of lines that can be read)
        return
    columns = [_PROMPT, _ID, *also]
    wanted = columns if format == "jsonl" else [name for name in columns if name in header]
    for span in reader.ranges(file, RANGE_BYTES):
        yield from reader.blocks(file, span, header, wanted)


def _rows(block: Block, also: Sequence[str]) -> pa.Table:
    prompts = [text or "" for text in block.text(_PROMPT).to_pylist()]
    ids = [id or f"{xxh64(prompt):016x}" for id, prompt in zip(block.text(_ID).to_pylist(), prompts, strict=True)]
    invalid = [block.bad.get(i) or _problem(prompt) for i, prompt in enumerate(prompts)]
    columns = [pa.array(column, pa.string()) for column in (prompts, ids, invalid)]
    return pa.table([*columns, *map(block.text, also)], names=[_PROMPT, _ID, "invalid", *also])


def _problem(prompt: str) -> str | None:
    if not prompt.strip():
        return "empty_prompt: no prompt in this row"
    if len(prompt) > LONGEST_PROMPT:
        return f"long_prompt: {len(prompt)} characters, at most {LONGEST_PROMPT} are read: {prompt[:QUOTED]!r}"
    return None
