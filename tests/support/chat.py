"""A loopback server of chat completions that answers, or misbehaves, by the prompt that it is asked about."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler
from typing import Any

from tests.support.servers import LoopbackServer

_PROMPT = re.compile(r'^Prompt: (".*")$', re.MULTILINE)


def good_answer(prompt: str) -> str:
    """What a prompt becomes by default."""
    return f"{prompt}, filmed in warm light"


class ChatServer(LoopbackServer):
    """Answers ``POST /v1/chat/completions``.

    Attributes:
        says: the answer to a prompt, by default :func:`good_answer`; a list: one a request, the last one for good.
        misbehaves: method of the handler by prompt, its name without ``bad_``.
        asked: the prompts, in the order of the requests.
        bodies: raw bytes of the requests, headers among them.
        before: called with each prompt before it is answered.
    """

    def __init__(self) -> None:
        self.says: dict[str, Any] = {}
        self.misbehaves: dict[str, str] = {}
        self.asked: list[str] = []
        self.bodies: list[bytes] = []
        self.before: Callable[[str], object] = lambda prompt: None
        super().__init__(_Handler)
        self.url += "/v1"

    def answer(self, prompt: str) -> str:
        """The answer to the newest request about a prompt."""
        said = self.says.get(prompt, good_answer(prompt))
        return said if isinstance(said, str) else said[min(self.asked.count(prompt), len(said)) - 1]


class _Handler(BaseHTTPRequestHandler):
    """One method a misbehaviour."""

    protocol_version = "HTTP/1.1"
    server: Any

    def log_message(self, format: str, *args: object) -> None:
        """Silent."""

    def do_GET(self) -> None:
        self.send(404, b"not here")

    def do_POST(self) -> None:
        owner, body = self.server.owner, self.rfile.read(int(self.headers["Content-Length"]))
        content = json.loads(body)["messages"][-1]["content"]
        found = _PROMPT.findall(content)
        prompt = json.loads(found[-1]) if found else content
        with owner.lock:
            owner.bodies.append(f"{self.path}\n{self.headers}".encode() + body)
            owner.asked.append(prompt)
            said = owner.answer(prompt)
            self._times = owner.asked.count(prompt)
        owner.before(prompt)
        if owner.healthy or prompt not in owner.misbehaves:
            self.complete(said)
        else:
            name, _, argument = owner.misbehaves[prompt].partition(" ")
            getattr(self, f"bad_{name}")(*([said, argument] if argument else [said]))

    def send(self, status: int, body: bytes, kind: str = "application/json", **headers: str) -> None:
        self.send_response(status)
        for key, value in {"Content-Type": kind, "Content-Length": str(len(body)), **headers}.items():
            self.send_header(key.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(body)

    def complete(self, text: str | None, **message: Any) -> None:
        choice = {"index": 0, "message": {"role": "assistant", "content": text, **message}, "finish_reason": "stop"}
        self.send(200, json.dumps({"object": "chat.completion", "choices": [choice]}).encode())

    def bad_status(self, said: str, status: str) -> None:
        self.send(int(status), b'{"error": {"message": "not now"}}', Retry_After="0")

    def bad_once(self, said: str, status: str) -> None:
        """The status at the first request, then the answer."""
        self.bad_status(said, status) if self._times == 1 else self.complete(said)

    def bad_html(self, said: str) -> None:
        self.send(200, b"<!DOCTYPE html><html><body>please log in</body></html>", "text/html")

    def bad_error_body(self, said: str) -> None:
        self.send(200, b'{"error": {"message": "model overloaded", "code": 1}}')

    def bad_shape(self, said: str) -> None:
        self.send(200, b'{"choices": [{"message": {"content": [1, 2]}}]}')

    def bad_nested(self, said: str) -> None:
        self.send(200, b"[" * 100_000)

    def bad_refused(self, said: str) -> None:
        """The API's own way to refuse."""
        self.complete(None, refusal="That is against the rules.")

    def bad_null(self, said: str) -> None:
        self.complete(None)

    def bad_redirect(self, said: str) -> None:
        self.send(307, b"", Location=f"{self.server.owner.url}/elsewhere")

    def bad_echo(self, said: str) -> None:
        """An error that shows the key."""
        self.send(401, json.dumps({"error": {"message": self.headers["Authorization"]}}).encode())

    def bad_body(self, said: str, argument: str) -> None:
        """A status, and a text that is in the body as it is, which is no JSON."""
        status, _, text = argument.partition(" ")
        self.send(int(status), f"wrong key {text}, go".encode())

    def bad_parrot(self, said: str) -> None:
        """An answer that shows the key."""
        self.complete(f"{said} {self.headers['Authorization']}")

    def bad_short(self, said: str) -> None:
        """Promises more than it sends."""
        self.send_response(200)
        self.send_header("Content-Length", "1000")
        self.end_headers()
        self.wfile.write(b'{"choices"')
        self.close_connection = True

    def bad_endless(self, said: str) -> None:
        """A body that does not end, as fast as it can."""
        self.send_response(200)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        while not self.server.owner.closing.is_set():
            self.wfile.write(b"10000\r\n" + b" " * (1 << 16) + b"\r\n")

    def bad_drip(self, said: str) -> None:
        """A header that does not end, a byte every 20 ms."""
        self.wfile.write(b"HTTP/1.1 200 OK\r\nX-Slow: ")
        while not self.server.owner.closing.is_set():
            self.wfile.write(b"x")
            time.sleep(0.02)
