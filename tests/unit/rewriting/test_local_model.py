"""A language model on this machine: a small one, made and taught here, really rewrites."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from noisebank import ConfigError, TransformersRewriter
from noisebank.errors import RowFailure
from noisebank.rewriting.local_model import language_model_digest
from noisebank.rewriting.template import Request, messages, plain_text
from tests.support.small_language_model import make_language_model

CAPTIONS = ["a dog runs on the beach", "cars drive through a city at night", "a chef cuts onions in a kitchen"]
REQUESTS = [
    Request("a dog", CAPTIONS[:1]),
    Request("fast cars", [CAPTIONS[1], CAPTIONS[0], CAPTIONS[2]]),
    Request("cooking", CAPTIONS[1:]),
]
ANSWERS = [
    "a small dog runs along the sandy beach",
    "red cars race through a city at night",
    "a chef is cooking onions in a bright kitchen",
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that has learnt the answers to the requests as plain text."""
    taught = dict(zip(map(plain_text, REQUESTS), ANSWERS, strict=True))
    return make_language_model(tmp_path_factory.mktemp("models") / "plain", CAPTIONS, taught=taught)


@pytest.fixture(scope="module")
def untaught(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_language_model(tmp_path_factory.mktemp("models") / "random", [*map(plain_text, REQUESTS)])


def test_answers_in_a_batch_are_those_one_by_one_and_what_the_model_learnt(folder: Path) -> None:
    rewriter = TransformersRewriter(str(folder), batch_size=2)
    assert rewriter(REQUESTS) == ANSWERS
    assert [rewriter([request])[0] for request in REQUESTS] == ANSWERS


def test_what_nobody_taught_is_the_same_in_batches_too(untaught: Path) -> None:
    rewriter = TransformersRewriter(str(untaught), batch_size=3)
    requests = [replace(request, max_words=3) for request in REQUESTS]
    single = [rewriter([request])[0] for request in requests]
    assert rewriter(requests) == single and len(set(single)) == 3


def test_a_model_with_a_chat_template_gets_chat_messages(tmp_path: Path) -> None:
    (system, user), answer = messages(REQUESTS[0]), ANSWERS[0]
    text = f"[BOS]system : {system['content']}\nuser : {user['content']}\nassistant :"
    folder = make_language_model(tmp_path / "chat", [], chat=True, taught={text: answer})
    assert TransformersRewriter(str(folder))(REQUESTS[:1]) == [answer]


def test_a_template_that_takes_no_system_line_gets_it_with_the_users(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path / "model")
    strict = "{% if messages[0]['role'] != 'user' %}{{ raise_exception('no system line') }}{% endif %}"
    (tmp_path / "model" / "chat_template.jinja").write_text(
        strict + "{{ messages[0]['content'] }}\n\nRewritten prompt:"
    )
    assert TransformersRewriter(str(tmp_path / "model"))(REQUESTS) == ANSWERS


@pytest.mark.parametrize("template", ["{{ 1/0 }}", "{{ messages.__class__.__mro__ }}"])
def test_a_template_that_fails_or_is_stopped_names_its_model(folder: Path, tmp_path: Path, template: str) -> None:
    copy = shutil.copytree(folder, tmp_path / "copy")
    (copy / "chat_template.jinja").write_text(template)
    with pytest.raises(ConfigError, match=f"{copy}.*chat template fails"):
        TransformersRewriter(str(copy))(REQUESTS[:1])


def test_answers_are_greedy_whatever_the_model_says_of_itself(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path / "model")
    settings = {"do_sample": True, "temperature": 50.0, "num_beams": 3, "max_length": 5, "eos_token_id": 2}
    (tmp_path / "model" / "generation_config.json").write_text(json.dumps(settings))
    assert TransformersRewriter(str(tmp_path / "model"))(REQUESTS) == ANSWERS


def test_a_request_that_the_model_cannot_take_costs_its_row(folder: Path) -> None:
    long = Request("a dog", ["dog on the beach " * 18] * 20)
    answers = TransformersRewriter(str(folder))([long, REQUESTS[0]])
    assert answers[1] == ANSWERS[0]
    assert isinstance(answers[0], RowFailure) and answers[0].code == "too_long" and "tokens" in answers[0].message


def test_a_model_counts_by_its_contents(folder: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(folder, tmp_path / "copy")
    digest = language_model_digest(str(folder))
    assert language_model_digest(str(copy)) == digest
    (copy / "chat_template.jinja").write_text("{{ messages }}")
    assert language_model_digest(str(copy)) != digest
    with pytest.raises(ConfigError, match="is wanted"):
        TransformersRewriter(str(copy), digest=digest)


def test_pickled_weights_are_not_loaded(folder: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(folder, tmp_path / "copy")
    (copy / "model.safetensors").unlink()
    torch.save({}, copy / "pytorch_model.bin")
    with pytest.raises(ConfigError, match="safetensors"):
        TransformersRewriter(str(copy))


def test_code_of_a_model_is_not_run(folder: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(folder, tmp_path / "copy")
    config: dict[str, Any] = json.loads((copy / "config.json").read_text())
    config |= {"model_type": "mine", "auto_map": dict.fromkeys(("AutoConfig", "AutoModelForCausalLM"), "mine.Mine")}
    (copy / "config.json").write_text(json.dumps(config))
    (copy / "mine.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\nclass Mine: pass\n")
    with pytest.raises(ConfigError, match="cannot be loaded"):
        TransformersRewriter(str(copy))
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("model", ["nobody/has-this-model", "/nowhere/at/all"])
def test_a_model_that_is_not_there_is_refused(model: str) -> None:
    with pytest.raises(ConfigError, match="model"):
        TransformersRewriter(model)
