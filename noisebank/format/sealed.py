"""JSON documents that carry a digest of themselves, so that damage is found before anything is believed."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any, NoReturn

from noisebank.errors import BankDamaged

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
        BankDamaged: it is not a JSON object, or not, to the byte, what :func:`seal` makes of its content; names the
            file ``name``.
    """
    try:
        document = json.loads(data, parse_constant=_refuse)
    except (ValueError, RecursionError) as error:
        raise BankDamaged(f"{name}: not JSON ({error}); restore it from a copy") from error
    if not isinstance(document, dict) or _DIGEST not in document:
        raise BankDamaged(f"{name}: a JSON object with a digest is wanted; restore it from a copy")
    del document[_DIGEST]
    if data != seal(document):
        raise BankDamaged(f"{name}: differs from the digest in it; restore it from a copy")
    return document


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is no JSON")


def _digest(document: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(document, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
