"""From a YAML file and command-line flags to a checked :class:`~noisebank.options.Config`.

Every option is also a flag: ``--clips.size 128``; members of a list by name: ``--noise.modelscope.batch_size 4``; lists
as YAML in brackets: ``--sources '[{kind: webvid, path: a.csv}]'``. No other flag is YAML: a path or a prompt is taken
as it stands, and ``null`` unsets what may be unset. A flag beats the file. What neither knows is an error.
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Callable
from contextlib import suppress
from dataclasses import is_dataclass
from pathlib import Path
from types import NoneType
from typing import Any, TypeVar

import yaml

from noisebank.decode import Dialect, alternatives, decode, written_name
from noisebank.errors import ConfigError
from noisebank.modules import import_modules
from noisebank.option_fields import is_unsaid
from noisebank.options import OPTION_CLASSES, SECTIONS, Config, NoiseOptions, options_class
from noisebank.storage.opening import REMOTE_SCHEMES, open_store

T = TypeVar("T")
NAME = re.compile(r"[a-z0-9][a-z0-9_]{0,62}", re.IGNORECASE)
_READERS: dict[type, Callable[[str], Any]] = {
    NoneType: {"null": None}.__getitem__,
    bool: {"true": True, "false": False}.__getitem__,
    int: int,
    float: float,
}
"""What a flag's text stands for, by the types that its option takes."""


class _Loader(yaml.SafeLoader):
    """Plain values only, and no key twice in one mapping: YAML's own loader lets the last one win."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        twice = next((key for key in keys if keys.count(key) > 1), None)
        if twice is not None:
            raise yaml.constructor.ConstructorError(None, None, f"key {twice!r} is there twice", node.start_mark)
        return super().construct_mapping(node, deep)


class _Flag(str):
    """The text of a flag, which stands for a value of whatever type its option has."""


def load_config(path: str | Path | None, flags: dict[str, str] | None = None) -> Config:
    """Reads the YAML file ``path`` (or none), lays ``flags`` over it and checks the result.

    Args:
        path: the file, or None for defaults and flags alone.
        flags: dotted option name to the text given on the command line.

    Raises:
        ConfigError: a key is unknown or a value not allowed; names key, value and what is allowed.
    """
    return config_from_mapping(load_document(path, flags), flags)


def load_document(path: str | Path | None, flags: dict[str, str] | None = None) -> dict[str, Any]:
    """The mapping in the YAML file ``path`` (or none), which is local or in an object store; imports its ``modules``,
    or those of ``flags``, so that from then on their kinds and the options of these are known.

    Raises:
        ConfigError: there is no mapping in the file, or a module cannot be imported.
    """
    document: dict[str, Any] = {}
    if path is not None:
        try:
            document = _from_yaml(_read(str(path)).decode(), f"configuration {path}") or {}
        except OSError as error:
            raise ConfigError(f"configuration {path}: {error.strerror or error}") from error
        except UnicodeDecodeError as error:
            raise ConfigError(f"configuration {path}: not valid YAML: {error}") from error
        if not isinstance(document, dict):
            raise ConfigError(f"configuration {path}: a mapping of options is wanted, not {document!r:.80}")
    modules = _Flag(flags["modules"]) if flags and "modules" in flags else document.get("modules") or []
    import_modules(decode(modules, tuple[str, ...], "modules", _DIALECT))
    return document


def _read(path: str) -> bytes:
    scheme, separator, rest = path.partition("://")
    folder, slash, name = rest.rpartition("/")
    if not separator:
        return Path(path).read_bytes()
    if scheme not in REMOTE_SCHEMES or not (slash and name):
        wanted = ", ".join(f"{known}://" for known in REMOTE_SCHEMES)
        raise ConfigError(f"configuration {path}: a local path, or a file of a bucket ({wanted}) is wanted")
    return open_store(f"{scheme}://{folder}").read(name)


def _from_yaml(text: str, what: str) -> Any:
    """The plain values that YAML text stands for; ConfigError, which says ``what`` it is, if it is not valid."""
    try:
        return yaml.load(text, _Loader)
    except (yaml.YAMLError, ValueError) as error:  # (ValueError: a date that is none)
        raise ConfigError(f"{what}: not valid YAML: {error}") from error
    except RecursionError as error:
        raise ConfigError(f"{what}: not valid YAML: nested too deeply") from error


def config_from_mapping(document: dict[str, Any], flags: dict[str, str] | None = None) -> Config:
    """The configuration that a mapping of the YAML file's shape describes, with ``flags`` laid over it, checked.

    It imports nothing: kinds of one's own must be registered.
    """
    document = _lay_flags(document, flags, Config)
    config: Config = decode(document, Config, "", _DIALECT)
    _check_rhythm("clips", document.get("clips", {}))
    _check(config)
    return _normalise(config)


def decode_options(options: type[T], document: dict[str, Any], flags: dict[str, str] | None = None) -> T:
    """The options of another job than a build (a dataclass as :class:`Config` is one), from a mapping of its YAML
    file's shape with ``flags`` laid over it; what is wrong is named as for a build."""
    decoded: T = decode(_lay_flags(document, flags, options), options, "", _DIALECT)
    return decoded


def _normalise(config: Config) -> Config:
    """What can be written in two ways in one: a square size as its side, all frames of a clip as None, and of
    ``fps`` and ``frame_stride`` the one that counts."""
    clips, (height, width) = config.clips, config.clips.height_width
    noise = (dataclasses.replace(n, frames=None) if n.frames == clips.frames else n for n in config.noise)
    clips = dataclasses.replace(clips, size=height) if height == width else clips
    clips = dataclasses.replace(clips, frame_stride=None) if clips.fps is not None else clips
    return dataclasses.replace(config, clips=clips, noise=tuple(noise))


def to_mapping(config: Config) -> dict[str, Any]:
    """The configuration as plain JSON and YAML values; :func:`config_from_mapping` gives it back."""
    given = dataclasses.asdict(config, dict_factory=lambda items: {k: v for k, v in items if v is not None})
    for section in given.keys() & SECTIONS.keys():
        for options, member in zip(getattr(config, section), given[section], strict=True):
            for field in dataclasses.fields(options):
                if is_unsaid(field, getattr(options, field.name)):
                    member.pop(field.name, None)
    plain: dict[str, Any] = json.loads(json.dumps(given))
    return plain


def flag_names(options: type[Any] = Config) -> dict[str, dataclasses.Field[Any]]:
    """Every option that is a plain flag: dotted name to its field; lists of sections appear whole."""
    names: dict[str, dataclasses.Field[Any]] = {}
    for section in dataclasses.fields(options):
        if is_dataclass(section.default):
            for member in dataclasses.fields(section.default):
                names[f"{section.name}.{written_name(member.name)}"] = member
        else:
            names[written_name(section.name)] = section
    return names


def member_flag(name: str, options: type[Any] = Config) -> bool:
    """Whether ``name`` is ``sources.NAME.OPTION`` or the like with an option that a kind of the section has; where
    there is only one member, as of ``reward``, ``reward.OPTION``."""
    parts = name.split(".")
    length = {f.name: 2 if is_dataclass(f.default) else 3 for f in dataclasses.fields(options)}.get(parts[0])
    kinds = [kind for (section, _), kind in OPTION_CLASSES.items() if section == parts[0]]
    return len(parts) == length and any(
        parts[-1] == written_name(field.name) for kind in kinds for field in dataclasses.fields(kind)
    )


def _lay_flags(document: dict[str, Any], flags: dict[str, str] | None, options: type[Any]) -> dict[str, Any]:
    """A copy of the mapping, with ``flags`` laid over it and without sections that have no content (``clips:``)."""
    sections = [f.name for f in dataclasses.fields(options) if isinstance(f.default, tuple) or is_dataclass(f.default)]
    document = {key: value for key, value in document.items() if value is not None or key not in sections}
    flags = dict(flags or {})
    for one, other in (("clips.fps", "clips.frame_stride"), ("clips.frame_stride", "clips.fps")):
        if flags.get(one, "null") != "null" and other in flag_names(options):
            flags.setdefault(other, "null")  # (a flag beats the file, which may give the one that excludes it)
    for name, text in flags.items():
        *parents, leaf = name.split(".")
        section = document
        if len(parents) == 2 and parents[0] in SECTIONS:
            section, parents = _find_member(document, name), []
        for parent in parents:
            section = section.setdefault(parent, {}) if isinstance(section.get(parent, {}), dict) else {}
        section[leaf] = _from_yaml(text, f"--{name} {text!r:.80}") if name in SECTIONS else _Flag(text)
    return document


def _find_member(document: dict[str, Any], flag: str) -> dict[str, Any]:
    section, name, _ = flag.split(".")
    members = document.setdefault(section, [{} for _ in getattr(Config(), section, ())])
    for entry in members if isinstance(members, list) else []:
        if isinstance(entry, dict) and name == (entry.get("name") or entry.get("kind") or NoiseOptions().name):
            return entry
    raise ConfigError(f"--{flag}: {section} has no member named {name!r}")


def _adapt(value: Any, wanted: Any, name: str) -> tuple[Any, Any]:
    """What people may write besides a value itself: the text of a flag, a number as text (YAML takes 1e-4 for one), a
    text in place of a list of one. Members of a list have the options of their kind."""
    kinds = alternatives(wanted)
    if isinstance(value, _Flag) and value[:1] == "[" and value[-1:] == "]" and str not in kinds:
        value = _from_yaml(value, f"--{name} {value!r:.80}")
    if isinstance(value, str):
        for kind in kinds if isinstance(value, _Flag) else {float}.intersection(kinds):
            with suppress(KeyError, ValueError):
                return _READERS[kind](value), wanted
        value = str(value)  # (text that is nothing that an option takes is refused as such)
    if wanted == tuple[str, ...] and not isinstance(value, (list, tuple)):
        value = [value]
    for section, (options, key) in SECTIONS.items():
        if wanted is options and isinstance(value, dict):
            wanted = _find_options(section, value.get(key, getattr(options, key, None)), f"{name}.{key}")
    return value, wanted


def _find_options(section: str, kind: Any, name: str) -> Any:
    """The options dataclass of a kind; ConfigError if the kind is not registered."""
    known = [known for of, known in OPTION_CLASSES if of == section]
    if isinstance(kind, str) and kind not in known:
        allowed = f"one of {', '.join(known)}, or a kind that one of your modules registers (modules: [my_package])"
        raise ConfigError(f"{name}: {str(kind)!r} is not allowed; {allowed}")
    return options_class(section, str(kind))


_DIALECT = Dialect(ConfigError, _adapt, "text (in quotes, if YAML takes it for something else)", optional=True)


def _check_rhythm(where: str, options: dict[str, Any]) -> None:
    """What the configuration alone cannot tell from a default; ``where`` the options stand."""
    fps, stride = options.get("fps"), options.get("frame_stride")
    if {None, "null"}.isdisjoint((fps, stride)):
        raise ConfigError(
            f"{where}.fps: {fps} and {where}.frame_stride: {stride} are both given; leave one out or null"
        )


def _check(config: Config) -> None:
    """What one key alone cannot tell."""
    _check_names("sources", [source.label for source in config.sources])
    _check_names("noise", [noise.name for noise in config.noise])
    _check_names("stages", [stage.name for stage in config.stages])
    for i, source in enumerate(config.sources):
        source.check(f"sources[{i}]")
        _check_rhythm(f"sources[{i}]", dataclasses.asdict(source))
        if not source.path:
            raise ConfigError(f"sources[{i}].path: at least one file is wanted")
    if config.clips.fps is None and config.clips.frame_stride is None:
        raise ConfigError("clips.frame_stride: one of frame_stride and fps is wanted")
    for side in config.clips.height_width:
        if side % 16:
            raise ConfigError(f"clips.size: {side} is not allowed; sides are multiples of 16 (H.264's blocks)")
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
