"""Downloads over HTTP(S) to a file, streamed, with retries.

Built on the standard library's ``http.client`` with connections of our own (:mod:`.addresses`): proxies of the
environment are not used, and the address check holds for every redirect too.
"""

from __future__ import annotations

import base64
import email.utils
import functools
import http.client
import itertools
import random
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import SplitResult, quote, unquote, urljoin, urlsplit

from noisebank.errors import RowFailure
from noisebank.options import FetchOptions
from noisebank.video.addresses import connect
from noisebank.video.uris import shown

MAX_REDIRECTS = 5
MAX_RETRY_AFTER_S = 60.0
FIRST_PAUSE_S = 0.5
MAX_PAUSE_S = 30.0
DEADLINE_TIMEOUTS = 20
"""All tries of one uri together end after this many times ``FetchOptions.timeout``."""
_CHUNK = 1 << 17
_REDIRECTS = (301, 302, 303, 307, 308)
_BUSY = (408, 425, 429)
_SAFE_IN_URL = "%/:=&?~#+!$,;'@()*[]"


class _Failed(RowFailure):
    """A failed try; ``retry_after`` is what the server asked for, in seconds."""

    def __init__(self, code: str, message: str, *, retryable: bool = False, retry_after: float = 0.0) -> None:
        super().__init__(code, message, retryable=retryable)
        self.retry_after = retry_after


@dataclass(frozen=True)
class _Try:
    """What one try needs to know."""

    options: FetchOptions
    deadline: float
    span: tuple[int, int] | None


def download(url: str, destination: Path, options: FetchOptions, span: tuple[int, int] | None = None) -> None:
    """Writes what ``url`` answers to ``destination``.

    Time-outs, connection errors, short bodies, 408, 425, 429 and 5xx are tried again ``options.retries`` times, after
    pauses with exponential backoff and full jitter, or what Retry-After says up to a minute.

    Args:
        url: http or https.
        destination: file to write; what is there is replaced.
        options: limits; see :class:`~noisebank.options.FetchOptions`.
        span: bytes ``[start, end)`` to ask for, or None for all.

    Raises:
        RowFailure: ``http_<status>``, ``timeout``, ``connection``, ``tls``, ``short_body``, ``too_large``,
            ``not_video`` (it is a web page, or empty), ``private_address``, ``redirects`` or ``bad_uri``.
    """
    now = _Try(options, time.monotonic() + DEADLINE_TIMEOUTS * options.timeout, span)
    for tries in itertools.count(1):
        try:
            return _follow(url, destination, now)
        except RowFailure as failure:
            pause = random.uniform(0, min(MAX_PAUSE_S, FIRST_PAUSE_S * 2 ** (tries - 1)))
            if isinstance(failure, _Failed):
                pause = max(pause, failure.retry_after)
            over = time.monotonic() + pause >= now.deadline
            if not failure.retryable or tries > options.retries or over:
                suffix = f" ({tries} tries)" if tries > 1 else ""
                raise RowFailure(failure.code, failure.message + suffix, retryable=failure.retryable) from failure
            time.sleep(pause)


def _follow(url: str, destination: Path, now: _Try) -> None:
    """One try: follows redirects to the answer and writes its body."""
    at = url
    for _ in range(MAX_REDIRECTS + 1):
        with ExitStack() as stack:
            response = _request(stack, at, now)
            if response.status not in _REDIRECTS:
                _check(response, at, now)
                return _write(response, at, destination, now)
            location = response.headers.get("Location", "")
        at = _redirected(at, location)
        if not at:
            raise RowFailure("redirects", f"{shown(url)}: redirect to {shown(location)!r}, not to an http(s) address")
    raise RowFailure("redirects", f"{shown(url)}: more than {MAX_REDIRECTS} redirects")


def _redirected(url: str, location: str) -> str:
    """The address that ``location`` in an answer of ``url`` stands for; "" if it is no http(s) address."""
    try:
        at = urljoin(url, location)
        return at if location and urlsplit(at).scheme in ("http", "https") else ""
    except ValueError:
        return ""


def _split(url: str) -> SplitResult:
    """The parts of a url, characters that may not stand in a request quoted."""
    try:
        parts = urlsplit(quote(url, safe=_SAFE_IN_URL) if url.isascii() else _quoted(url))
        _ = parts.port
    except ValueError as error:
        raise RowFailure("bad_uri", f"{shown(url)}: {error}") from error
    if not parts.hostname:
        raise RowFailure("bad_uri", f"{shown(url)}: no host")
    return parts


def _quoted(url: str) -> str:
    """A url with its path and query percent-encoded as UTF-8 and its host in IDNA."""
    parts = urlsplit(url)
    host = (parts.hostname or "").encode("idna").decode()
    netloc = parts.netloc.replace(parts.hostname or "", host) if parts.hostname else parts.netloc
    return quote(parts._replace(netloc=netloc).geturl(), safe=_SAFE_IN_URL)


def _request(stack: ExitStack, url: str, now: _Try) -> http.client.HTTPResponse:
    """Connects, asks and gives the response; ``stack`` closes both."""
    parts = _split(url)
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    with _network(url, now):
        connection = stack.enter_context(_connection(parts, now))
        connection.request("GET", target, headers=_headers(parts, now.span))
        return stack.enter_context(connection.getresponse())


@contextmanager
def _network(url: str, now: _Try) -> Iterator[None]:
    """What goes wrong inside is the network's doing: a failed try of this url."""
    try:
        yield
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise _failure(error, url, now) from error


def _timed_out(url: str, now: _Try) -> _Failed:
    limit = f"no complete answer in {DEADLINE_TIMEOUTS * now.options.timeout:g} s"
    return _Failed("timeout", f"{shown(url)}: {limit}", retryable=True)


def _failure(error: Exception, url: str, now: _Try) -> RowFailure:
    """Which failure an exception of the network stands for."""
    where = shown(url)
    if time.monotonic() >= now.deadline:
        return _timed_out(url, now)
    if isinstance(error, TimeoutError):
        return _Failed("timeout", f"{where}: no byte for {now.options.timeout:g} s", retryable=True)
    if isinstance(error, ssl.SSLCertVerificationError):
        return RowFailure("tls", f"{where}: {error.verify_message}")
    if isinstance(error, http.client.IncompleteRead):
        return _Failed("short_body", f"{where}: the body ended early", retryable=True)
    if isinstance(error, http.client.InvalidURL | UnicodeError):
        return RowFailure("bad_uri", f"{where}: not a valid address")
    return _Failed("connection", f"{where}: {type(error).__name__}: {error}", retryable=True)


@contextmanager
def _connection(parts: SplitResult, now: _Try) -> Iterator[http.client.HTTPConnection]:
    """An open connection to the host of ``parts``, cut off at the deadline however busy it looks."""
    host, secure = str(parts.hostname), parts.scheme == "https"
    port = parts.port or (443 if secure else 80)
    remaining = max(now.deadline - time.monotonic(), 0.001)
    sock = connect(host, port, min(now.options.timeout, remaining), now.options.allow_private_hosts)
    handle = sock.dup()
    watchdog = threading.Timer(remaining, _cut, (handle,))
    watchdog.daemon = True
    watchdog.start()
    try:
        if secure:
            sock = _tls().wrap_socket(sock, server_hostname=host)
        connection = http.client.HTTPConnection(host, port)
        connection.sock = sock
        yield connection
    finally:
        watchdog.cancel()
        handle.close()
        sock.close()


def _cut(connection: socket.socket) -> None:
    """Ends a connection under a thread that reads from it."""
    with suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)


@functools.cache
def _tls() -> ssl.SSLContext:
    return ssl.create_default_context()


def _headers(parts: SplitResult, span: tuple[int, int] | None) -> dict[str, str]:
    headers = {
        "Host": parts.netloc.rpartition("@")[2],
        "User-Agent": "noisebank",
        "Accept-Encoding": "identity",
        "Connection": "close",
    }
    if parts.username is not None:
        user = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
        headers["Authorization"] = "Basic " + base64.b64encode(user.encode()).decode()
    if span is not None:
        headers["Range"] = f"bytes={span[0]}-{span[1] - 1}"
    return headers


def _check(response: http.client.HTTPResponse, url: str, now: _Try) -> None:
    """Raises unless status, content type and content length are those of a video within the limit."""
    status, where = response.status, shown(url)
    if status != (200 if now.span is None else 206):
        retryable = status in _BUSY or status >= 500
        after = _retry_after(response.headers.get("Retry-After")) if retryable else 0.0
        raise _Failed(f"http_{status}", f"{where}: HTTP {status}", retryable=retryable, retry_after=after)
    kind = response.headers.get_content_type()
    if kind in ("text/html", "application/xhtml+xml"):
        raise RowFailure("not_video", f"{where}: a web page ({kind}), not a video")
    if response.length is not None and response.length > now.options.max_bytes:
        raise _too_large(where, response.length, now.options)


def _too_large(where: str, size: int, options: FetchOptions) -> RowFailure:
    return RowFailure("too_large", f"{where}: {size} bytes or more, fetch.max_bytes is {options.max_bytes}")


def _retry_after(value: str | None) -> float:
    """Seconds of a Retry-After header, which is a number or a date, from 0 to a minute."""
    if not value:
        return 0.0
    try:
        seconds = float(value)
    except ValueError:
        try:
            seconds = email.utils.parsedate_to_datetime(value).timestamp() - time.time()
        except (ValueError, TypeError):
            return 0.0
    return min(max(seconds, 0.0), MAX_RETRY_AFTER_S)


def _write(response: http.client.HTTPResponse, url: str, destination: Path, now: _Try) -> None:
    """Streams the body to the file and checks that all of it came."""
    expected, size = response.length, 0
    with destination.open("wb") as file:
        while True:
            with _network(url, now):
                chunk = response.read1(_CHUNK)
            size += len(chunk)
            if time.monotonic() >= now.deadline:
                raise _timed_out(url, now)
            if size > now.options.max_bytes:
                raise _too_large(shown(url), size, now.options)
            if not chunk:
                break
            file.write(chunk)
    if expected is not None and size < expected:
        raise _Failed("short_body", f"{shown(url)}: {size} bytes of {expected}", retryable=True)
    if size == 0:
        raise RowFailure("not_video", f"{shown(url)}: 0 bytes")
