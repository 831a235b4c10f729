"""A language model behind an OpenAI-compatible endpoint as a rewriter: one chat completion a prompt.

What comes back is untrusted: it is read up to a size and a deadline, and whatever is no answer is the failure
``endpoint`` of its row. The key stands in the environment alone; it is taken out of all that a server sends back.
"""

from __future__ import annotations

import http.client
import json
import os
import random
import re
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

from noisebank.errors import ConfigError, RowFailure
from noisebank.rewriting.template import Request, messages, one_line

MAX_ANSWER_BYTES = 1 << 20
_FIRST_PAUSE_S, _MAX_PAUSE_S = 0.5, 30.0
_CHUNK = 1 << 16
_BUSY = (408, 425, 429)
_KEY = re.compile(r"[\x21\x23-\x5b\x5d-\x7e]+")
"""Printable ASCII that JSON writes as it is."""
_TOKENS_A_WORD = 6
_SHOWN = 200


class _Reply(NamedTuple):
    status: int
    retry_after: float
    body: bytes


class _Unreachable(Exception):
    """No reply, or not a whole one; what another try may mend."""


class EndpointRewriter:
    """Rewrites prompts by a model that answers ``POST <base_url>/chat/completions``.

    Time-outs, broken connections, 408, 425, 429 and 5xx are tried again, after pauses with exponential backoff and full
    jitter, or what Retry-After says up to a minute. Redirects are not followed, proxies of the environment not used.

    >>> rewriter = EndpointRewriter("http://localhost:8000/v1", "qwen", api_key_env="MY_KEY")     # doctest: +SKIP
    >>> bank.rewrite("a dog on the beach", rewriter)                                              # doctest: +SKIP

    Args:
        base_url: address of the API, such as ``http://localhost:8000/v1``; private hosts are allowed.
        model: what the endpoint calls the model.
        api_key_env: name of the environment variable with the key, which is read where requests are made; None: no key.
        concurrency: requests at once.
        timeout: seconds for one answer.
        retries: tries after the first.
        parameters: of every request, beside model and messages; by default ``temperature`` 0 and ``max_tokens``.

    Raises:
        ConfigError: the address is no http(s) address or carries a password, or the variable is not set.
    """

    def __init__(
        self,
        base_url: str,
        model: str,
        *,
        api_key_env: str | None = None,
        concurrency: int = 8,
        timeout: float = 60.0,
        retries: int = 4,
        parameters: Mapping[str, Any] | None = None,
    ) -> None:
        self.name = model
        self._url = _completions_url(base_url)
        self._key_name = api_key_env
        self._concurrency, self._timeout, self._retries = concurrency, timeout, retries
        self._parameters = parameters
        self._key()

    def __repr__(self) -> str:
        return f"EndpointRewriter({self._url!r}, {self.name!r})"

    def __call__(self, requests: Sequence[Request]) -> list[str | RowFailure]:
        """The answers, in the order of the requests; ``endpoint`` or ``refusal`` where there is none."""
        key = self._key()
        with ThreadPoolExecutor(max(1, min(self._concurrency, len(requests)))) as pool:
            return list(pool.map(lambda request: self._answer(request, key), requests))

    def _key(self) -> str:
        """The key; empty if none is wanted."""
        if self._key_name is None:
            return ""
        key = os.environ.get(self._key_name, "").strip()
        if not _KEY.fullmatch(key):
            problem = "has characters that no key has" if key else "is not set"
            raise ConfigError(f"environment variable {self._key_name!r} {problem}; export the endpoint's key in it")
        return key

    def _answer(self, request: Request, key: str) -> str | RowFailure:
        defaults = {"temperature": 0, "max_tokens": _TOKENS_A_WORD * request.max_words + 32}
        parameters = defaults if self._parameters is None else dict(self._parameters)
        body = json.dumps({"model": self.name, "messages": messages(request), **parameters}).encode()
        try:
            return _text_of(self._ask(body, key), key)
        except RowFailure as failure:
            said = f"{self._url}: {_without(key, failure.message)}"
            return RowFailure(failure.code, said, retryable=failure.retryable)

    def _ask(self, body: bytes, key: str) -> bytes:
        """The body of a good reply, tried as often as allowed.

        Raises:
            RowFailure: ``endpoint``.
        """
        problem = ""
        for tries in range(self._retries + 1):
            pause = random.uniform(0, min(_MAX_PAUSE_S, _FIRST_PAUSE_S * 2 ** (tries - 1)))
            try:
                reply = self._post(body, key)
                if reply.status == 200:
                    return reply.body
                said = one_line(_without(key, reply.body.decode(errors="replace")), _SHOWN)
                problem, pause = f"HTTP {reply.status}: {said}", max(pause, reply.retry_after)
                if reply.status not in _BUSY and reply.status < 500:
                    break
            except _Unreachable as error:
                problem = str(error)
            if tries < self._retries:
                time.sleep(pause)
        raise _no_answer(f"{problem} ({tries + 1} tries)" if tries else problem)

    def _post(self, body: bytes, key: str) -> _Reply:
        """One try."""
        from urllib3.exceptions import HTTPError
        from urllib3.util import parse_url

        from noisebank.video.http import open_connection, parse_retry_after

        address, deadline = parse_url(self._url), time.monotonic() + self._timeout
        headers = {"Host": str(address.netloc), "User-Agent": "noisebank", "Accept": "application/json"}
        headers |= {"Content-Type": "application/json", "Accept-Encoding": "identity", "Connection": "close"}
        headers |= {"Authorization": f"Bearer {key}"} if key else {}
        try:
            with open_connection(address, self._timeout, deadline, True) as connection:
                target = str(address.request_uri)
                connection.request("POST", target, body, headers, preload_content=False, decode_content=False)
                with connection.getresponse() as response:
                    content = b""
                    while chunk := response.read1(_CHUNK):
                        content += chunk
                        if len(content) > MAX_ANSWER_BYTES:
                            raise _no_answer(f"an answer of more than {MAX_ANSWER_BYTES} bytes")
                        if time.monotonic() > deadline:
                            break
                    if time.monotonic() > deadline:  # (a connection that was cut off may look like the body's end)
                        raise _Unreachable(f"no complete answer in {self._timeout:g} s")
                    return _Reply(response.status, parse_retry_after(response.headers.get("Retry-After")), content)
        except (OSError, http.client.HTTPException, HTTPError, ValueError) as error:
            if isinstance(error, TimeoutError) or time.monotonic() > deadline:
                raise _Unreachable(f"no complete answer in {self._timeout:g} s") from None
            cause = error.__cause__ or error
            raise _Unreachable(one_line(f"{type(cause).__name__}: {_without(key, str(cause))}", _SHOWN)) from None


def _completions_url(base_url: str) -> str:
    """The address that requests go to."""
    try:
        from urllib3.exceptions import LocationParseError
        from urllib3.util import parse_url
    except ModuleNotFoundError as error:
        raise ConfigError("urllib3 is not installed; pip install 'noisebank[jobs]'") from error

    try:
        address = parse_url(base_url)
    except LocationParseError:
        address = parse_url("")
    if address.auth is not None:
        raise ConfigError("endpoint: an address without a password is wanted; put the key into the environment")
    if address.scheme not in ("http", "https") or not address.host or address.query or address.fragment:
        shown = re.split("[?#]", base_url)[0].rpartition("@")[2]  # (a key may be in the rest)
        raise ConfigError(
            f"endpoint {shown!r} is not allowed; an address such as http://localhost:8000/v1 is, without '?' and '#'"
        )
    return f"{str(address.url).rstrip('/')}/chat/completions"


def _text_of(body: bytes, key: str) -> str:
    """The answer in a chat completion.

    Raises:
        RowFailure: ``refusal``; ``endpoint`` if it is none.
    """
    try:
        document = json.loads(body)
    except (ValueError, RecursionError):
        raise _no_answer(f"no JSON: {one_line(_without(key, body.decode(errors='replace')), _SHOWN)!r}") from None
    try:
        message = document["choices"][0]["message"]
        content, refusal = message.get("content"), message.get("refusal")
    except (KeyError, IndexError, TypeError, AttributeError):
        shown = json.dumps(document.get("error", document) if isinstance(document, dict) else document)
        raise _no_answer(f"no chat completion: {one_line(_without(key, shown), _SHOWN)}") from None
    if isinstance(refusal, str) and refusal:
        raise RowFailure("refusal", f"refused: {one_line(_without(key, refusal), _SHOWN)!r}")
    if not isinstance(content, str | None):
        raise _no_answer("a chat completion whose content is no text")
    return _without(key, content or "")


def _no_answer(message: str) -> RowFailure:
    return RowFailure("endpoint", message, retryable=True)


def _without(key: str, text: str) -> str:
    """``text`` without the key, whichever of its characters are escaped, in JSON (in JSON) or in an address."""
    pattern = "".join(rf"(?:\\{{0,8}}{re.escape(c)}|(?i:\\{{1,8}}u00{ord(c):02x}|%{ord(c):02x}))" for c in key)
    return re.sub(pattern, "***", text) if key else text
