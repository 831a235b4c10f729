"""A proxy on loopback in front of a real server: it counts what is asked, and breaks, slows or holds some of it.

What a test gives as ``misbehave`` is asked of every request and answers with one of the misbehaviours, or "":

- ``503``: answers so, and forwards nothing;
- ``hang``: takes the request and never answers;
- ``cut request``: half of the body goes to the server, then both connections are closed;
- ``lose answer``: the server answers, the client never hears;
- ``cut answer``: half of the body comes, then the connection is closed;
- ``slow``: the bodies go through in pieces of 64 KiB with a pause after each;
- ``meet``: waits until as many such requests have come as ``meeting`` says, and only then forwards them.
"""

from __future__ import annotations

import http.client
import threading
import time
from collections.abc import Callable, Iterator
from typing import NamedTuple
from urllib.parse import unquote

from tests.support.servers import AnyMethodHandler, LoopbackServer

_PIECE = 1 << 16
_PAUSE_SECONDS = 0.02
_HOP_BY_HOP = ("connection", "keep-alive", "transfer-encoding")
_PATIENCE_SECONDS = 60


class Request(NamedTuple):
    """What was asked: ``path`` without the query, decoded; ``range`` as the client wrote it."""

    method: str
    path: str
    query: str
    range: str


class Proxy(LoopbackServer):
    """Forwards to the server at ``upstream``, ``host:port``.

    Attributes:
        requests: all that came, in their order, but for the first word with a bucket (``HEAD .../noisebank``).
        misbehave: see above; None: never.
        meeting: see above.
    """

    def __init__(self, upstream: str) -> None:
        self.upstream = upstream
        self.requests: list[Request] = []
        self.misbehave: Callable[[Request], str] | None = None
        self.meeting = threading.Barrier(1)
        super().__init__(_Forward)


def times(number: int, misbehaviour: str, wanted: Callable[[Request], bool]) -> Callable[[Request], str]:
    """``misbehave`` of a proxy: the first ``number`` requests that are ``wanted``."""
    lock, seen = threading.Lock(), iter(range(number))

    def misbehave(request: Request) -> str:
        with lock:
            return misbehaviour if wanted(request) and next(seen, None) is not None else ""

    return misbehave


class _Forward(AnyMethodHandler):
    def answer_any(self) -> None:
        owner: Proxy = self.server.owner
        path, _, query = self.path.partition("?")
        span = self.headers.get("Range") or self.headers.get("x-ms-range", "")
        request = Request(self.command, unquote(path), query, span)
        if not path.endswith("/noisebank"):
            with owner.lock:
                owner.requests.append(request)
        act = owner.misbehave(request) if owner.misbehave else ""
        if act == "meet":
            owner.meeting.wait(_PATIENCE_SECONDS)
        if act == "hang":
            self.close_connection = True
            owner.closing.wait(_PATIENCE_SECONDS)
        elif act == "503":
            self._refuse()
        else:
            self._forward(act)

    def _refuse(self) -> None:
        for _ in self._body(""):
            pass
        body = b"<Error><Code>SlowDown</Code><Message>Please reduce your\n request rate.</Message></Error>"
        self.send_response(503)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _forward(self, act: str) -> None:
        upstream = http.client.HTTPConnection(self.server.owner.upstream, timeout=_PATIENCE_SECONDS)
        try:
            upstream.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
            for name, value in self.headers.items():
                upstream.putheader(name, value)
            upstream.endheaders()
            for piece in self._body(act):
                upstream.send(piece)
            if act == "cut request":
                self.close_connection = True
                return
            answer = upstream.getresponse()
            if act == "lose answer":
                answer.read()
                self.close_connection = True
                return
            self._answer(answer, act)
        finally:
            upstream.close()

    def _body(self, act: str) -> Iterator[bytes]:
        """The body of the request; half of it where it is to be cut off."""
        left = int(self.headers.get("Content-Length") or 0)
        left = left // 2 if act == "cut request" else left
        while left and (piece := self.rfile.read(min(_PIECE, left))):
            left -= len(piece)
            yield piece
            if act == "slow":
                time.sleep(_PAUSE_SECONDS)

    def _answer(self, answer: http.client.HTTPResponse, act: str) -> None:
        self.send_response(answer.status)
        for name, value in answer.getheaders():
            if name.lower() not in (*_HOP_BY_HOP, "date", "server"):
                self.send_header(name, value)
        body = b""
        if self.command != "HEAD" and answer.status not in (204, 304) and answer.getheader("Content-Length") is None:
            body = answer.read()
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if body:
            self.wfile.write(body)
            return
        left = (answer.length or 0) // 2 if act == "cut answer" else answer.length or 0
        while left and (piece := answer.read(min(_PIECE, left))):
            left -= len(piece)
            self.wfile.write(piece)
            if act == "slow":
                time.sleep(_PAUSE_SECONDS)
        if act == "cut answer":
            self.close_connection = True
