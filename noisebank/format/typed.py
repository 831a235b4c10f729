"""JSON documents as the types that the code expects: a wrong or missing member is named before anything uses it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import is_dataclass
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints, is_typeddict

from noisebank.errors import BankDamaged


def typed(value: Any, type: Any, name: str) -> Any:
    """``value``, read from JSON, as a value of ``type``.

    Args:
        value: what ``json.loads`` gave.
        type: a dataclass (an object with exactly its members), a ``TypedDict`` (an object; see :class:`Described`),
            ``Mapping[str, X]``, ``tuple[X, ...]`` or ``list[X]``, ``X | None``, ``Literal[...]``, ``int``, ``float``,
            ``bool``, ``str`` or ``Any``.
        name: of the value in its document, for errors.

    Raises:
        BankDamaged: it is not; names what is missing, unknown or of another type.
    """
    origin, arguments = get_origin(type), get_args(type)
    if type is Any:
        return value
    if origin in (Union, UnionType):
        return None if value is None else typed(value, arguments[0], name)
    if origin is Literal:
        if value not in arguments:
            raise BankDamaged(f"{name}: {value!r:.80} is not one of {', '.join(map(repr, arguments))}; run verify")
        return value
    if origin in (tuple, list):
        return origin(typed(item, arguments[0], f"{name}[{i}]") for i, item in enumerate(_checked(value, list, name)))
    if origin is Mapping:
        members = _checked(value, dict, name)
        return {key: typed(item, arguments[1], f"{name}.{key}") for key, item in members.items()}
    if is_dataclass(type) or is_typeddict(type):
        members, hints = _checked(value, dict, name), get_type_hints(type)
        if is_dataclass(type) and (differing := members.keys() ^ hints.keys()):
            raise BankDamaged(f"{name}: missing or unknown: {', '.join(sorted(differing))}; run verify")
        make = Described.of if is_typeddict(type) else lambda made, _: type(**made)
        return make({key: typed(item, hints.get(key, Any), f"{name}.{key}") for key, item in members.items()}, name)
    return _checked(value, (int, float) if type is float else type, name)


class Described(dict[str, Any]):
    """A JSON object some of whose members are optional: whoever needs one that is missing gets BankDamaged."""

    name = ""

    @classmethod
    def of(cls, members: Mapping[str, Any], name: str) -> Described:
        """``members``, and the objects among them, named for errors."""
        described = cls(
            {key: cls.of(item, f"{name}.{key}") if isinstance(item, dict) else item for key, item in members.items()}
        )
        described.name = name
        return described

    def __missing__(self, key: str) -> Any:
        raise BankDamaged(f"{self.name}.{key}: missing; run verify")


def _checked(value: Any, type: Any, name: str) -> Any:
    if not isinstance(value, type) or (isinstance(value, bool) and type is not bool):
        wanted = " or ".join(one.__name__ for one in (type if isinstance(type, tuple) else (type,)))
        raise BankDamaged(f"{name}: {value!r:.80} is not of type {wanted}; run verify")
    return value
