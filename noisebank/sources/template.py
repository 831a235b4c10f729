"""Templates of columns, ``{page_dir}/{videoid}.mp4``: each name in braces stands for the row's text of that column.

No value can lead out of the folder that the template names: one with ``..`` (or ``%2e%2e``), a leading ``/`` or, in a
template of more than that column, ``://`` makes its row bad.
"""

from __future__ import annotations

import re

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from noisebank.errors import ConfigError
from noisebank.sources.block import QUOTED, Block

_PLACE = re.compile(r"\{([^{}]+)\}")
_UPWARDS = r"(?i)(?:\.|%2e){2}"
_ADDRESS = "://"


def is_template(name: str | None) -> bool:
    """Whether ``name`` is a template, not a column.

    >>> is_template("{id}.mp4"), is_template("video")
    (True, False)
    """
    return bool(name and _PLACE.search(name))


def columns_of(name: str | None) -> list[str]:
    """The columns that a template has, or the one that ``name`` is.

    >>> columns_of("{page_dir}/{videoid}.mp4"), columns_of("video"), columns_of(None)
    (['page_dir', 'videoid'], ['video'], [])
    """
    return _PLACE.findall(name) if name and is_template(name) else [name] if name else []


def check_template(name: str | None) -> None:
    """Raises :class:`ConfigError` for a template with a brace that is of no column's name."""
    if name and is_template(name) and re.search(r"[{}]", _PLACE.sub("", name)):
        raise ConfigError(f"template {name!r}: a brace stands alone; {{column}} is wanted, and files without braces")


def add_rendered(block: Block, template: str) -> Block:
    """A block with one more column, called as the template, that has its text for every row; null where a column that
    it names is empty. A value that leads elsewhere makes its row ``bad_uri``."""
    bad = dict(block.bad)
    parts: list[pa.Array | pa.Scalar] = []
    for i, text in enumerate(_PLACE.split(template)):
        if i % 2 == 0:
            parts.append(pa.scalar(text))
            continue
        values = block.text(text)
        parts.append(pc.if_else(pc.equal(values, ""), None, values))
        leads = pc.or_(pc.match_substring_regex(values, _UPWARDS), pc.starts_with(values, "/"))
        if template != f"{{{text}}}":
            leads = pc.or_(leads, pc.match_substring(values, _ADDRESS))
        _refuse(bad, leads, f"the value of column {text!r} leads out of its folder:", values)
    rendered = pc.binary_join_element_wise(*parts, "")
    literal = _PLACE.sub("", template)
    if not re.search(_UPWARDS, literal):  # (two values beside each other)
        leads = pc.match_substring_regex(rendered, _UPWARDS)
        _refuse(bad, leads, "its columns lead out of their folder:", rendered)
    if literal and _ADDRESS not in literal:
        leads = pc.match_substring(rendered, _ADDRESS)
        _refuse(bad, leads, "its columns lead out of their folder:", rendered)
    return Block(block.table.append_column(template, rendered), bad)


def _refuse(bad: dict[int, str], mask: pa.Array, what: str, values: pa.Array) -> None:
    for i in np.flatnonzero(np.asarray(mask.fill_null(False))).tolist():
        bad.setdefault(i, f"bad_uri: {what} {values[i].as_py()!r:.{QUOTED}}")
