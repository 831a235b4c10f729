"""Rewards: a CLIP scores as its own embeddings say; one of a user's own is loaded by its kind."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
from PIL import Image

from noisebank.errors import ConfigError
from noisebank.fixtures.small_models import smooth_clip
from noisebank.options import OPTION_CLASSES, option
from noisebank.synthesis.options import (
    RewardOptions,
    SynthesisOptions,
    TransformersRewardOptions,
    synthesis_fingerprint,
)
from noisebank.synthesis.rewards import REWARDS, load_reward, register_reward, reward_digest
from tests.support.small_clip import make_small_clip

PICTURES = [Image.fromarray(smooth_clip(1, 48, 48, seed)[0].numpy()) for seed in range(3)]


def test_a_clip_scores_the_cosine_of_image_and_text(small_clip: Path) -> None:
    from transformers import AutoModel, AutoProcessor

    options = TransformersRewardOptions(model=str(small_clip), processor=None)
    prompt = "a dog on the beach"
    found = load_reward(options)(prompt, PICTURES)
    model, processor = AutoModel.from_pretrained(small_clip), AutoProcessor.from_pretrained(small_clip)
    inputs = processor(text=[prompt], images=PICTURES, return_tensors="pt")
    with torch.no_grad():
        output = model(**inputs)
    images, text = (
        torch.nn.functional.normalize(embeds, dim=-1) for embeds in (output.image_embeds, output.text_embeds)
    )
    expected = (model.logit_scale.exp() * images @ text[0]).tolist()
    assert found == pytest.approx(expected, rel=1e-5)
    assert len(set(found)) == 3
    assert load_reward(options)("a " * 500, PICTURES[:1]) != load_reward(options)("a", PICTURES[:1])


def test_the_digest_is_of_model_and_processor(small_clip: Path, tmp_path: Path) -> None:
    own = TransformersRewardOptions(model=str(small_clip), processor=None)
    assert reward_digest(own) == reward_digest(replace(own, processor=str(small_clip)))
    other = str(make_small_clip(tmp_path / "other", seed=1))
    found = {reward_digest(TransformersRewardOptions(model=m, processor=None)) for m in (str(small_clip), other)}
    assert len(found) == 2
    assert reward_digest(replace(own, processor=other)) not in {None, *found}
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError, match=r"reward: model .*empty.*no config.json"):
        reward_digest(replace(own, model=str(tmp_path / "empty")))


def test_a_model_without_such_logits_is_refused(small_clip: Path, tmp_path: Path) -> None:
    from transformers import CLIPConfig, CLIPTextModel

    text = CLIPConfig.from_pretrained(small_clip).text_config
    CLIPTextModel(text).save_pretrained(tmp_path / "text")
    with pytest.raises((ConfigError, TypeError)):
        load_reward(TransformersRewardOptions(model=str(tmp_path / "text"), processor=str(small_clip)))("a", PICTURES)
    with pytest.raises(ConfigError, match="cannot be loaded"):
        load_reward(TransformersRewardOptions(model=str(tmp_path), processor=str(small_clip)))


def test_a_model_whose_weights_are_damaged_is_named(small_clip: Path, tmp_path: Path) -> None:
    damaged = Path(shutil.copytree(small_clip, tmp_path / "damaged"))
    (weights,) = damaged.glob("*.safetensors")
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(ConfigError, match=r"reward: '.*damaged' cannot be loaded"):
        load_reward(TransformersRewardOptions(model=str(damaged), processor=None))


@dataclass(frozen=True)
class DarkOptions(RewardOptions):
    """A reward for how dark an image is."""

    weight: float = option(1.0, "of the darkness", minimum=0, maximum=10)


def test_a_reward_of_ones_own() -> None:
    @register_reward("dark", DarkOptions)
    def load_dark(options: DarkOptions) -> object:
        return lambda prompt, images: [-options.weight * sum(image.convert("L").tobytes()) for image in images]

    try:
        score = load_reward(DarkOptions(kind="dark", weight=2.0))
        dark, bright = Image.new("RGB", (8, 8)), Image.new("RGB", (8, 8), "white")
        assert score("anything", [dark, bright]) == [0, -2 * 64 * 255]
        assert reward_digest(DarkOptions(kind="dark")) is None
        options = SynthesisOptions(prompts="p.txt", reward=DarkOptions(kind="dark"))
        digests = {"model": "m"}
        heavier = replace(options, reward=DarkOptions(kind="dark", weight=2.0))
        assert synthesis_fingerprint(options, digests) != synthesis_fingerprint(heavier, digests)
    finally:
        del REWARDS["dark"], OPTION_CLASSES["reward", "dark"]
    with pytest.raises(ConfigError, match=r"reward.kind: 'dark' is not known"):
        load_reward(DarkOptions(kind="dark"))
