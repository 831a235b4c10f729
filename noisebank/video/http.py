"""Downloads over HTTP(S) to a file, streamed, with retries.

urllib3 speaks HTTP, on connections that :mod:`.addresses` makes: proxies of the environment are not used, and the
address check holds for every redirect too. Tries and redirects are counted here, since urllib3's ``Retry`` sees neither
the body nor the deadline.
"""

from __future__ import annotations

import functools
import http.client
import itertools
import logging
import random
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote, urljoin, urlsplit

from urllib3.connection import HTTPConnection
from urllib3.exceptions import HTTPError, IncompleteRead, InvalidHeader
from urllib3.response import HTTPResponse
from urllib3.util import Retry, Url, make_headers, parse_url

from noisebank.errors import RowFailure
from noisebank.options import FetchOptions
from noisebank.video.addresses import connect
from noisebank.video.uris import shown

MAX_REDIRECTS = 5
MAX_RETRY_AFTER_S = 60
FIRST_PAUSE_S = 0.5
MAX_PAUSE_S = 30.0
DEADLINE_TIMEOUTS = 20
"""All tries of one uri together end after this many times ``FetchOptions.timeout``."""
_CHUNK = 1 << 17
_SAFE_IN_URL = "%/:=&?~#+!$,;'@()*[]"
_BUSY = (408, 425, 429)
_HEADERS = {"User-Agent": "noisebank", "Accept-Encoding": "identity", "Connection": "close"}
_tls = functools.cache(ssl.create_default_context)

logging.getLogger("urllib3.connection").setLevel(logging.ERROR)  # its warnings show queries, hence signatures


class _TryAgain(RowFailure):
    """A failed try that another may mend; ``retry_after`` is what the server asked for, in seconds."""

    def __init__(self, code: str, message: str, retry_after: float = 0.0) -> None:
        super().__init__(code, message, retryable=True)
        self.retry_after = retry_after


@dataclass(frozen=True)
class _Download:
    """What all tries of one uri share."""

    options: FetchOptions
    span: tuple[int, int] | None
    deadline: float

    def check(self, where: str, size: int = 0) -> None:
        """Raises if ``size`` bytes are too many or the deadline has passed."""
        limit, seconds = self.options.max_bytes, DEADLINE_TIMEOUTS * self.options.timeout
        if size > limit:
            raise RowFailure("too_large", f"{where}: {size} bytes or more, fetch.max_bytes is {limit}")
        if time.monotonic() >= self.deadline:
            raise _TryAgain("timeout", f"{where}: no complete answer in {seconds:g} s")


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
    job = _Download(options, span, time.monotonic() + DEADLINE_TIMEOUTS * options.timeout)
    for tries in itertools.count(1):
        try:
            with destination.open("wb") as file:
                return file.writelines(_follow(url, job))
        except RowFailure as failure:
            pause = random.uniform(0, min(MAX_PAUSE_S, FIRST_PAUSE_S * 2 ** (tries - 1)))
            if isinstance(failure, _TryAgain):
                pause = max(pause, failure.retry_after)
            if not failure.retryable or tries > options.retries or time.monotonic() + pause >= job.deadline:
                suffix = f" ({tries} tries)" if tries > 1 else ""
                raise RowFailure(failure.code, failure.message + suffix, retryable=failure.retryable) from failure
            time.sleep(pause)


def _follow(url: str, job: _Download) -> Iterator[bytes]:
    """One try: follows redirects to the answer and reads its body."""
    at, location = "", url
    for _ in range(MAX_REDIRECTS + 1):
        at, address = _resolve(at, location)
        try:
            with _ask(at, address, job) as response:
                if response.status not in response.REDIRECT_STATUSES:
                    yield from _read(response, shown(at), job)
                    return
                location = response.headers.get("Location", "")
        except (OSError, http.client.HTTPException, HTTPError, ValueError) as error:
            job.check(shown(at))
            raise _failure(error, shown(at), job.options) from error
    raise RowFailure("redirects", f"{shown(url)}: more than {MAX_REDIRECTS} redirects")


def _resolve(base: str, location: str) -> tuple[str, Url]:
    """The address that ``location`` stands for in an answer of ``base``, which is "" for the listed uri itself."""
    with suppress(ValueError):
        at = urljoin(base, location)
        address = parse_url(at)
        if location and address.host and address.scheme in ("http", "https"):
            return at, address
    if base:
        raise RowFailure("redirects", f"{shown(base)}: redirect to {shown(location)!r}, not to an http(s) address")
    raise RowFailure("bad_uri", f"{shown(location)}: not a valid http(s) address")


@contextmanager
def _ask(at: str, address: Url, job: _Download) -> Iterator[HTTPResponse]:
    """The answer to a GET, on a connection that is cut off at the deadline however busy it looks."""
    options = job.options
    with open_connection(address, options.timeout, job.deadline, options.allow_private_hosts) as connection:
        basic = make_headers(basic_auth=address.auth_decoded_joined, basic_auth_encoding="utf-8")
        span = {"Range": f"bytes={job.span[0]}-{job.span[1] - 1}"} if job.span else {}
        headers = {"Host": str(address.netloc), **_HEADERS, **basic, **span}
        connection.request("GET", _target(at), headers=headers, preload_content=False, decode_content=False)
        with connection.getresponse() as response:
            yield response


@contextmanager
def open_connection(
    address: Url, timeout: float, deadline: float, allow_private_hosts: bool
) -> Iterator[HTTPConnection]:
    """A connection to the host of an http(s) address that is cut off at the deadline however busy it looks.

    Args:
        address: parsed; its path is left to the request.
        timeout: seconds without a byte.
        deadline: by the monotonic clock.
        allow_private_hosts: whether the host may be a private or loopback one.

    Raises:
        OSError: it cannot be reached.
        RowFailure: ``private_address``.
    """
    host, secure = str(address.host).strip("[]"), address.scheme == "https"
    port = address.port or (443 if secure else 80)
    remaining = max(deadline - time.monotonic(), 0.001)
    timeout = min(timeout, remaining)
    with ExitStack() as stack:
        sock = stack.enter_context(connect(host, port, timeout, allow_private_hosts))
        watchdog = threading.Timer(remaining, _cut, (stack.enter_context(sock.dup()),))
        watchdog.daemon = True
        watchdog.start()
        stack.callback(watchdog.cancel)
        connection = stack.enter_context(closing(HTTPConnection(host, port, timeout=timeout)))
        connection.sock = _tls().wrap_socket(sock, server_hostname=connection.host) if secure else sock
        yield connection


def _target(url: str) -> str:
    """Path and query as listed, only quoted where need be: a signature may cover what urllib3 would normalize."""
    parts = urlsplit(quote(url, safe=_SAFE_IN_URL))
    return (parts.path or "/") + (f"?{parts.query}" if parts.query else "")


def _cut(connection: socket.socket) -> None:
    """Ends a connection under a thread that reads from it."""
    with suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)


def _read(response: HTTPResponse, where: str, job: _Download) -> Iterator[bytes]:
    """The body, once status and headers are those of a video within the limit."""
    status, size = response.status, 0
    if status in _BUSY or status >= 500:
        after = parse_retry_after(response.headers.get("Retry-After"))
        raise _TryAgain(f"http_{status}", f"{where}: HTTP {status}", after)
    if status != (200 if job.span is None else 206):
        raise RowFailure(f"http_{status}", f"{where}: HTTP {status}")
    kind = response.headers.get("Content-Type", "").partition(";")[0].strip().lower()
    if kind in ("text/html", "application/xhtml+xml"):
        raise RowFailure("not_video", f"{where}: a web page ({kind}), not a video")
    job.check(where, response.length_remaining or 0)
    while chunk := response.read1(_CHUNK):
        size += len(chunk)
        job.check(where, size)
        yield chunk
    job.check(where)  # (a connection that was cut off may look like the end of the body)
    if size == 0:
        raise RowFailure("not_video", f"{where}: 0 bytes")


def _failure(error: Exception, where: str, options: FetchOptions) -> RowFailure:
    """Which failure an exception of the network stands for; urllib3 wraps what it reads a body with."""
    cause = error.__cause__ or error
    if isinstance(cause, TimeoutError):
        return _TryAgain("timeout", f"{where}: no byte for {options.timeout:g} s")
    if isinstance(cause, ssl.SSLCertVerificationError):
        return RowFailure("tls", f"{where}: {cause.verify_message}")
    if isinstance(cause, IncompleteRead):
        return _TryAgain("short_body", f"{where}: {cause.partial} bytes of {cause.partial + cause.expected}")
    if isinstance(cause, http.client.IncompleteRead):  # (of a chunked body)
        return _TryAgain("short_body", f"{where}: the body ended early")
    if isinstance(cause, ValueError):
        return RowFailure("bad_uri", f"{where}: not a valid address")
    return _TryAgain("connection", f"{where}: {type(cause).__name__}: {cause}")


def parse_retry_after(value: str | None) -> float:
    """Seconds of a Retry-After header, which is a number or a date, from 0 to a minute."""
    with suppress(ValueError):
        return min(max(0.0, float(value or 0)), MAX_RETRY_AFTER_S)
    with suppress(ValueError, InvalidHeader):
        return Retry(retry_after_max=MAX_RETRY_AFTER_S).parse_retry_after(str(value))
    return 0.0
