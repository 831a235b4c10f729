"""From prompts that no video is near to, to a bank with clips that are: the loop, twice; kills; bad prompts."""

from __future__ import annotations

import hashlib
import json
import os
import re
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support.projects import CAPTIONS, Project, Ran, noisebank
from tests.support.small_clip import make_small_clip

ROOT = Path(__file__).parents[2]
PLUGIN = '''
"""A reward that says nothing of some prompts, and ends the process once at another."""
import os, signal
from dataclasses import dataclass
from pathlib import Path
from noisebank.options import option
from noisebank.synthesis.options import RewardOptions
from noisebank.synthesis.rewards import register_reward

__version__ = "1"

@dataclass(frozen=True)
class MoodyOptions(RewardOptions):
    bias: float = option(0.0, "added to every score", minimum=-10, maximum=10)

@register_reward("moody", MoodyOptions)
def load_moody(options):
    def score(prompt, images):
        with open("scored", "a") as scored:
            print(prompt, file=scored)
        trap = Path("trap")
        if prompt.startswith("deadly") and trap.exists():
            trap.unlink()
            os.kill(os.getpid(), signal.SIGKILL)
        if prompt.startswith("moody"):
            return [float("nan")] * len(images)
        return [options.bias + sum(image.convert("L").tobytes()) for image in images]
    return score
'''
FAR = ("a purple elephant dances on ice", "an astronaut rides a snail", "seven teapots orbit the moon")


class Source:
    """A folder with a list of prompts, ``synth.yaml`` and what is made of them."""

    def __init__(self, folder: Path, model: Path, reward: dict[str, Any], **options: Any) -> None:
        self.folder, self.out, self.config = folder, folder / "synthesized", folder / "synth.yaml"
        folder.mkdir(exist_ok=True)
        document = {
            "out": str(self.out),
            "prompts": str(folder / "far.txt"),
            "model": str(model),
            "clips": {"frames": 4, "size": 64, "maxcount": 2},
            "images": {"candidates": 2},
            "num_inference_steps": 2,
            "reward": reward,
        }
        self.config.write_text(yaml.safe_dump(document | options))

    def list(self, *prompts: str) -> None:
        (self.folder / "far.txt").write_text("".join(f"{prompt}\n" for prompt in prompts))

    def find_far(self, project: Project, prompts: Sequence[str]) -> list[str]:
        """Has ``coverage`` write ``far.txt``; where nothing is far, every prompt has a caption of its own."""
        path = self.folder / "prompts.txt"
        path.write_text("".join(f"{prompt}\n" for prompt in prompts))
        words = [path, "--set", "small", "--below", 0.6, "-o", self.folder / "far.txt"]
        found = project.look("coverage", *words)
        far = (self.folder / "far.txt").read_text().splitlines()
        assert {one["prompt"] for one in found["far"]} == {*far}
        if not far:
            assert found["similarity"]["quantiles"]["0"] == pytest.approx(1.0, abs=1e-6)
            assert (found["clips_used"], found["recall"]) == (len(prompts), 1.0)
        return far

    def run(self, *words: object) -> Ran:
        return noisebank("synthesize", "-c", self.config, *words)

    def made(self) -> dict[str, Any]:
        ran = self.run()
        assert ran.exit_code == 0, ran.stderr
        return ran.document

    def files(self) -> dict[str, str]:
        paths = [path for path in self.out.rglob("*") if path.is_file()]
        return {str(path.relative_to(self.out)): hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}


@pytest.fixture(scope="module")
def clip_reward(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return {"model": str(make_small_clip(tmp_path_factory.mktemp("clip") / "clip")), "processor": None}


@pytest.fixture
def moody(tmp_path: Path, small_model: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Source]:
    """A source whose reward is of a package of one's own."""
    (tmp_path / "plugin").mkdir()
    (tmp_path / "plugin" / "moods.py").write_text(PLUGIN)
    monkeypatch.syspath_prepend(tmp_path / "plugin")
    monkeypatch.chdir(tmp_path)
    yield Source(tmp_path / "moody", small_model, {"kind": "moody", "bias": 1}, modules=["moods"])


def test_far_prompts_are_near_once_their_clips_are_in_the_bank(
    project: Project, small_model: Path, clip_reward: dict[str, Any]
) -> None:
    """Coverage, synthesize, build, coverage again: twice; the second list adds to the source."""
    source = Source(project.folder / "synthesis", small_model, clip_reward)
    project.write_list(project.rows(3))
    assert project.build()["rows"]["in_bank"] == 3
    kinds = {"kind": "webdataset", "name": "synthesized", "path": f"{source.out}/tars/*.tar", "frame_stride": 1}
    project.configure(
        sources=[project.source("mine", "list.csv"), kinds],
        clips={**project.config["clips"], "frame_stride": 2},
        max_changed=1.0,
        max_redone=1.0,
    )

    assert source.find_far(project, [CAPTIONS[0], *FAR[:2]]) == [*FAR[:2]]
    into_the_bank = source.run("--out", project.bank)
    assert into_the_bank.exit_code == 2 and "a bank is there" in into_the_bank.document["error"]["message"]
    assert not (project.bank / "tars").exists()
    made = source.made()
    assert made["prompts"] == {"read": 2, "made": 2, "found": 0, "failed": 0, "duplicate": 0}
    assert len(made["tars"]) == len(made["sheets"]) == 1 and not (source.out / "work").exists()
    summary = project.build()
    assert (summary["rows"]["new"], summary["rows"]["in_bank"], summary["rows"]["failed"]) == (2, 5, 0)
    assert source.find_far(project, FAR[:2]) == []
    before = source.files()

    assert source.find_far(project, FAR) == [FAR[2]]
    assert source.made()["prompts"] == {"read": 1, "made": 1, "found": 0, "failed": 0, "duplicate": 0}
    assert before.items() <= source.files().items()
    summary = project.build()
    assert (summary["rows"]["new"], summary["rows"]["unchanged"], summary["rows"]["in_bank"]) == (1, 5, 6)
    assert source.find_far(project, FAR) == []
    assert not project.build()["committed"]
    source.list(*FAR)
    assert source.made()["prompts"] == {"read": 3, "made": 0, "found": 3, "failed": 0, "duplicate": 0}
    assert project.look("verify")["ok"]


def test_a_killed_job_goes_on_to_the_same_bytes(moody: Source) -> None:
    """What was done is not made again, though a job with another list ended in between."""
    prompts = ("one fish", "two fish", "a fish", "deadly fish", "last fish")
    moody.list(*prompts)
    expected = moody.made()
    Path("scored").unlink()
    assert expected["prompts"]["made"] == 5
    files = moody.files()
    for path in moody.out.rglob("*"):
        if path.is_file():
            path.unlink()
    Path("trap").touch()
    words = [sys.executable, "-m", "pipelines.cli", "synthesize", "-c", str(moody.config)]
    paths = os.pathsep.join([str(Path("plugin").absolute()), str(ROOT)])
    killed = subprocess.run(words, env=os.environ | {"PYTHONPATH": paths}, capture_output=True, text=True, timeout=600)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert not Path("trap").exists()
    left = moody.files()
    assert files.items() > {name: digest for name, digest in left.items() if name.startswith("tars/")}.items()
    assert [name for name in left if name.startswith("work/")]
    assert Path("scored").read_text().splitlines()[-1] == "deadly fish"
    (moody.folder / "other.txt").write_text("other fish")
    assert moody.run("--prompts", moody.folder / "other.txt").exit_code == 0
    assert left.items() <= moody.files().items()
    others = {name: digest for name, digest in moody.files().items() if name not in left}
    assert others and all(name.startswith("tars/") for name in others)
    going_on = moody.run()
    assert going_on.exit_code == 0
    assert moody.files() == files | others
    scored = Path("scored").read_text().splitlines()
    assert Counter(scored) == Counter([*prompts, "deadly fish", "other fish"])
    (made,) = re.findall(r"synthesize: (\d) of \1 prompts", going_on.stderr)
    assert going_on.document["prompts"]["made"] == int(made) < 5
    assert moody.made()["prompts"] == {"read": 5, "made": 0, "found": 5, "failed": 0, "duplicate": 0}


def test_every_bad_prompt_has_its_own_code_and_the_others_their_clips(moody: Source) -> None:
    (moody.folder / "text.png").write_text("no picture")
    listed = [
        {"prompt": "a fish", "id": "good"},
        {"prompt": "moody fish", "id": "nan"},
        {"prompt": " ", "id": "blank"},
        {"prompt": "a bird", "id": "gone", "image": "gone.png"},
        {"prompt": "a bird", "id": "text", "image": "text.png"},
        {"prompt": "a fish", "id": "good"},
        {"prompt": "another fish", "id": "good"},
    ]
    (moody.folder / "far.jsonl").write_text("".join(json.dumps(row) + "\n" for row in listed) + "{no json\n")
    words = ["--prompts", moody.folder / "far.jsonl"]
    ran = moody.run(*words)
    assert ran.exit_code == 1
    message = ran.document["error"]["message"]
    assert "6 of 7 prompts have no clip, more than max_failed 0.05" in message
    files = moody.files()
    assert len([name for name in files if name.endswith(".tar")]) == 1
    ran = moody.run(*words, "--max_failed", "0.9")
    assert ran.exit_code == 0
    codes = {"bad_json": 1, "empty_prompt": 1, "id_taken": 1, "no_image": 2, "reward_not_finite": 1}
    assert ran.document["failed_by_code"] == codes
    assert ran.document["prompts"] == {"read": 8, "made": 0, "found": 1, "failed": 6, "duplicate": 1}
    assert moody.files() == files

    from PIL import Image

    Image.new("RGB", (80, 70), "green").save(moody.folder / "gone.png")
    ran = moody.run(*words, "--max_failed", "0.9", "--retry-failures", "no_image")
    assert (ran.document["prompts"]["made"], ran.document["failed_by_code"]["no_image"]) == (1, 1)


def test_options_of_a_reward_and_what_cannot_work(moody: Source) -> None:
    moody.list("a fish")
    assert moody.made()["prompts"]["made"] == 1
    ran = moody.run("--reward.bias", "2")
    assert (ran.exit_code, ran.document["error"]["type"]) == (2, "ConfigError")
    assert "made with other options" in ran.document["error"]["message"]
    for words, said in [
        (["--reward.bias", "many"], "reward.bias: 'many' is not allowed"),
        (["--reward.weight", "1"], "--reward.weight: neither an option of noisebank nor of Beam"),
        (["--prompts", moody.folder / "none.txt"], "none.txt"),
        (["--regenerate.from", "0.1"], "regenerate.from: 0.1 of 2 steps is none"),
    ]:
        ran = moody.run(*words)
        assert ran.exit_code == 2 and said in ran.document["error"]["message"], (words, ran.document)
