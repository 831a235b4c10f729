"""The model hub without a network: its client's cache as a download leaves it, and a hub on this machine."""

from __future__ import annotations

import hashlib
import json
import shutil
import threading
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit


class HubCache:
    """A cache folder.

    Args:
        folder: to make it in.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def commit(self, id: str, files: Path, letter: str) -> str:
        """Downloads, as it were, the files of a folder as a commit of a repository, to which ``main`` moves."""
        repository, revision = self.folder / f"models--{id.replace('/', '--')}", 40 * letter
        for path in (path for path in files.rglob("*") if path.is_file()):
            content = path.read_bytes()
            blob = repository / "blobs" / hashlib.sha256(content).hexdigest()
            blob.parent.mkdir(parents=True, exist_ok=True)
            if not blob.exists():
                shutil.copyfile(path, blob)
            link = repository / "snapshots" / revision / path.relative_to(files)
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(blob)
        (repository / "refs").mkdir(exist_ok=True)
        (repository / "refs" / "main").write_text(revision)
        return revision


class HubServer:
    """A hub on this machine with one repository at one commit: its tree, and its files by ``resolve``.

    Args:
        id: of the repository.
        files: folder with its files; safetensors are stored as the hub stores large files, by their sha256.
        revision: the commit, which ``main`` is.
    """

    def __init__(self, id: str, files: Path, revision: str) -> None:
        self.fetched: list[str] = []
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_HEAD(self) -> None:
                self.do_GET()

            def do_GET(self) -> None:
                path = urlsplit(self.path).path
                if path == f"/api/models/{id}/tree/{revision}":
                    self._answer(json.dumps([_describe(one, files) for one in sorted(files.rglob("*"))]).encode())
                elif (name := path.removeprefix(f"/{id}/resolve/").partition("/")[2]) and (files / name).is_file():
                    if self.command == "GET":
                        server.fetched.append(name)
                    self._answer((files / name).read_bytes(), {"X-Repo-Commit": revision})
                else:
                    self.send_response(404)
                    self.send_header("X-Error-Code", "EntryNotFound")
                    self.send_header("X-Repo-Commit", revision)
                    self.send_header("Content-Length", "0")
                    self.end_headers()

            def _answer(self, content: bytes, headers: Mapping[str, str] = {}) -> None:
                self.send_response(200)
                digest = hashlib.sha256(content).hexdigest()
                length = {"Content-Type": "application/json", "Content-Length": str(len(content))}
                for name, value in {"ETag": f'"{digest}"', **length, **headers}.items():
                    self.send_header(name, value)
                self.end_headers()
                if self.command == "GET":
                    self.wfile.write(content)

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> HubServer:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()


def _describe(path: Path, files: Path) -> dict[str, Any]:
    """An entry of a tree as the hub's API gives it."""
    entry = {"path": path.relative_to(files).as_posix(), "oid": "0" * 40}
    if path.is_dir():
        return {**entry, "type": "directory"}
    size = path.stat().st_size
    if path.suffix != ".safetensors":
        return {**entry, "type": "file", "size": size}
    lfs = {"oid": hashlib.sha256(path.read_bytes()).hexdigest(), "size": size, "pointerSize": 130}
    return {**entry, "type": "file", "size": size, "lfs": lfs}
