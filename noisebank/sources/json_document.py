"""JSON files that are one document: an array of objects, or an object with lists of them (MSR-VTT), as lines.

An array is copied element by element, each as it is spelt; a document with lists is read whole. Lists that share a key
are joined by it: of the second, every member becomes a list of what its rows say of a row of the first.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TextIO

from noisebank.errors import ConfigError

_CHUNK = 1 << 20
_LARGEST_DOCUMENT = 1 << 30
_QUOTED = 1000
_decoder = json.JSONDecoder(parse_int=str, parse_float=str, parse_constant=str)  # (numbers as they are written)


def is_document(path: Path) -> bool:
    """Whether a file is one JSON document, not one object a line."""
    with _open(path) as file:
        head = file.read(_CHUNK).lstrip("\ufeff \t\r\n")
    if head[:1] != "{":
        return head[:1] == "["
    line, newline, rest = head.partition("\n")
    if newline and rest.strip() and isinstance(_value(line), dict):
        return False
    if path.stat().st_size > _LARGEST_DOCUMENT:
        return False
    with _open(path) as file:
        found = _value(file.read())
    return isinstance(found, dict) and bool(_lists(found) or _members(found))


def write_lines(path: Path, target: Path) -> None:
    """Writes a document (:func:`is_document`) as one object a line.

    Raises:
        ConfigError: it has several lists that no key joins.
    """
    with _open(path) as file, target.open("w", encoding="utf-8", errors="surrogateescape", newline="\n") as lines:
        first = file.read(_CHUNK).lstrip("\ufeff \t\r\n")
        if first.startswith("["):
            lines.writelines(f"{element}\n" for element in _elements(first[1:], file))
            return
        for row in _rows(_decoder.decode(first + file.read())):
            lines.write(json.dumps(row, ensure_ascii=False) + "\n")


def _open(path: Path) -> TextIO:
    return path.open(encoding="utf-8", errors="surrogateescape", newline="")  # (a bad byte costs its row)


def _elements(text: str, file: TextIO) -> Iterator[str]:
    """The elements of an array from behind its bracket, and of those that follow it, each on one line; where one is
    damaged, or something else follows, the rest is one, and so is the end that an array lacks."""
    at, inside = 0, True
    while True:
        while at < len(text) and text[at] in (" \t\r\n," if inside else " \t\r\n"):
            at += 1
        if at < len(text) and text[at] == ("]" if inside else "["):
            at, inside = at + 1, not inside
            continue
        if at < len(text) and not inside:
            yield f"behind the end of the array: {_quote(text[at:])}"
            return
        try:
            _, end = _decoder.raw_decode(text, at)
        except (ValueError, RecursionError):
            more = file.read(max(_CHUNK, len(text) - at))
            if not more:
                if inside:
                    rest = _quote(text[at:])
                    yield f"the array cannot be read from here on: {rest}" if rest else "the array has no end"
                return
            text, at = text[at:] + more, 0
            continue
        yield text[at:end].replace("\n", " ").replace("\r", " ")  # (there are none inside of texts)
        at = end


def _quote(text: str) -> str:
    """The beginning of some text on one line."""
    return " ".join(text[:_QUOTED].split())


def _value(text: str) -> Any:
    try:
        return _decoder.decode(text.strip())
    except (ValueError, RecursionError):
        return None


def _lists(document: dict[str, Any]) -> dict[str, list[dict[str, Any]]]:
    """Its members that are lists of objects."""
    return {
        name: value
        for name, value in document.items()
        if isinstance(value, list) and value and all(isinstance(row, dict) for row in value)
    }


def _members(document: dict[str, Any]) -> list[dict[str, Any]]:
    """Its members, if all are objects, with their names as ``key``."""
    if not all(isinstance(value, dict) for value in document.values()):
        return []
    return [{"key": name, **value} for name, value in document.items()]


def _rows(document: dict[str, Any]) -> Sequence[dict[str, Any]]:
    lists = _lists(document)
    if not lists:
        return _members(document)
    if len(lists) == 1:
        return next(iter(lists.values()))
    keys = set.intersection(*({*rows[0]} for rows in lists.values()))
    if len(keys) != 1:
        what = f"several keys ({', '.join(sorted(keys))})" if keys else "no key"
        raise ConfigError(f"its lists {', '.join(lists)} share {what}; write one list of objects")
    return _join([*lists.values()], keys.pop())


def _join(lists: Sequence[Sequence[dict[str, Any]]], key: str) -> list[dict[str, Any]]:
    first = next((rows for rows in lists if len({str(row.get(key)) for row in rows}) == len(rows)), lists[0])
    joined = {str(row.get(key)): dict(row) for row in first}
    for rows in lists:
        for row in rows if rows is not first else ():
            target = joined.setdefault(str(row.get(key)), {key: row.get(key)})
            for name, value in row.items():
                if name != key:
                    target.setdefault(name, [])
                    target[name] = [*(target[name] if isinstance(target[name], list) else [target[name]]), value]
    return [*joined.values()]
