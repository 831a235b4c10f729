"""The way of one prompt: which candidate is the anchor, what its record says, and every way to have no clip."""

from __future__ import annotations

import dataclasses
import io
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from noisebank.errors import RowFailure
from noisebank.ids import xxh64
from noisebank.models import ModelAdapter, load_model
from noisebank.synthesis.anchors import load_anchor
from noisebank.synthesis.entry import STAGES, Models, Prompt, make_entry
from noisebank.synthesis.options import (
    FAILURE_CODES,
    FetchOptions,
    ImageOptions,
    SynthesisOptions,
    SyntheticClipOptions,
)
from noisebank.video.frames import decode_mp4
from tests.support.servers import VideoServer

OPTIONS = SynthesisOptions(
    prompts="far.txt",
    clips=SyntheticClipOptions(frames=4, size=64),
    images=ImageOptions(candidates=5, batch_size=2),
    num_inference_steps=5,
)
PROMPT = Prompt("one", "a dog on the beach")
DIGESTS = {"model": "m"}


def models_of(adapter: ModelAdapter, rewards: Any) -> Models:
    return Models(adapter, adapter, lambda prompt, images: rewards)


@pytest.fixture
def adapter(adapters: dict[str, ModelAdapter]) -> ModelAdapter:
    return adapters["modelscope"]


def test_the_planted_best_candidate_wins(adapter: ModelAdapter, tmp_path: Path) -> None:
    """And it is what is set in motion: given as an image, it gives the same clip."""
    seen: list[Image.Image] = []

    def reward(prompt: str, images: list[Image.Image]) -> list[float]:
        assert prompt == PROMPT.text
        seen.extend(images)
        return [0.5, -1.0, 0.25, 7.0, 0.5]

    stages: list[str] = []
    entry = make_entry(PROMPT, OPTIONS, Models(adapter, adapter, reward), DIGESTS, stages.append)
    assert entry.info["chosen"] == 3 and entry.info["rewards"] == [0.5, -1.0, 0.25, 7.0, 0.5]
    assert tuple(stages) == STAGES and len(seen) == 5
    seen[3].save(tmp_path / "best.png")
    given = dataclasses.replace(PROMPT, image=str(tmp_path / "best.png"))
    again = make_entry(given, OPTIONS, models_of(adapter, None), DIGESTS)
    assert again.mp4 == entry.mp4
    assert (again.info["rewards"], again.info["chosen"], again.info["image"]) == ([], 0, given.image)
    other = make_entry(PROMPT, OPTIONS, models_of(adapter, [0.0, 1.0, 0.0, 0.0, 0.0]), DIGESTS)
    assert other.info["chosen"] == 1 and other.mp4 != entry.mp4


def test_what_a_record_and_a_row_of_the_sheet_say(adapter: ModelAdapter) -> None:
    entry = make_entry(PROMPT, OPTIONS, models_of(adapter, [1.0, 2.0, 3.0, 4.0, 5.0]), DIGESTS)
    info = entry.info
    assert info["seeds"]["candidates"] == [xxh64(f"0\0one\0{number}") >> 1 for number in range(5)]
    assert info["calls"] == {"candidates": 3 * 5, "animate": 3, "regenerate": 5}  # (batches of 2; 5 - Int(5 x 0.4))
    assert (info["prompt"], info["digests"], info["fps"]) == (PROMPT.text, DIGESTS, 8.0)
    assert info["options"]["regenerate"] == {"from": 1.0, "guidance_scale": 7.5}
    row = np.asarray(Image.open(io.BytesIO(entry.row)))
    assert row.shape[1] > 9 * 96  # (five candidates, four frames)
    frames = decode_mp4(entry.mp4)
    assert frames.shape == (4, 64, 64, 3) == (info["frames"], info["height"], info["width"], 3)
    marked = (row == (220, 40, 30)).all(-1)  # (the mark around the anchor, the fifth)
    assert marked[:, 4 * 100 : 5 * 100 + 8].sum() > 2 * 4 * 90
    assert not marked[:, : 4 * 100].any()


def test_a_clip_is_that_of_its_prompt_seed_and_id(adapter: ModelAdapter) -> None:
    models = models_of(adapter, [1.0, 0.0, 0.0, 0.0, 0.0])
    made = make_entry(PROMPT, OPTIONS, models, DIGESTS)
    assert make_entry(PROMPT, OPTIONS, models, DIGESTS) == made
    others = [
        make_entry(PROMPT, dataclasses.replace(OPTIONS, seed=1), models, DIGESTS),
        make_entry(dataclasses.replace(PROMPT, id="two"), OPTIONS, models, DIGESTS),
        make_entry(dataclasses.replace(PROMPT, text="a cat on a sofa"), OPTIONS, models, DIGESTS),
    ]
    assert len({entry.mp4 for entry in [made, *others]}) == 4


@pytest.mark.parametrize(
    ("rewards", "code", "said"),
    [
        ([1.0, math.nan, 2.0, 3.0, 4.0], "reward_not_finite", "nan"),
        ([1.0, math.inf, 2.0, 3.0, 4.0], "reward_not_finite", "inf"),
        ([1.0, 2.0], "wrong_shape", "2 numbers for 5 images"),
    ],
)
def test_rewards_that_say_nothing(adapter: ModelAdapter, rewards: list[float], code: str, said: str) -> None:
    with pytest.raises(RowFailure, match=said) as raised:
        make_entry(PROMPT, OPTIONS, models_of(adapter, rewards), DIGESTS)
    assert raised.value.code == code and code in FAILURE_CODES


def test_a_network_that_overflows_is_found_at_each_stage(folders: dict[str, str], adapter: ModelAdapter) -> None:
    broken = load_model(folders["modelscope"])
    torch.nn.init.constant_(broken.pipe.unet.conv_out.bias, math.nan)
    for models in (models_of(broken, [0.0] * 5), Models(broken, adapter, lambda prompt, images: [0.0] * 5)):
        with pytest.raises(RowFailure, match="infinities or NaN") as raised:
            make_entry(PROMPT, OPTIONS, models, DIGESTS)
        assert raised.value.code == "not_finite"


def test_a_model_that_gives_other_frames_back(adapters: dict[str, ModelAdapter]) -> None:
    """CogVideoX's VAE makes eight frames of two latent ones, which five frames have."""
    adapter = adapters["cogvideox"]
    options = dataclasses.replace(
        OPTIONS,
        clips=SyntheticClipOptions(frames=5, size=64),
        regenerate=dataclasses.replace(OPTIONS.regenerate, from_=0.8),
    )
    with pytest.raises(RowFailure, match=r"gave \[8, 64, 64, 3\] back for frames \[5, 64, 64, 3\]") as raised:
        make_entry(PROMPT, options, models_of(adapter, [0.0] * 5), DIGESTS)
    assert raised.value.code == "wrong_shape"


def test_a_row_that_its_list_gives_up_keeps_its_code() -> None:
    PROMPT.check()
    with pytest.raises(RowFailure) as raised:
        Prompt("x", "", invalid="empty_prompt: no prompt").check()
    assert (raised.value.code, raised.value.message) == ("empty_prompt", "no prompt")


def test_given_anchors_are_cut_to_size(tmp_path: Path) -> None:
    picture = np.zeros((40, 120, 3), np.uint8)
    picture[:, 40:80] = (255, 0, 0)
    Image.fromarray(picture).save(tmp_path / "wide.png")
    anchor = load_anchor(str(tmp_path / "wide.png"), (64, 64), FetchOptions())
    assert (anchor.dtype, anchor.shape) == (torch.uint8, (64, 64, 3))
    assert (anchor[:, 4:-4] == torch.tensor([255, 0, 0])).all()
    Image.fromarray(picture).save(tmp_path / "turned.jpg", exif=_turned())
    assert load_anchor(str(tmp_path / "turned.jpg"), (128, 64), FetchOptions()).shape == (128, 64, 3)


def _turned() -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = 6
    return exif


def test_anchors_that_are_none(tmp_path: Path, server: VideoServer) -> None:
    (tmp_path / "text.png").write_text("no picture")
    Image.new("RGB", (8, 8)).save(tmp_path / "tiny.png")
    Image.new("RGB", (64, 64)).save(tmp_path / "whole.png")
    (tmp_path / "cut.png").write_bytes((tmp_path / "whole.png").read_bytes()[:60])
    found = {}
    addresses = [
        *(str(tmp_path / f"{name}.png") for name in ("text", "cut", "gone", "tiny")),
        f"{server.url}/404/a.png",
    ]
    fetched = FetchOptions(allow_private_hosts=True, retries=0)
    for address in [*addresses, "ftp://example.org/a.png"]:
        with pytest.raises(RowFailure) as raised:
            load_anchor(address, (64, 64), fetched)
        found[address.rpartition("/")[2]] = raised.value.code
    expected = dict.fromkeys(("text.png", "cut.png", "gone.png", "a.png"), "no_image")
    assert found == expected | {"tiny.png": "wrong_shape"}
    with pytest.raises(RowFailure, match="private_address"):
        load_anchor(f"{server.url}/v00.mp4", (64, 64), FetchOptions())


@pytest.mark.parametrize("family", ["animatediff", "cogvideox", "wan", "ltx"])
def test_every_family_of_video_models_goes_the_whole_way(adapters: dict[str, ModelAdapter], family: str) -> None:
    """Those that start from noise alone regenerate from a later step; their first level costs no call either."""
    options = dataclasses.replace(
        OPTIONS,
        clips=SyntheticClipOptions(frames=9, size=64),
        regenerate=dataclasses.replace(OPTIONS.regenerate, from_=1.0 if family == "animatediff" else 0.8),
    )
    entry = make_entry(PROMPT, options, models_of(adapters[family], [0.0, 0.0, 1.0, 0.0, 0.0]), DIGESTS)
    calls = {"animatediff": (3, 5)}.get(family, (2, 4))
    assert (entry.info["calls"]["animate"], entry.info["calls"]["regenerate"]) == calls
    frames = decode_mp4(entry.mp4).astype(float)
    assert frames.shape == (9, 64, 64, 3)
    assert frames.std() > 5 and np.abs(np.diff(frames, axis=0)).mean() > 0.5  # (it moves)
