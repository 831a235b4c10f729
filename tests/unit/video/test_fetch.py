"""Fetching: what is tried again, what is refused, and that every failure has its own code."""

from __future__ import annotations

import dataclasses
import os
import shutil
import ssl
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from noisebank.errors import RowFailure
from noisebank.options import FetchOptions
from noisebank.video import addresses, http
from noisebank.video.fetch import fetch
from noisebank.video.uris import kind_of, member_uri, parse_member, shown, youtube_id
from tests.support.servers import VideoServer

DATA = bytes(range(256)) * 1000
OPTIONS = FetchOptions(timeout=5, retries=1, allow_private_hosts=True)


@pytest.fixture(autouse=True)
def _short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "FIRST_PAUSE_S", 0.01)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[VideoServer]:
    folder = tmp_path / "served"
    folder.mkdir()
    (folder / "a.mp4").write_bytes(DATA)
    with VideoServer(folder) as running:
        yield running


def failure(uri: str, destination: Path, options: FetchOptions = OPTIONS) -> RowFailure:
    with pytest.raises(RowFailure) as caught:
        fetch(uri, destination, options)
    return caught.value


@pytest.mark.parametrize("path", ["a.mp4", "chunked/a.mp4", "redirect/a.mp4", "hops/5/a.mp4", "flaky/1/a.mp4"])
def test_the_body_arrives_whole(server: VideoServer, tmp_path: Path, path: str) -> None:
    fetched = fetch(f"{server.url}/{path}", tmp_path / "out", OPTIONS)
    assert fetched == (tmp_path / "out", 0)
    assert fetched.path.read_bytes() == DATA


@pytest.mark.parametrize(
    ("path", "code", "retryable", "requests"),
    [
        ("404/a.mp4", "http_404", False, 1),
        ("nothing.mp4", "http_404", False, 1),
        ("403/a.mp4", "http_403", False, 1),
        ("login/a.mp4", "http_401", False, 1),
        ("broken/a.mp4", "http_500", True, 2),
        ("short/a.mp4", "short_body", True, 2),
        ("page/a.mp4", "not_video", False, 1),
        ("empty/a.mp4", "not_video", False, 1),
        ("file/a.mp4", "redirects", False, 1),
        ("loop/a.mp4", "redirects", False, 6),
        ("nowhere/a.mp4", "redirects", False, 1),
    ],
)
def test_each_failure_has_its_code(
    server: VideoServer, tmp_path: Path, path: str, code: str, retryable: bool, requests: int
) -> None:
    failed = failure(f"{server.url}/{path}", tmp_path / "out")
    assert (failed.code, failed.retryable) == (code, retryable)
    assert server.requests["/" + path] == requests


def test_six_redirects_are_too_many(server: VideoServer, tmp_path: Path) -> None:
    assert failure(f"{server.url}/hops/6/a.mp4", tmp_path / "out").code == "redirects"


def test_retries_are_counted_and_told(server: VideoServer, tmp_path: Path) -> None:
    options = dataclasses.replace(OPTIONS, retries=3)
    assert fetch(f"{server.url}/flaky/3/a.mp4", tmp_path / "out", options).path.read_bytes() == DATA
    assert server.requests["/flaky/3/a.mp4"] == 4
    assert "(4 tries)" in failure(f"{server.url}/flaky/4/a.mp4", tmp_path / "out", options).message


def test_retry_after_is_honoured(server: VideoServer, tmp_path: Path) -> None:
    began = time.monotonic()
    fetch(f"{server.url}/busy/0.4/a.mp4", tmp_path / "out", OPTIONS)
    assert time.monotonic() - began >= 0.4
    assert server.requests["/busy/0.4/a.mp4"] == 2


@pytest.mark.parametrize(
    ("header", "seconds"),
    [("7", 7.0), ("100000", 60.0), ("-3", 0.0), ("soon", 0.0), (None, 0.0), ("Fri, 01 Jan 2100 00:00:00 GMT", 60.0)],
)
def test_retry_after_is_a_number_or_a_date_up_to_a_minute(header: str | None, seconds: float) -> None:
    assert http.parse_retry_after(header) == seconds


@pytest.mark.parametrize("path", ["hang/a.mp4", "drip/a.mp4", "dripping_header/a.mp4"])
def test_silence_and_slow_drips_time_out(server: VideoServer, tmp_path: Path, path: str) -> None:
    options = dataclasses.replace(OPTIONS, timeout=0.06, retries=0)
    failed = failure(f"{server.url}/{path}", tmp_path / "out", options)
    assert (failed.code, failed.retryable) == ("timeout", True)


@pytest.mark.parametrize("path", ["hang/a.mp4", "drip/a.mp4", "dripping_header/a.mp4"])
def test_the_deadline_ends_what_is_never_silent_for_long(
    server: VideoServer, tmp_path: Path, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http, "DEADLINE_TIMEOUTS", 0.05)
    failed = failure(f"{server.url}/{path}", tmp_path / "out", dataclasses.replace(OPTIONS, timeout=10))
    assert (failed.code, failed.retryable) == ("timeout", True)
    assert failed.message == f"{server.url}/{path}: no complete answer in 0.5 s"


def test_a_body_over_the_limit_is_cut_off_with_and_without_a_length(server: VideoServer, tmp_path: Path) -> None:
    options = dataclasses.replace(OPTIONS, max_bytes=len(DATA) - 1)
    for path in ("a.mp4", "chunked/a.mp4", "endless/a.mp4"):
        assert failure(f"{server.url}/{path}", tmp_path / "out", options).code == "too_large"
    assert not (tmp_path / "out").exists() or (tmp_path / "out").stat().st_size <= len(DATA)


def test_a_refused_connection_may_heal(tmp_path: Path) -> None:
    failed = failure("http://127.0.0.1:9/a.mp4", tmp_path / "out")
    assert (failed.code, failed.retryable) == ("connection", True)


def test_userinfo_is_sent_and_never_shown(server: VideoServer, tmp_path: Path) -> None:
    secret = server.url.replace("//", "//me:secret@")
    assert fetch(f"{secret}/login/a.mp4", tmp_path / "out", OPTIONS).path.read_bytes() == DATA
    failed = failure(f"{secret}/404/a.mp4?X-Signature=hush", tmp_path / "out")
    assert failed.message == f"{server.url}/404/a.mp4: HTTP 404"
    failed = failure(member_uri(f"{secret}/a.tar?X-Signature=hush", "a.mp4", 512, 10**12), tmp_path / "out")
    assert failed.message == f"{server.url}/a.tar#a.mp4: {10**12} bytes, fetch.max_bytes is {OPTIONS.max_bytes}"


def test_private_hosts_are_refused_before_anything_is_sent(
    server: VideoServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", server.url)
    options = dataclasses.replace(OPTIONS, allow_private_hosts=False)
    port = server.url.rpartition(":")[2]
    for host in ("127.0.0.1", "localhost", "2130706433", "0x7f.1", "[::ffff:127.0.0.1]"):
        failed = failure(f"http://{host}:{port}/a.mp4", tmp_path / "out", options)
        assert (failed.code, failed.retryable) == ("private_address", False), host
    assert not server.requests


def test_a_redirect_to_a_private_host_is_refused(
    server: VideoServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(addresses, "is_public", lambda address: address == "127.0.0.1")
    options = dataclasses.replace(OPTIONS, allow_private_hosts=False)
    assert fetch(f"{server.url}/redirect/a.mp4", tmp_path / "out", options).path.read_bytes() == DATA
    failed = failure(f"{server.url}/private/a.mp4", tmp_path / "out", options)
    assert failed.code == "private_address"
    assert "169.254.169.254" in failed.message


def test_the_name_is_resolved_once_and_the_checked_address_used(
    server: VideoServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, asked = addresses.socket.getaddrinfo, []

    def rebinding(host: str, port: int, **options: int) -> object:
        asked.append(host)
        return real("127.0.0.1" if len(asked) == 1 else "127.0.0.2", port, **options)

    monkeypatch.setattr(addresses.socket, "getaddrinfo", rebinding)
    monkeypatch.setattr(addresses, "is_public", lambda address: address == "127.0.0.1")
    options = dataclasses.replace(OPTIONS, allow_private_hosts=False)
    port = server.url.rpartition(":")[2]
    fetch(f"http://rebinds.example:{port}/a.mp4", tmp_path / "out", options)
    assert asked == ["rebinds.example"]


@pytest.mark.skipif(shutil.which("openssl") is None, reason="makes a certificate by the openssl program")
def test_https_is_checked_against_the_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost"]
    command += ["-addext", "subjectAltName=DNS:localhost", "-keyout", str(key), "-out", str(certificate)]
    subprocess.run(command, check=True, capture_output=True)
    (tmp_path / "a.mp4").write_bytes(DATA)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    with VideoServer(tmp_path, context) as server:
        named = server.url.replace("127.0.0.1", "localhost")
        assert failure(f"{named}/a.mp4", tmp_path / "out").code == "tls"
        monkeypatch.setattr(http, "_tls", lambda: ssl.create_default_context(cafile=str(certificate)))
        assert failure(f"{server.url}/a.mp4", tmp_path / "out").code == "tls"
        assert fetch(f"{named}/a.mp4", tmp_path / "out", OPTIONS).path.read_bytes() == DATA
        slow = dataclasses.replace(OPTIONS, timeout=0.06, retries=0)
        assert failure(f"{named}/drip/a.mp4", tmp_path / "out", slow).code == "timeout"


@pytest.mark.parametrize(
    ("address", "public"),
    [
        ("93.184.216.34", True),
        ("2606:2800:220:1::1", True),
        ("10.1.2.3", False),
        ("172.16.0.1", False),
        ("192.168.1.1", False),
        ("100.64.0.1", False),
        ("127.0.0.1", False),
        ("169.254.169.254", False),
        ("0.0.0.0", False),
        ("224.0.0.1", False),
        ("255.255.255.255", False),
        ("::1", False),
        ("::", False),
        ("fe80::1%eth0", False),
        ("fd00::1", False),
        ("ff02::1", False),
        ("::ffff:192.168.0.1", False),
        ("64:ff9b::7f00:1", False),
        ("2002:7f00:1::", False),
    ],
)
def test_which_addresses_are_public(address: str, public: bool) -> None:
    assert addresses.is_public(address) is public


def test_local_files_are_used_in_place(tmp_path: Path) -> None:
    path = tmp_path / "a.mp4"
    path.write_bytes(DATA)
    assert fetch(str(path), tmp_path / "out", OPTIONS) == (path, 0)
    assert not (tmp_path / "out").exists()


def test_what_is_no_regular_file_within_the_limit_is_refused(tmp_path: Path) -> None:
    (tmp_path / "empty.mp4").touch()
    (tmp_path / "large.mp4").write_bytes(DATA)
    os.mkfifo(tmp_path / "pipe.mp4")
    small = dataclasses.replace(OPTIONS, max_bytes=10)
    assert failure(str(tmp_path / "none.mp4"), tmp_path / "out").code == "missing_file"
    assert failure(str(tmp_path), tmp_path / "out").code == "missing_file"
    assert failure(str(tmp_path / "pipe.mp4"), tmp_path / "out").code == "missing_file"
    assert failure(str(tmp_path / "empty.mp4"), tmp_path / "out").code == "not_video"
    assert failure(str(tmp_path / "large.mp4"), tmp_path / "out", small).code == "too_large"


@pytest.mark.parametrize(
    "uri",
    [
        "",
        "ftp://e.org/a.mp4",
        "file:///etc/passwd",
        "http://",
        "http://h:port/a",
        "a\0b",
        "s3://b",
        "s3://b/../a",
        "s3://[/a",
    ],
)
def test_bad_uris(uri: str, tmp_path: Path) -> None:
    failed = failure(uri, tmp_path / "out")
    assert (failed.code, failed.retryable) == ("bad_uri", False)


def test_a_folder_that_cannot_be_written_is_no_fault_of_the_row(server: VideoServer, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        fetch(f"{server.url}/a.mp4", tmp_path / "none" / "out", OPTIONS)


def test_uris_beyond_ascii(server: VideoServer, tmp_path: Path) -> None:
    (server.folder / "ein schöner tag.mp4").write_bytes(b"x")
    assert fetch(f"{server.url}/ein schöner tag.mp4", tmp_path / "out", OPTIONS).path.read_bytes() == b"x"


def test_a_host_beyond_ascii_is_asked_for_by_its_ascii_name(
    server: VideoServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, asked = addresses.socket.getaddrinfo, []

    def loopback(host: str, port: int, **options: int) -> object:
        asked.append(host)
        return real("127.0.0.1", port, **options)

    monkeypatch.setattr(addresses.socket, "getaddrinfo", loopback)
    port = server.url.rpartition(":")[2]
    fetched = fetch(f"http://bücher.example:{port}/echo/ü", tmp_path / "out", OPTIONS)
    assert fetched.path.read_text() == f"xn--bcher-kva.example:{port} /echo/%C3%BC"
    assert asked == ["xn--bcher-kva.example"]


def test_a_signed_address_arrives_as_it_was_signed(server: VideoServer, tmp_path: Path) -> None:
    target = "/echo/a%2fb/[1]/../100%/%C3%bc?acl=%2f*~hmac=%41+/=&x=[?]"
    fetched = fetch(f"{server.url}{target}#t=3", tmp_path / "out", OPTIONS)
    assert fetched.path.read_text() == f"{server.url.removeprefix('http://')} {target}"


def test_signatures_are_not_logged(server: VideoServer, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("DEBUG"):
        fetched = fetch(f"{server.url}/header/a.mp4?X-Signature=hush", tmp_path / "out", OPTIONS)
    assert fetched.path.read_bytes() == DATA
    assert "hush" not in caplog.text


def test_objects(server: VideoServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (server.folder / "bucket").mkdir()
    (server.folder / "bucket" / "a.mp4").write_bytes(DATA)
    (server.folder / "bucket" / "empty.mp4").touch()
    for key, value in {
        "AWS_ENDPOINT_URL": server.url,
        "AWS_ALLOW_HTTP": "true",
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_REGION": "us-east-1",
    }.items():
        monkeypatch.setenv(key, value)
    assert fetch("s3://bucket/a.mp4", tmp_path / "out", OPTIONS).path.read_bytes() == DATA
    failed = failure("s3://bucket/none.mp4", tmp_path / "out")
    assert (failed.code, failed.retryable) == ("missing_file", False)
    assert failure("s3://bucket/empty.mp4", tmp_path / "out").code == "not_video"
    assert failure("s3://bucket/a.mp4", tmp_path / "out", dataclasses.replace(OPTIONS, max_bytes=9)).code == "too_large"
    assert failure("s3://bucket/a#b.mp4", tmp_path / "out").code == "bad_uri"


def test_member_addresses_round_trip() -> None:
    member = parse_member(member_uri("gs://b/a#1.tar", "x/clip@1.mp4", 1536, 7))
    assert member is not None
    assert (member.tar, member.name, member.offset, member.size) == ("gs://b/a#1.tar", "x/clip@1.mp4", 1536, 7)
    assert parse_member("shards/000.tar") is None
    assert parse_member("https://example.org/a.mp4#t=3") is None


def test_kinds_and_what_is_shown() -> None:
    assert [kind_of(u) for u in ("a/b.mp4", "HTTPS://e.org/a", "gs://b/k", "youtube:dQw4w9WgXcQ")] == [
        "local",
        "http",
        "object",
        "youtube",
    ]
    assert shown("https://u:p@e.org/a.mp4?sig=1#f") == "https://e.org/a.mp4"
    assert shown("az://container/a?b.mp4") == "az://container/a?b.mp4"
    assert shown("dir/what?.mp4") == "dir/what?.mp4"


@pytest.mark.parametrize(
    "uri",
    [
        "youtube:dQw4w9WgXcQ",
        "https://www.youtube.com/watch?v=dQw4w9WgXcQ&t=3s",
        "https://youtu.be/dQw4w9WgXcQ?si=x",
        "https://m.youtube.com/watch?app=m&v=dQw4w9WgXcQ",
        "https://www.youtube.com/embed/dQw4w9WgXcQ",
        "https://www.youtube.com/shorts/dQw4w9WgXcQ",
    ],
)
def test_youtube_addresses(uri: str) -> None:
    assert youtube_id(uri) == "dQw4w9WgXcQ"


@pytest.mark.parametrize("uri", ["youtube:../../etc", "https://youtube.com.evil.org/watch?v=dQw4w9WgXcQ", "a.mp4"])
def test_what_is_no_youtube_address(uri: str) -> None:
    assert youtube_id(uri) is None
