"""Real object stores on loopback, which ``make engines`` fetches.

S3 (versitygw), Google's (fake-gcs-server, with the XML API that it lacks) and Azure's (azurite). Each is behind a
proxy that counts and misbehaves, and is found by the environment variables that users of that cloud set alone.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import http.client
import json
import os
import shutil
import socket
import subprocess
import sysconfig
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from email.utils import formatdate
from pathlib import Path

import pytest

from tests.support.gcs_xml import XmlApi
from tests.support.proxy import Proxy

PROGRAMS = {"s3": "versitygw", "gs": "fake-gcs-server", "az": "azurite-blob"}
BUCKET = "bucket"
_ENGINES = Path(sysconfig.get_path("scripts")).parent / "engines"
_START_SECONDS = 60
_ACCOUNT = "devstoreaccount1"
_ACCOUNT_KEY = base64.b64encode(b"a key for tests alone").decode()
_CLOUD_VARIABLES = ("AWS_", "GOOGLE_", "AZURE_", "STORAGE_EMULATOR_HOST")


@dataclass(frozen=True)
class Emulator:
    """A running store.

    Args:
        url: of an empty bucket.
        environment: what makes clients find it.
        proxy: in front of it.
    """

    url: str
    environment: Mapping[str, str]
    proxy: Proxy

    @contextmanager
    def found(self) -> Iterator[Emulator]:
        """While it is found by the environment of this process, and nothing of another store is."""
        with pytest.MonkeyPatch.context() as patch:
            for name in list(os.environ):
                if name.startswith(_CLOUD_VARIABLES):
                    patch.delenv(name)
            for name, value in self.environment.items():
                patch.setenv(name, value)
            self.proxy.requests.clear()
            self.proxy.misbehave = None
            yield self
            self.proxy.misbehave = None


def find_engine(program: str) -> str:
    """The path of a program that ``make engines`` installs; the test is skipped, by its name, where it is not there."""
    places = [_ENGINES / "bin", _ENGINES / "node_modules/.bin", sysconfig.get_path("scripts")]
    found = shutil.which(program, path=os.pathsep.join([*map(str, places), os.environ["PATH"]]))
    if found is None:
        pytest.skip(f"{program} is not installed: make {program}")
    return found


@contextmanager
def emulator(scheme: str, folder: Path, *, conditions: bool = True) -> Iterator[Emulator]:
    """Starts a store with one empty bucket.

    Args:
        scheme: ``s3``, ``gs`` or ``az``.
        folder: for its files.
        conditions: whether it creates objects only if they are absent where it is asked to; only ``gs`` can do without.
    """
    program, port = find_engine(PROGRAMS[scheme]), free_port()
    address = f"127.0.0.1:{port}"
    with ExitStack() as stack:
        if scheme == "s3":
            (folder / BUCKET).mkdir()
            keys = {"ROOT_ACCESS_KEY": "test", "ROOT_SECRET_KEY": "testtest"}
            stack.enter_context(_running([program, "--quiet", "--port", address, "posix", str(folder)], port, keys))
        elif scheme == "gs":
            places = ["-scheme", "http", "-host", "127.0.0.1", "-port", str(port), "-backend", "memory"]
            stack.enter_context(_running([program, *places, "-log-level", "error"], port))
            _request(address, "POST", "/storage/v1/b?project=p", {}, json.dumps({"name": BUCKET}))
            address = stack.enter_context(XmlApi(address, conditions)).url.removeprefix("http://")
        else:
            places = ["--blobHost", "127.0.0.1", "--blobPort", str(port), "-l", str(folder), "--silent"]
            account = {"AZURITE_ACCOUNTS": f"{_ACCOUNT}:{_ACCOUNT_KEY}"}
            stack.enter_context(_running([program, *places, "--skipApiVersionCheck"], port, account, folder))
            _make_container(address)
        proxy = stack.enter_context(Proxy(address))
        yield Emulator(f"{scheme}://{BUCKET}", _environment(scheme, proxy.url), proxy)


def _environment(scheme: str, endpoint: str) -> dict[str, str]:
    if scheme == "s3":
        keys = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "testtest", "AWS_REGION": "us-east-1"}
        return {"AWS_ENDPOINT_URL": endpoint, **keys}
    if scheme == "gs":
        return {"STORAGE_EMULATOR_HOST": endpoint.removeprefix("http://")}
    account = {"AZURE_STORAGE_ACCOUNT_NAME": _ACCOUNT, "AZURE_STORAGE_ACCOUNT_KEY": _ACCOUNT_KEY}
    return {"AZURE_STORAGE_ENDPOINT": f"{endpoint}/{_ACCOUNT}", **account}


@contextmanager
def _running(
    command: Sequence[str], port: int, environment: Mapping[str, str] | None = None, folder: Path | None = None
) -> Iterator[None]:
    """While a server runs that listens on ``port``."""
    merged, silent = {**os.environ, **(environment or {})}, subprocess.DEVNULL
    server = subprocess.Popen(command, env=merged, cwd=folder, stdout=silent, stderr=silent)
    try:
        until = time.monotonic() + _START_SECONDS
        while not listens(port):
            if server.poll() is not None or time.monotonic() > until:
                pytest.fail(f"{command[0]} did not start")
            time.sleep(0.05)
        yield
    finally:
        server.kill()  # (azurite would wait for idle connections)
        server.wait()


def listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
    return port


def _request(address: str, method: str, path: str, headers: Mapping[str, str], body: str = "") -> None:
    client = http.client.HTTPConnection(address, timeout=_START_SECONDS)
    client.request(method, path, body, dict(headers))
    answer = client.getresponse()
    assert answer.status in (200, 201), answer.read()
    client.close()


def _make_container(address: str) -> None:
    """A container, by Azure's Shared Key signature (obstore makes none)."""
    headers = {"x-ms-date": formatdate(usegmt=True), "x-ms-version": "2021-08-06"}
    named = "".join(f"{name}:{value}\n" for name, value in headers.items())
    lines = "\n" * 12
    text = f"PUT{lines}{named}/{_ACCOUNT}/{_ACCOUNT}/{BUCKET}\nrestype:container"
    digest = hmac.new(base64.b64decode(_ACCOUNT_KEY), text.encode(), hashlib.sha256).digest()
    headers["Authorization"] = f"SharedKey {_ACCOUNT}:{base64.b64encode(digest).decode()}"
    _request(address, "PUT", f"/{_ACCOUNT}/{BUCKET}?restype=container", headers)
