"""A loopback HTTP server that serves a folder and can misbehave, by the first part of the path.

``/a.mp4`` is served as it should be (with ranges); ``/<misbehaviour>/a.mp4`` in the way that :class:`_Handler` says.
Requests are counted by path.
"""

from __future__ import annotations

import re
import ssl
import threading
import time
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import unquote


class LoopbackServer:
    """Serves on a free port of 127.0.0.1 while used as a context.

    Args:
        handler: of its requests; ``self.server.owner`` is this.
        tls: serves over TLS if given a context for it.

    Attributes:
        url: its address, without a slash at the end.
        healthy: when set True, every misbehaviour ends.
        closing: is set at the end; a handler that never answers waits for it.
        lock: for what handlers write down.
    """

    def __init__(self, handler: type[BaseHTTPRequestHandler], tls: ssl.SSLContext | None = None) -> None:
        self.healthy = False
        self.closing = threading.Event()
        self.lock = threading.Lock()
        self._server = _Server(("127.0.0.1", 0), handler)
        self._server.owner = self
        if tls is not None:
            self._server.socket = tls.wrap_socket(self._server.socket, server_side=True)
        self.url = f"{'https' if tls else 'http'}://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.closing.set()
        self._server.shutdown()
        self._server.server_close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 128  # (of 5, the default, connections are dropped and tried again after a second)
    owner: Any

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that hangs up is what many tests are about."""


class AnyMethodHandler(BaseHTTPRequestHandler):
    """Brings every method to :meth:`answer_any`; silent."""

    protocol_version = "HTTP/1.1"
    server: Any

    def log_message(self, format: str, *args: object) -> None:
        """Silent."""

    def answer_any(self) -> None:
        """Answers ``self.command``."""
        raise NotImplementedError

    def do_GET(self) -> None:
        self.answer_any()

    def do_HEAD(self) -> None:
        self.answer_any()

    def do_PUT(self) -> None:
        self.answer_any()

    def do_POST(self) -> None:
        self.answer_any()

    def do_DELETE(self) -> None:
        self.answer_any()


class VideoServer(LoopbackServer):
    """Serves ``folder``.

    Attributes:
        requests: how many requests came for each path.
    """

    def __init__(self, folder: Path, tls: ssl.SSLContext | None = None) -> None:
        self.folder = folder
        self.requests: Counter[str] = Counter()
        super().__init__(_Handler, tls)


class _Handler(BaseHTTPRequestHandler):
    """One method a misbehaviour, called with the file's name."""

    protocol_version = "HTTP/1.1"
    server: _Server

    def log_message(self, format: str, *args: object) -> None:
        """Silent."""

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        path = unquote(self.path.partition("?")[0]).lstrip("/")
        with self.server.owner.lock:
            self.server.owner.requests["/" + path] += 1
            self._seen = self.server.owner.requests["/" + path]
        first, _, rest = path.partition("/")
        method = getattr(self, "bad_" + re.sub(r"\W", "_", first), None)
        if method is None:
            self.send_file(path)
        elif self.server.owner.healthy:
            self.send_file(rest.rpartition("/")[2])
        else:
            method(rest)

    def send_file(self, name: str) -> None:
        path = self.server.owner.folder / name
        if not path.is_file():
            return self.answer(404, b"no such file", "text/plain")
        data = path.read_bytes()
        asked = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
        if asked is None:
            return self.answer(200, data)
        start, end = int(asked[1]), min(int(asked[2]) + 1, len(data))
        self.answer(206, data[start:end], **{"Content-Range": f"bytes {start}-{end - 1}/{len(data)}"})

    def answer(self, status: int, body: bytes, kind: str = "video/mp4", **headers: str) -> None:
        self.send_response(status)
        headers = {"Content-Type": kind, "Content-Length": str(len(body)), "ETag": '"1"'} | headers
        for key, value in headers.items():
            self.send_header(key, value)
        self.send_header("Last-Modified", "Thu, 01 Jan 2026 00:00:00 GMT")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def contents(self, name: str) -> bytes:
        return (self.server.owner.folder / name).read_bytes()

    def bad_404(self, name: str) -> None:
        self.answer(404, b"gone", "text/plain")

    def bad_403(self, name: str) -> None:
        """Forbidden, and pretends to be a video."""
        self.answer(403, b"forbidden", "video/mp4")

    def bad_flaky(self, rest: str) -> None:
        """``/flaky/2/a.mp4``: 500 twice, then the file."""
        times, _, name = rest.partition("/")
        if self._seen <= int(times):
            self.answer(500, b"oops", "text/plain")
        else:
            self.send_file(name)

    def bad_busy(self, rest: str) -> None:
        """``/busy/0.3/a.mp4``: 429 once, asking for a pause of so many seconds, then the file."""
        pause, _, name = rest.partition("/")
        if self._seen == 1:
            self.answer(429, b"later", "text/plain", **{"Retry-After": pause})
        else:
            self.send_file(name)

    def bad_broken(self, name: str) -> None:
        """500 always."""
        self.answer(500, b"oops", "text/plain")

    def bad_hang(self, name: str) -> None:
        """Never answers."""
        self.server.owner.closing.wait(60)

    def bad_short(self, name: str) -> None:
        """Promises the whole file, sends half of it."""
        data = self.contents(name)
        self.send_response(200)
        self.send_header("Content-Type", "video/mp4")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data[: len(data) // 2])
        self.close_connection = True

    def bad_html(self, name: str) -> None:
        """A web page that says it is a video."""
        self.answer(200, b"<!DOCTYPE html><html><body>please log in</body></html>" * 20, "video/mp4")

    def bad_page(self, name: str) -> None:
        """A web page that says so."""
        self.answer(200, b"<!DOCTYPE html><html><body>please log in</body></html>", "text/html; charset=utf-8")

    def bad_empty(self, name: str) -> None:
        self.answer(200, b"")

    def bad_truncated(self, name: str) -> None:
        """Half of the file, as if that were all."""
        data = self.contents(name)
        self.answer(200, data[: len(data) // 2])

    def bad_redirect(self, name: str) -> None:
        self.answer(302, b"", Location=f"/{name}")

    def bad_loop(self, name: str) -> None:
        self.answer(302, b"", Location=f"/loop/{name}")

    def bad_hops(self, rest: str) -> None:
        """``/hops/5/a.mp4``: so many redirects, then the file."""
        left, _, name = rest.partition("/")
        self.answer(307, b"", Location=f"/hops/{int(left) - 1}/{name}" if int(left) > 1 else f"/{name}")

    def bad_private(self, name: str) -> None:
        """Redirects to the address where clouds keep their secrets."""
        self.answer(302, b"", Location="http://169.254.169.254/latest/meta-data/")

    def bad_file(self, name: str) -> None:
        """Redirects to a local file."""
        self.answer(302, b"", Location="file:///etc/passwd")

    def bad_nowhere(self, name: str) -> None:
        """Redirects to what is no address."""
        self.answer(302, b"", Location="http://[::1/a.mp4")

    def bad_endless(self, name: str) -> None:
        """A chunked body without a length that does not end."""
        self.send_response(200)
        self.send_header("Content-Type", "video/mp4")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        while not self.server.owner.closing.is_set():
            self.wfile.write(b"10000\r\n" + bytes(1 << 16) + b"\r\n")

    def bad_chunked(self, name: str) -> None:
        """The file, chunked, without a length."""
        data = self.contents(name)
        self.send_response(200)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        for start in range(0, len(data), 10_000):
            piece = data[start : start + 10_000]
            self.wfile.write(b"%x\r\n" % len(piece) + piece + b"\r\n")
        self.wfile.write(b"0\r\n\r\n")

    def bad_drip(self, name: str) -> None:
        """A byte every 20 ms: each arrives in time, all of them never do."""
        self.send_response(200)
        self.send_header("Content-Length", "1000000")
        self.end_headers()
        while not self.server.owner.closing.is_set():
            self.wfile.write(b"x")
            time.sleep(0.02)

    def bad_dripping_header(self, name: str) -> None:
        """A header that never ends, a byte every 20 ms."""
        self.wfile.write(b"HTTP/1.1 200 OK\r\nX-Slow: ")
        while not self.server.owner.closing.is_set():
            self.wfile.write(b"x")
            time.sleep(0.02)

    def bad_echo(self, name: str) -> None:
        """What was asked for, byte by byte, and of which host."""
        self.answer(200, f"{self.headers['Host']} {self.path}".encode())

    def bad_header(self, name: str) -> None:
        """The file, after a line that is no header."""
        data = self.contents(name)
        self.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\nno header\r\n\r\n" % len(data) + data)
        self.close_connection = True

    def bad_login(self, name: str) -> None:
        """The file for user ``me`` with password ``secret``."""
        if self.headers.get("Authorization") == "Basic bWU6c2VjcmV0":
            self.send_file(name)
        else:
            self.answer(401, b"who are you", "text/plain")
