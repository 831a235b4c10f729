"""From a YAML file and command-line flags to a checked :class:`~noisebank.options.Config`.

Every option is also a flag: ``--clips.size 128``; members of a list by name: ``--noise.modelscope.batch_size 4``; lists
as YAML in brackets: ``--sources '[{kind: webvid, path: a.csv}]'``. No other flag is YAML: a path or a prompt is taken
as it stands, and ``null`` unsets what may be unset. A flag beats the file. What neither knows is an error.
"""

from __future__ import annotations

import dataclasses
import re
import types
import typing
from contextlib import suppress
from pathlib import Path
from typing import Any

import yaml

from noisebank.errors import ConfigError
from noisebank.options import OPTION_CLASSES, Config, NoiseOptions, SourceOptions, options_class

NAME = re.compile(r"[a-z0-9][a-z0-9_]{0,62}", re.IGNORECASE)
_MEMBERS: dict[str, Any] = {"sources": SourceOptions, "noise": NoiseOptions}
_BOOLEANS = {"true": True, "false": False}


class _Loader(yaml.SafeLoader):
    """Plain values only, and no key twice in one mapping: YAML's own loader lets the last one win."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        twice = next((key for key in keys if keys.count(key) > 1), None)
        if twice is not None:
            raise yaml.constructor.ConstructorError(None, None, f"key {twice!r} is there twice", node.start_mark)
        return super().construct_mapping(node, deep)


def load_config(path: str | None, flags: dict[str, str] | None = None) -> Config:
    """Reads the YAML file ``path`` (or none), lays ``flags`` over it and checks the result.

    Args:
        path: the file, or None for defaults and flags alone.
        flags: dotted option name to the text given on the command line.

    Raises:
        ConfigError: a key is unknown or a value not allowed; names key, value and what is allowed.
    """
    document: Any = {}
    if path is not None:
        try:
            document = _from_yaml(Path(path).read_text(encoding="utf-8"), f"configuration {path}") or {}
        except OSError as error:
            raise ConfigError(f"configuration {path}: {error.strerror or error}") from error
        except UnicodeDecodeError as error:
            raise ConfigError(f"configuration {path}: not valid YAML: {error}") from error
        if not isinstance(document, dict):
            raise ConfigError(f"configuration {path}: a mapping of options is wanted, not {document!r:.80}")
    return config_from_mapping(document, flags)


def _from_yaml(text: str, what: str) -> Any:
    """The plain values that YAML text stands for; ``what`` it is, for the message.

    Raises:
        ConfigError: it is not valid, or nested too deeply.
    """
    try:
        return yaml.load(text, _Loader)
    except (yaml.YAMLError, ValueError) as error:  # (ValueError: a date that is none)
        raise ConfigError(f"{what}: not valid YAML: {error}") from error
    except RecursionError as error:
        raise ConfigError(f"{what}: not valid YAML: nested too deeply") from error


def config_from_mapping(document: dict[str, Any], flags: dict[str, str] | None = None) -> Config:
    """The configuration that a mapping of the YAML file's shape describes, with ``flags`` laid over it, checked.

    A section without content (``clips:``, ``noise:``) is as good as none.
    """
    sections = {f.name for f in dataclasses.fields(Config) if f.name in _MEMBERS or dataclasses.is_dataclass(f.default)}
    document = {key: value for key, value in document.items() if value is not None or key not in sections}
    flags = dict(flags or {})
    for one, other in (("clips.fps", "clips.frame_stride"), ("clips.frame_stride", "clips.fps")):
        if flags.get(one, "null") != "null":
            flags.setdefault(other, "null")  # (a flag beats the file, which may give the one that excludes it)
    for name, text in flags.items():
        _lay_over(document, name, _value(name, text))
    config: Config = _build(Config, document, "")
    _check_rhythm(document.get("clips") or {})
    _check(config)
    return _settled(config)


def _settled(config: Config) -> Config:
    """What can be written in two ways in one: a square size as its side, all frames of a clip as None, and of
    ``fps`` and ``frame_stride`` the one that counts."""
    clips, (height, width) = config.clips, config.clips.height_width
    noise = (dataclasses.replace(n, frames=None) if n.frames == clips.frames else n for n in config.noise)
    clips = dataclasses.replace(clips, size=height) if height == width else clips
    clips = dataclasses.replace(clips, frame_stride=None) if clips.fps is not None else clips
    return dataclasses.replace(config, clips=clips, noise=tuple(noise))


def to_mapping(config: Config) -> dict[str, Any]:
    """The configuration as plain JSON and YAML values; :func:`config_from_mapping` gives it back."""
    return {key: _plain(value) for key, value in dataclasses.asdict(config).items()}


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items() if item is not None}
    if isinstance(value, (tuple, list)):
        return [_plain(item) for item in value]
    return value


def flag_names() -> dict[str, dataclasses.Field[Any]]:
    """Every option that is a plain flag: dotted name to its field; lists of sections appear whole."""
    names: dict[str, dataclasses.Field[Any]] = {}
    for section in dataclasses.fields(Config):
        if dataclasses.is_dataclass(section.default):
            for member in dataclasses.fields(section.default):
                names[f"{section.name}.{member.name}"] = member
        else:
            names[section.name] = section
    return names


def member_flag(name: str) -> bool:
    """Whether ``name`` is ``sources.NAME.OPTION`` or ``noise.NAME.OPTION`` with an option that exists."""
    parts = name.split(".")
    return len(parts) == 3 and parts[0] in _MEMBERS and parts[2] in _names(_MEMBERS[parts[0]])


def _names(cls: Any) -> list[str]:
    return [f.name for f in dataclasses.fields(cls)]


def _value(name: str, text: str) -> Any:
    """What the text of a flag stands for; text that is nothing that its option takes is left to :func:`_build`.

    Raises:
        ConfigError: a list is not valid YAML.
    """
    hint = _type_of(name)
    kinds = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    if type(None) in kinds and text == "null":
        return None
    takes_list = any(typing.get_origin(kind) is tuple for kind in kinds)
    if name in _MEMBERS or (takes_list and text[:1] == "[" and text[-1:] == "]"):
        return _from_yaml(text, f"--{name} {text!r:.80}")
    for kind, read in ((int, int), (bool, _BOOLEANS.__getitem__)):
        if kind in kinds:
            with suppress(ValueError, KeyError):
                return read(text)
    return text


def _type_of(name: str) -> Any:
    """The type of the option that a flag names; text where there is none, which :func:`_build` refuses."""
    *sections, leaf = name.split(".")
    owner: Any = Config
    if sections:
        owner = _MEMBERS[sections[0]] if member_flag(name) else typing.get_type_hints(Config).get(sections[0])
    return typing.get_type_hints(owner).get(leaf, str) if dataclasses.is_dataclass(owner) else str


def _lay_over(document: dict[str, Any], name: str, value: Any) -> None:
    if not member_flag(name):
        *parents, leaf = name.split(".")
        section = document
        for parent in parents:
            section = section.setdefault(parent, {}) if isinstance(section.get(parent, {}), dict) else {}
        section[leaf] = value
        return
    section_name, member, leaf = name.split(".")
    default: list[dict[str, Any]] = [{}] if section_name == "noise" else []
    members = document.setdefault(section_name, default)
    for entry in members if isinstance(members, list) else []:
        if isinstance(entry, dict) and member == (entry.get("name") or _default_name(section_name, entry)):
            entry[leaf] = value
            return
    raise ConfigError(f"--{name}: {section_name} has no member named {member!r}")


def _default_name(section: str, entry: dict[str, Any]) -> Any:
    return entry.get("kind") if section == "sources" else NoiseOptions().name


def _build(cls: Any, document: Any, where: str) -> Any:
    if not isinstance(document, dict):
        raise ConfigError(f"{where}: a mapping with keys from {', '.join(_names(cls))} is wanted, not {document!r}")
    prefix = f"{where}." if where else ""
    unknown = sorted(str(key) for key in document.keys() - set(_names(cls)))
    if unknown:
        raise ConfigError(f"{prefix}{unknown[0]}: unknown key; allowed here: {', '.join(_names(cls))}")
    hints = typing.get_type_hints(cls)
    values = {}
    for member in dataclasses.fields(cls):
        if member.name in document:
            values[member.name] = _convert(hints[member.name], document[member.name], prefix + member.name, member)
        elif member.default is dataclasses.MISSING:
            raise ConfigError(f"{prefix}{member.name}: missing; {member.metadata['help']}")
    return cls(**values)


def _convert(hint: Any, value: Any, where: str, member: dataclasses.Field[Any]) -> Any:
    if dataclasses.is_dataclass(hint):
        return _build(hint, value, where)
    arguments = typing.get_args(hint)
    if typing.get_origin(hint) is tuple and arguments and dataclasses.is_dataclass(arguments[0]):
        if not isinstance(value, list):
            raise ConfigError(f"{where}: a list is wanted, not {value!r}")
        return tuple(_build(_member_class(where, entry), entry, f"{where}[{i}]") for i, entry in enumerate(value))
    parse = member.metadata["parse"]
    default = value is None and type(None) in arguments
    try:
        converted = parse(value) if parse and not default else _scalar(hint, value)
    except (TypeError, ValueError, OverflowError) as error:
        raise ConfigError(f"{where}: {value!r} is not allowed; wanted: {error}") from error
    _limits(converted, where, member)
    return converted


def _member_class(section: str, entry: Any) -> type[Any]:
    return options_class(section, str(entry.get("kind", "")) if isinstance(entry, dict) else "")


def _scalar(hint: Any, value: Any) -> Any:
    """``value`` as one of the simple types of ``hint``; ValueError says what is wanted."""
    options = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    for wanted in options:
        if wanted is type(None) and value is None:
            return None
        if wanted is bool and isinstance(value, bool):
            return value
        if wanted is int and isinstance(value, int) and not isinstance(value, bool):
            return value
        if wanted is float and isinstance(value, (int, float, str)) and not isinstance(value, bool):
            with suppress(ValueError):  # (text: a flag, or 1e-4, which is no number to YAML)
                return float(value)
        if wanted is str and isinstance(value, str):
            return value
        if typing.get_origin(wanted) is tuple:
            kinds = typing.get_args(wanted)
            if kinds[-1] is Ellipsis:
                entries = value if isinstance(value, list) else [value]
                return tuple(_scalar(kinds[0], entry) for entry in entries)
            if isinstance(value, list) and len(value) == len(kinds):
                return tuple(_scalar(kind, entry) for kind, entry in zip(kinds, value, strict=True))
    raise ValueError(_describe(hint))


def _describe(hint: Any) -> str:
    names = {
        int: "a whole number",
        float: "a number",
        bool: "true or false",
        str: "text (in quotes, if YAML takes it for something else)",
        type(None): "nothing",
    }
    if isinstance(hint, types.UnionType):
        return " or ".join(_describe(part) for part in typing.get_args(hint))
    if typing.get_origin(hint) is tuple:
        kinds = typing.get_args(hint)
        return "a list of texts" if kinds[-1] is Ellipsis else "[height, width]"
    return names.get(hint, str(hint))


def _limits(value: Any, where: str, member: dataclasses.Field[Any]) -> None:
    choices, low, high = (member.metadata[key] for key in ("choices", "minimum", "maximum"))
    if choices and value not in choices:
        raise ConfigError(f"{where}: {value!r} is not allowed; one of {', '.join(choices)}")
    numbers = value if isinstance(value, tuple) else (value,)
    for number in numbers:
        if isinstance(number, (int, float)) and not isinstance(number, bool):
            if low is not None and not number >= low:
                raise ConfigError(f"{where}: {number!r} is not allowed; at least {low}")
            if high is not None and not number <= high:
                raise ConfigError(f"{where}: {number!r} is not allowed; at most {high}")


def _check_rhythm(clips: dict[str, Any]) -> None:
    """What the configuration alone cannot tell from a default."""
    fps, stride = clips.get("fps"), clips.get("frame_stride")
    if fps is not None and stride is not None:
        raise ConfigError(f"clips.fps: {fps} and clips.frame_stride: {stride} are both given; leave one out or null")


def _check(config: Config) -> None:
    """What one key alone cannot tell."""
    kinds = [kind for section, kind in OPTION_CLASSES if section == "sources"]
    for i, source in enumerate(config.sources):
        if source.kind not in kinds:
            raise ConfigError(f"sources[{i}].kind: {source.kind!r} is not allowed; one of {', '.join(kinds)}")
    _check_names("sources", [source.name or source.kind for source in config.sources])
    _check_names("noise", [noise.name for noise in config.noise])
    for i, source in enumerate(config.sources):
        source.check(f"sources[{i}]")
        if not source.path:
            raise ConfigError(f"sources[{i}].path: at least one file is wanted")
    if config.clips.fps is None and config.clips.frame_stride is None:
        raise ConfigError("clips.frame_stride: one of frame_stride and fps is wanted")
    if any(side % 16 for side in config.clips.height_width):
        raise ConfigError(f"clips.size: {config.clips.size} is not allowed; sides are multiples of 16 (H.264's blocks)")
    for noise in config.noise:
        if noise.frames is not None and noise.frames > config.clips.frames:
            raise ConfigError(
                f"noise.{noise.name}.frames: {noise.frames} is not allowed; a clip has {config.clips.frames}"
            )
        if noise.guidance_scale != 1 and not noise.prompt:
            raise ConfigError(
                f"noise.{noise.name}.guidance_scale: {noise.guidance_scale:g} has no effect with the empty "
                f"prompt; give noise.{noise.name}.prompt too"
            )
        if isinstance(noise.batch_size, str) and noise.batch_size != "auto":
            raise ConfigError(f"noise.{noise.name}.batch_size: {noise.batch_size!r}: a whole number or auto")


def _check_names(section: str, names: list[str]) -> None:
    for i, name in enumerate(names):
        if not NAME.fullmatch(name):
            raise ConfigError(f"{section}[{i}].name: {name!r} is not allowed; letters, digits and _ (at most 63)")
        if name in names[:i]:
            raise ConfigError(f"{section}[{i}].name: {name!r} is taken; give each of {section} a name of its own")
