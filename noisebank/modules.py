"""Packages of users that a configuration names in ``modules``: imported for what they register (inverters, kinds of
source and of stage), and told apart by their versions, because records depend on their code.

No bank names code to import: only the configuration of a build does.
"""

from __future__ import annotations

import hashlib
import importlib
from collections.abc import Iterable
from importlib.metadata import packages_distributions, version
from pathlib import Path
from types import ModuleType

from noisebank.errors import ConfigError


def import_modules(names: Iterable[str]) -> None:
    """Imports modules by their dotted names; one that is imported already is left as it is.

    Raises:
        ConfigError: a name is none of a module, the module is not there, or it fails; says which, and why.
    """
    for name in names:
        if not all(part.isidentifier() for part in name.split(".")):
            raise ConfigError(f"modules: {name!r} is not allowed; a dotted name such as my_package.inverters is wanted")
        try:
            importlib.import_module(name)
        except (Exception, SystemExit) as error:
            missing = error.name if isinstance(error, ModuleNotFoundError) else None
            if missing and f"{name}.".startswith(f"{missing}."):
                raise ConfigError(
                    f"modules: {missing} is not there; install it beside noisebank, or put its folder on PYTHONPATH"
                ) from error
            cause = " ".join(f"{type(error).__name__}: {error}".split())
            raise ConfigError(f"modules: {name} fails while it is imported: {cause}") from error


def module_version(name: str) -> str:
    """The version of the top-level package of a module: its ``__version__``, else that of the distribution which it
    belongs to, else a digest of its Python files.

    Args:
        name: of the module, which is imported if it is not yet.
    """
    top = name.partition(".")[0]
    package = importlib.import_module(top)
    if stated := getattr(package, "__version__", None):
        return str(stated)
    if distributions := packages_distributions().get(top):
        return version(distributions[0])
    return _digest(package)


def _digest(package: ModuleType) -> str:
    """The sha256 of a package's Python files and their names, shortened."""
    digest = hashlib.sha256()
    for folder in sorted(getattr(package, "__path__", ())):
        for path in sorted(Path(folder).rglob("*.py")):
            digest.update(f"{path.relative_to(folder).as_posix()}\0".encode() + path.read_bytes() + b"\0")
    if not hasattr(package, "__path__") and package.__file__:
        digest.update(Path(package.__file__).read_bytes())
    return digest.hexdigest()[:16]
