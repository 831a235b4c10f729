"""The files of a source: from a path, glob, brace range or URL to files that can be read in ranges.

A list is read where it lies, by local paths or by obstore's fsspec adapter. One behind HTTP, or compressed, cannot be
read in ranges: it is copied into the bank's planning folder first, and so is one that is a single JSON document.
"""

from __future__ import annotations

import glob
import gzip
import itertools
import re
import shutil
import tempfile
import zlib
from http.client import HTTPException
from pathlib import Path

from braceexpand import braceexpand

from noisebank.errors import ConfigError
from noisebank.options import SourceOptions
from noisebank.sources.folder import find_folders, match_paths, write_list
from noisebank.sources.formats import FORMATS
from noisebank.sources.json_document import is_document, write_lines
from noisebank.sources.layouts import layout_of
from noisebank.sources.list_file import HTTP, ListFile, connect, file_path, one_line_errors, open_address
from noisebank.storage import Store
from noisebank.storage.opening import REMOTE_SCHEMES

_BRACES = re.compile(r"(\{[0-9]+\.\.[0-9]+\})")


def expand(source: SourceOptions) -> list[str]:
    """The addresses of the files of a source, in the order listed, globs sorted; local paths absolute.

    >>> expand(SourceOptions("webvid", ("https://example.org/{08..10}.csv",)))[1]
    'https://example.org/09.csv'

    Raises:
        ConfigError: a file does not exist, nothing matches a glob, or a name is not UTF-8.
    """
    name = source.label
    addresses: list[str] = []
    for pattern in source.path:
        for part in expand_braces(pattern):
            with one_line_errors(part):
                found = _matches(part)
            if not found:
                of = "" if part == pattern else f" of {pattern!r}"
                raise ConfigError(f"source {name}: path {part!r}{of}: no such file")
            addresses += found
    return addresses


def expand_braces(pattern: str) -> list[str]:
    """``{000..002}`` counted out as bash does, up or down, with leading zeros; several are combined.

    >>> expand_braces("a{08..10}.tar"), expand_braces("{2..1}.csv")
    (['a08.tar', 'a09.tar', 'a10.tar'], ['2.csv', '1.csv'])
    """
    parts = (braceexpand(part) if _BRACES.fullmatch(part) else [part] for part in _BRACES.split(pattern))
    return ["".join(combined) for combined in itertools.product(*parts)]


def open_lists(source: SourceOptions, store: Store, folder: str) -> list[ListFile]:
    """The files of a source, ready to be read in ranges.

    Lists that cannot be read in ranges are copied to ``folder`` in the bank ``store``.

    Raises:
        ConfigError: as :func:`expand`; or the format of a file cannot be told, it cannot be fetched, or there is no
            such ``root``.
    """
    files, root = [], _find_root(source)
    if layout_of(source).is_folder:
        keys = (f"{folder}/{source.label}-{i}.jsonl" for i in itertools.count())
        return [*map(_list_folder, itertools.repeat(source), find_folders(source), itertools.repeat(store), keys)]
    for i, address in enumerate(expand(source)):
        format = _format(source, address)
        if address.startswith(HTTP) or address.endswith(".gz") or (format == "jsonl" and _is_document(address)):
            key = f"{folder}/{source.label}-{i}.{format}"
            _copy(source, address, store, key)
            files.append(ListFile(source, address, store.size(key), format, (store, key), root))
        else:
            with one_line_errors(address):
                size = int(connect(address).size(address)) if "://" in address else Path(address).stat().st_size
            files.append(ListFile(source, address, size, format, root=root))
    return files


def _list_folder(source: SourceOptions, address: str, store: Store, key: str) -> ListFile:
    """A folder as a list of its videos, in the bank."""
    with tempfile.TemporaryDirectory(prefix="noisebank-") as scratch, one_line_errors(address):
        write_list(address, Path(scratch, "list"))
        store.upload(Path(scratch, "list"), key)
    return ListFile(source, f"{address}/", store.size(key), "jsonl", (store, key))


def _find_root(source: SourceOptions) -> str:
    """The folder that relative uris start from, absolute; empty where that is the list's own."""
    if not source.root or "://" in source.root:
        return (source.root or "").rstrip("/")
    root = Path(source.root).absolute()
    if not root.is_dir():
        raise ConfigError(f"source {source.label}: root {source.root!r}: no such folder")
    return str(root)


def _matches(pattern: str) -> list[str]:
    """The files at one address, [] if there is none."""
    if pattern.startswith(HTTP):
        return [pattern]
    scheme, separator, _ = pattern.partition("://")
    if separator and scheme in REMOTE_SCHEMES:
        if glob.has_magic(pattern):
            return sorted(f"{scheme}://{key}" for key in connect(pattern).glob(pattern))
        try:
            return [pattern] if connect(pattern).info(pattern)["type"] == "file" else []
        except FileNotFoundError:
            return []
    if separator:
        raise ConfigError(f"path {pattern!r}: a local path, http(s)://, gs://, s3:// or az:// is wanted")
    files = [str(Path(path).absolute()) for path in match_paths(pattern) if Path(path).is_file()]
    for path in files:
        try:
            path.encode()
        except UnicodeEncodeError as error:
            raise ConfigError(f"path {pattern!r}: the name {path!r} is not UTF-8; rename it") from error
    return files


def _format(source: SourceOptions, address: str) -> str:
    layout, path = layout_of(source), file_path(address)
    for name in layout.formats:
        plain = path.removesuffix(".gz") if FORMATS[name].compressible else path
        if Path(plain).suffix.lower() in FORMATS[name].suffixes:
            return name
    if layout.default_format:
        return layout.default_format
    wanted = ", ".join(suffix for name in layout.formats for suffix in FORMATS[name].suffixes)
    raise ConfigError(f"source {source.label}: path {address!r}: a name that ends in {wanted} is wanted")


def _copy(source: SourceOptions, address: str, store: Store, key: str) -> None:
    """Copies a list into the bank, decompressed."""
    try:
        with tempfile.TemporaryDirectory(prefix="noisebank-") as scratch:
            path = Path(scratch, "list")
            with one_line_errors(address), open_address(address) as body, path.open("wb") as target:
                plain = gzip.GzipFile(fileobj=body) if file_path(address).endswith(".gz") else body
                shutil.copyfileobj(plain, target, 1 << 20)
            if _is_json(address) and is_document(path):
                write_lines(path, Path(scratch, "lines"))
                path = Path(scratch, "lines")
            store.upload(path, key)
    except (ConfigError, OSError, EOFError, ValueError, zlib.error, HTTPException) as error:
        raise ConfigError(f"source {source.label}: {address}: {error}") from error


def _is_json(address: str) -> bool:
    return file_path(address).lower().removesuffix(".gz").endswith(".json")


def _is_document(address: str) -> bool:
    """Whether a list that lies where it can be read is one JSON document."""
    if not _is_json(address):
        return False
    return "://" in address or is_document(Path(address))  # (what is elsewhere shows when it is here)
