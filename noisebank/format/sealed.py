"""JSON documents that carry a digest of themselves, so that damage is found before anything is believed."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from noisebank.errors import BankDamaged, remedy_of

_DIGEST = "digest"


def seal(document: Mapping[str, Any]) -> bytes:
    """``document`` as JSON with the sha256 of the rest in its last key, ``digest``.

    Any JSON reader opens it. To check by hand: remove ``digest``, serialise with sorted keys and no spaces, hash.

    Raises:
        ValueError: a number is not finite, which JSON has no word for.
    """
    return (json.dumps({**document, _DIGEST: _digest(document)}, indent=1, allow_nan=False) + "\n").encode()


def unseal(data: bytes, name: str) -> dict[str, Any]:
    """The document in ``data``, without its digest.

    Raises:
        BankDamaged: it is not a JSON object, or not, to the byte, what :func:`seal` makes of its content, or it has a
            number that no column holds; names the file ``name``.
    """
    try:
        document = json.loads(data, parse_int=_parse_int)
        if not isinstance(document, dict) or _DIGEST not in document:
            raise ValueError("a JSON object with a digest is wanted")
        del document[_DIGEST]
        if data != seal(document):
            raise ValueError("differs from the digest in it")
    except (ValueError, RecursionError) as error:
        raise BankDamaged(f"{name}: not JSON as noisebank writes it ({error}); {remedy_of(name)}") from error
    return document


def _parse_int(digits: str) -> int:
    number = int(digits)
    if not -(1 << 63) <= number < 1 << 63:
        raise ValueError(f"{digits:.30} has more than 64 bits")
    return number


def _digest(document: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(document, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
