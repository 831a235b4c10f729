"""JSON and YAML values as the types that the code expects: what is missing, unknown or of another type is named before
anything uses it.

One decoder serves the bank's own files and configurations. A :class:`Dialect` says where they differ; what an option
allows beyond its type stands in the metadata of its field (:func:`noisebank.options.option`).
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import cache
from types import NoneType, UnionType
from typing import Any, Literal, NamedTuple, Union, get_args, get_origin, get_type_hints, is_typeddict

from noisebank.errors import BankDamaged, remedy_of


@dataclasses.dataclass(frozen=True)
class Dialect:
    """How documents of a sort are written, and what is raised where one is wrong.

    Args:
        error: makes the exception of a text that says what is wrong.
        adapt: from a value, the type that is wanted and the value's name: the value and type to decode.
        text: what text is called in errors.
        optional: whether a member that has a default may be missing.
    """

    error: Callable[[str], Exception]
    adapt: Callable[[Any, Any, str], tuple[Any, Any]] = lambda value, type, name: (value, type)
    text: str = "text"
    optional: bool = False


BANK_FILE = Dialect(lambda problem: BankDamaged(f"{problem}; {remedy_of(problem)}"))


def decode(value: Any, type: Any, name: str, dialect: Dialect = BANK_FILE) -> Any:
    """``value``, read from JSON or YAML, as a value of ``type``.

    Args:
        value: what ``json.loads`` or a YAML loader gave.
        type: a dataclass (an object with its members), a ``TypedDict`` (an object; see :class:`Described`),
            ``Mapping[K, X]`` (K: ``str``, or ``int`` written as text), ``tuple[X, ...]`` or ``list[X]``,
            ``tuple[X, Y]`` or a ``NamedTuple`` (a list of that many), ``Literal[...]``, ``int``, ``float``, ``bool``,
            ``str``, ``None``, ``Any``, or a union of types that JSON writes differently.
        name: of the value in its document, for errors.
        dialect: of the document.

    Raises:
        Exception: it is none; :attr:`Dialect.error`, which names the value and what is wanted.
    """
    value, type = dialect.adapt(value, type, name)
    kinds = alternatives(type)
    for kind in kinds:
        if _fits(value, kind):
            return _decode_as(kind, value, name, dialect)
    wanted = " or ".join(dialect.text if kind is str else _shape(kind).words for kind in kinds)
    if _shape(kinds[0]).written in (dict, (list, tuple)):
        raise dialect.error(f"{name}: {wanted} is wanted, not {value!r:.80}")
    raise dialect.error(f"{name}: {value!r:.80} is not allowed; wanted: {wanted}")


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
        raise BANK_FILE.error(f"{self.name}.{key}: missing")


def written_name(name: str) -> str:
    """How documents spell a member: without the underscore that keeps it from being a word of Python's (``from_``)."""
    return name.removesuffix("_")


@cache
def alternatives(type: Any) -> tuple[Any, ...]:
    """The types of a union; of another type, itself."""
    return get_args(type) if get_origin(type) in (Union, UnionType) else (type,)


class _Shape(NamedTuple):
    """What JSON has for values of a type, what that is called, and of a list of so many items their types."""

    written: Any
    words: str
    items: tuple[Any, ...] | None = None


_hints = cache(get_type_hints)
_WORDS = {NoneType: "nothing", bool: "true or false", int: "a whole number", float: "a number"}


@cache
def _shape(kind: Any) -> _Shape:
    origin, arguments = get_origin(kind), get_args(kind)
    if dataclasses.is_dataclass(kind) or is_typeddict(kind):
        return _Shape(dict, f"a mapping with keys from {', '.join(map(written_name, _hints(kind)))}")
    if hasattr(kind, "_fields"):
        return _Shape((list, tuple), f"[{', '.join(kind._fields)}]", tuple(_hints(kind).values()))
    if origin is list or arguments[-1:] == (Ellipsis,):
        return _Shape((list, tuple), "a list")
    if origin is tuple:
        return _Shape((list, tuple), f"a list of {len(arguments)}", arguments)
    if origin is Literal:
        return _Shape(str, f"one of {', '.join(arguments)}")
    if origin is Mapping:
        return _Shape(dict, "a mapping")
    return _Shape({Any: object, float: (int, float)}.get(kind, kind), _WORDS.get(kind, "text"))


def _fits(value: Any, kind: Any) -> bool:
    """Whether a value of ``kind`` is written so, as far as can be told without a look into it."""
    if isinstance(value, bool):  # (which is an int to Python)
        return kind in (bool, Any)
    if get_origin(kind) is Literal:
        return value in get_args(kind)
    fits, items = isinstance(value, _shape(kind).written), _shape(kind).items
    return fits and (items is None or len(value) == len(items))


def _decode_as(kind: Any, value: Any, name: str, dialect: Dialect) -> Any:
    if kind is Any:
        return value
    if dataclasses.is_dataclass(kind):
        return _decode_dataclass(kind, value, name, dialect)
    if isinstance(value, dict):
        key_type, item_type = get_args(kind) or (str, Any)
        hints = _hints(kind) if is_typeddict(kind) else {}
        members = {}
        for key, item in value.items():
            number = int(key) if key_type is int and re.fullmatch("[0-9]{1,18}", str(key)) else key
            decoded = decode(item, hints.get(key, item_type), f"{name}.{key}", dialect)
            members[decode(number, key_type, f"{name}: key", dialect)] = decoded
        return Described.of(members, name) if is_typeddict(kind) else members
    if isinstance(value, (list, tuple)):
        types = _shape(kind).items or get_args(kind)[:1] * len(value)
        items = (decode(item, types[i], f"{name}[{i}]", dialect) for i, item in enumerate(value))
        return kind(*items) if hasattr(kind, "_fields") else get_origin(kind)(items)
    if kind is float:
        with suppress(OverflowError):  # (a whole number that no float holds is left to the limits)
            return float(value)
    return value


def _decode_dataclass(kind: Any, value: dict[Any, Any], name: str, dialect: Dialect) -> Any:
    fields = {written_name(field.name): field for field in dataclasses.fields(kind)}
    prefix = f"{name}." if name else ""
    if unknown := sorted(str(key) for key in value.keys() - fields.keys()):
        raise dialect.error(f"{prefix}{unknown[0]}: unknown key; allowed here: {', '.join(fields)}")
    members = {}
    for key, field in fields.items():
        if key in value:
            hint = _hints(kind)[field.name]
            members[field.name] = _decode_member(value[key], hint, prefix + key, field.metadata, dialect)
        elif not dialect.optional or field.default is field.default_factory is dataclasses.MISSING:
            raise dialect.error(f"{prefix}{key}: missing" + (f"; {field.metadata['help']}" if field.metadata else ""))
    try:
        return kind(**members)
    except BankDamaged as error:  # (of its own checks, which do not know the document)
        raise dialect.error(f"{name}: {error}") from error


def _decode_member(value: Any, type: Any, name: str, metadata: Any, dialect: Dialect) -> Any:
    """A member of a dataclass: ``parse`` makes a value of its type first; ``choices``, ``minimum`` and ``maximum``
    limit it, or every number of a tuple."""
    if parse := metadata.get("parse"):
        adapted, _ = dialect.adapt(value, type, name)
        try:
            value = None if adapted is None else parse(adapted)
        except (TypeError, ValueError, OverflowError) as error:
            raise dialect.error(f"{name}: {value!r} is not allowed; wanted: {error}") from error
    decoded = decode(value, type, name, dialect)
    choices, low, high = (metadata.get(key) for key in ("choices", "minimum", "maximum"))
    if choices and decoded not in choices:
        raise dialect.error(f"{name}: {decoded!r} is not allowed; one of {', '.join(choices)}")
    for number in decoded if isinstance(decoded, tuple) else (decoded,):
        if low is not None and isinstance(number, (int, float)) and not low <= number <= high:
            limit = f"at most {high}" if number > high else f"at least {low}"
            raise dialect.error(f"{name}: {number!r} is not allowed; {limit}")
    return decoded
