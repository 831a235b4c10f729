"""Code of the documentation, run as it stands there."""

from __future__ import annotations

import importlib
import re
import sys
from collections.abc import MutableMapping
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from noisebank import options
from noisebank.options import OPTION_CLASSES

DOCS = Path(__file__).parents[2] / "docs"


def import_block(
    page: str,
    decorator: str,
    kinds: MutableMapping[str, Any],
    key: tuple[str, str],
    monkeypatch: pytest.MonkeyPatch,
    folder: Path,
) -> ModuleType:
    """The module of the one Python block of a page that has a decorator; what it registers is gone after the test.

    Args:
        page: below docs/.
        decorator: that the block has.
        kinds: registry that it adds the kind to.
        key: section of the options, and kind.
        folder: where the module is written.
    """
    blocks = re.findall(r"```python\n(.*?)```", (DOCS / page).read_text(), re.DOTALL)
    (code,) = (block for block in blocks if decorator in block)
    name = f"{key[1]}_of_the_docs"
    (folder / f"{name}.py").write_text(code)
    monkeypatch.syspath_prepend(folder)
    for registry, entry in ((kinds, key[1]), (OPTION_CLASSES, key), (options._REGISTERED_BY, key)):
        monkeypatch.setitem(registry, entry, name)  # type: ignore[arg-type]
    module = importlib.import_module(name)
    monkeypatch.delitem(sys.modules, name)
    return module
