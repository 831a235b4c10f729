"""A language model behind an endpoint: whatever the server does costs the one row, and the key shows nowhere."""

from __future__ import annotations

import json
import logging
import pickle
from collections.abc import Iterator

import pytest

from noisebank import ConfigError, EndpointRewriter
from noisebank.errors import RowFailure
from noisebank.rewriting.template import Request, messages
from tests.support.chat import ChatServer, good_answer

KEY = "sk-planted-0123456789"


@pytest.fixture
def server() -> Iterator[ChatServer]:
    with ChatServer() as running:
        yield running


def ask(server: ChatServer, *prompts: str, **options: object) -> list[str | RowFailure]:
    limits = {"timeout": 5.0, "retries": 2} | options
    return EndpointRewriter(server.url, "tiny", **limits)([Request(prompt, ["a caption"]) for prompt in prompts])


def test_each_prompt_is_one_request_and_answers_keep_their_order(server: ChatServer) -> None:
    prompts = [f"prompt {i}" for i in range(12)]
    assert ask(server, *prompts) == [good_answer(prompt) for prompt in prompts]
    assert sorted(server.asked) == sorted(prompts)
    head, _, body = server.bodies[0].partition(b"\n\n")
    document = json.loads(body)
    assert head.startswith(b"/v1/chat/completions\n") and b"Authorization" not in head
    assert document["messages"] == messages(Request(server.asked[0], ["a caption"]))
    assert (document["model"], document["temperature"]) == ("tiny", 0)


@pytest.mark.parametrize(
    ("behaviour", "said", "requests"),
    [
        ("status 503", "HTTP 503: .*not now.* \\(3 tries\\)", 3),
        ("status 429", "HTTP 429", 3),
        ("status 404", "HTTP 404", 1),
        ("redirect", "HTTP 307", 1),
        ("html", "no JSON: '<!DOCTYPE html>", 1),
        ("error_body", "no chat completion: .*model overloaded", 1),
        ("shape", "content is no text", 1),
        ("nested", "no JSON", 1),
        ("short", "IncompleteRead", 3),
        ("endless", "more than 1048576 bytes", 1),
    ],
)
def test_what_is_no_answer_is_a_failure_of_its_row(
    server: ChatServer, behaviour: str, said: str, requests: int
) -> None:
    server.misbehaves["bad"] = behaviour
    bad, good = ask(server, "bad", "good")
    assert good == good_answer("good")
    assert isinstance(bad, RowFailure) and (bad.code, bad.retryable) == ("endpoint", True)
    assert server.asked.count("bad") == requests
    with pytest.raises(RowFailure, match=said):
        raise bad


def test_a_reply_that_never_ends_is_cut_off(server: ChatServer) -> None:
    server.misbehaves["bad"] = "drip"
    (bad,) = ask(server, "bad", timeout=0.3, retries=0)
    assert isinstance(bad, RowFailure) and "no complete answer in 0.3 s" in bad.message


def test_a_server_that_is_not_there_is_a_failure_of_each_row(server: ChatServer) -> None:
    rewriter = EndpointRewriter("http://127.0.0.1:9/v1", "tiny", retries=1)
    first, second = rewriter([Request("a", []), Request("b", [])])
    for failure in (first, second):
        assert isinstance(failure, RowFailure) and failure.code == "endpoint" and "(2 tries)" in failure.message


@pytest.mark.parametrize("status", ["429", "500"])
def test_a_busy_server_is_asked_again(server: ChatServer, status: str) -> None:
    server.misbehaves["bad"] = f"once {status}"
    assert ask(server, "bad") == [good_answer("bad")]
    assert server.asked == ["bad", "bad"]


def test_refusals_in_the_api_and_empty_answers_are_the_answers(server: ChatServer) -> None:
    server.misbehaves |= {"forbidden": "refused", "mute": "null"}
    refused, empty = ask(server, "forbidden", "mute")
    assert isinstance(refused, RowFailure) and refused.code == "refusal" and not refused.retryable
    assert empty == ""


def test_the_key_goes_to_the_server_alone(
    server: ChatServer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("PLANTED", KEY)
    caplog.set_level(logging.DEBUG)
    server.misbehaves |= {"echo": "echo", "parrot": "parrot", "down": "status 500"}
    rewriter = EndpointRewriter(server.url, "tiny", api_key_env="PLANTED", retries=1)
    answers = rewriter([Request(prompt, []) for prompt in ("good", "echo", "parrot", "down")])
    assert len(server.bodies) == 5 and all(f"Authorization: Bearer {KEY}".encode() in body for body in server.bodies)
    assert answers[0] == good_answer("good") and answers[2] == f"{good_answer('parrot')} Bearer ***"
    assert "***" in str(answers[1])
    written = [repr(answers), repr(rewriter), *(str(answer) for answer in answers), caplog.text]
    assert not any(KEY in text for text in written)
    assert KEY.encode() not in pickle.dumps(rewriter)


@pytest.mark.parametrize(
    "written",
    [
        "sk/abc+def.ghi",
        r"sk\/abc+def.ghi",
        r"sk\\\/abc\\u002Bdef.ghi",
        r"\u0073k/abc\u002bdef.ghi",
        "sk%2Fabc%2bdef.ghi",
    ],
)
@pytest.mark.parametrize("status", [200, 401])
def test_the_key_is_taken_out_however_a_server_writes_it(
    server: ChatServer, monkeypatch: pytest.MonkeyPatch, written: str, status: int
) -> None:
    monkeypatch.setenv("PLANTED", "sk/abc+def.ghi")
    server.misbehaves["bad"] = f"body {status} {written}"
    (bad,) = EndpointRewriter(server.url, "tiny", api_key_env="PLANTED", retries=0)([Request("bad", [])])
    assert isinstance(bad, RowFailure) and "wrong key ***, go" in bad.message and "ghi" not in bad.message


@pytest.mark.parametrize(("value", "said"), [(None, "is not set"), (" ", "is not set"), ("sk\r\nX: y", "no key has")])
def test_a_key_that_cannot_be_sent_is_refused_without_being_shown(
    value: str | None, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PLANTED", raising=False)
    if value is not None:
        monkeypatch.setenv("PLANTED", value)
    with pytest.raises(ConfigError, match=said) as raised:
        EndpointRewriter("http://localhost/v1", "tiny", api_key_env="PLANTED")
    assert "'PLANTED'" in str(raised.value) and "sk" not in str(raised.value)


@pytest.mark.parametrize("url", ["localhost:8000", "ftp://host/v1", "", "http://host/v1?key=1", "http://[::1/v1"])
def test_an_address_that_is_none_is_refused(url: str) -> None:
    with pytest.raises(ConfigError, match="endpoint"):
        EndpointRewriter(url, "tiny")


@pytest.mark.parametrize("url", ["http://host/v1?key=hush", "http://host/v1#hush", "http://me:hush@[::1/v1"])
def test_an_address_is_refused_without_what_may_be_a_key(url: str) -> None:
    with pytest.raises(ConfigError, match="endpoint") as raised:
        EndpointRewriter(url, "tiny")
    assert "hush" not in str(raised.value)


def test_a_password_in_the_address_is_refused_without_being_shown() -> None:
    with pytest.raises(ConfigError, match="without a password") as raised:
        EndpointRewriter("https://me:secret@host/v1", "tiny")
    assert "secret" not in str(raised.value)
