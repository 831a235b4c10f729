"""The training of the small model goes on where it was, to the same weights, and writes a pipeline that loads."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from examples.toy.autoencoder import cache_latents, encode_clip, train_autoencoder
from examples.toy.checkpoints import Clock, OutOfTime, append_line, load_state, read_lines
from examples.toy.denoiser import UNHEARD, Denoiser, Levels, generate, train_denoiser
from examples.toy.export import MOST_BYTES, save_pipeline
from examples.toy.networks import UNKNOWN, make_autoencoder, make_tokenizer
from examples.toy.recipe import Recipe, shape_power
from examples.toy.sheets import draw_curve, draw_sheet
from examples.toy.train import main
from noisebank.fixtures.small_models import modelscope_scheduler
from noisebank.world.captions import vocabulary
from noisebank.world.world import World

RECIPE = Recipe(
    vae_steps=3, vae_crop_steps=2, vae_crop_batch=2, vae_batch=2, clips=5, steps=3, batch=2, inference_steps=2
)
ENDLESS, OVER = 1000.0, 0.0


@pytest.fixture(scope="module")
def latents() -> Any:
    return np.random.default_rng(0).standard_normal((5, 4, 8, 8, 8)).astype(np.float16)


def _same(first: Any, second: Any) -> bool:
    if isinstance(first, dict):
        return first.keys() == second.keys() and all(_same(first[key], second[key]) for key in first)
    if isinstance(first, list | tuple):
        return len(first) == len(second) and all(map(_same, first, second))
    return torch.equal(first, second) if isinstance(first, torch.Tensor) else first == second


def _in_pieces(out: Path, train: Any) -> int:
    """Trains one step at a time, each from what the last one left and among what a kill would leave."""
    for piece in range(10):
        (out / "unet.part").write_bytes(b"half a state")
        try:
            train(Clock(OVER, ENDLESS))
        except OutOfTime:
            continue
        return piece
    raise AssertionError("does not come to an end")


def test_the_unet_trained_in_pieces_is_the_one_trained_at_once(tmp_path: Path, latents: Any) -> None:
    for name in ("whole", "pieces"):
        (tmp_path / name).mkdir()
    whole = train_denoiser(RECIPE, 3, latents, tmp_path / "whole" / "unet.pt", Clock(ENDLESS, ENDLESS))
    path = tmp_path / "pieces" / "unet.pt"
    assert _in_pieces(tmp_path / "pieces", lambda clock: train_denoiser(RECIPE, 3, latents, path, clock)) == 2
    states = [load_state(tmp_path / name / "unet.pt") for name in ("whole", "pieces")]
    assert _same(*states)
    start = Denoiser(RECIPE, 3)
    assert not _same(whole.average.shadow_params, start.average.shadow_params)
    assert not torch.equal(whole.unet.conv_out.weight, start.unet.conv_out.weight)


def test_an_evaluation_that_is_killed_is_made_again(tmp_path: Path, latents: Any) -> None:
    recipe, path, begun, ended = replace(RECIPE, evaluate_every=2), tmp_path / "unet.pt", [], []

    def evaluate(denoiser: Denoiser) -> None:
        begun.append(denoiser.step)
        if begun.count(denoiser.step) == 1:
            raise KeyboardInterrupt
        ended.append(denoiser.step)

    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            train_denoiser(recipe, 3, latents, path, Clock(ENDLESS, ENDLESS), evaluate)
    train_denoiser(recipe, 3, latents, path, Clock(ENDLESS, ENDLESS), evaluate)
    assert ended == [2, 3]
    whole = tmp_path / "whole.pt"
    train_denoiser(recipe, 3, latents, whole, Clock(ENDLESS, ENDLESS))
    assert _same(load_state(path), load_state(whole))


def test_a_training_may_begin_with_the_networks_of_another(tmp_path: Path, latents: Any) -> None:
    few, clock = tmp_path / "few.pt", Clock(ENDLESS, ENDLESS)
    first = train_denoiser(RECIPE, 2, latents, few, clock)
    fresh, begun = Denoiser(RECIPE, 3), Denoiser(RECIPE, 3)
    begun.begin_with(few)
    assert begun.step == 0
    assert _same(begun.unet.state_dict(), first.unet.state_dict())
    assert _same(begun.text_encoder.state_dict(), first.text_encoder.state_dict())
    assert _same(begun.average.shadow_params, [parameter.detach() for parameter in begun.parameters])
    assert not _same(begun.average.shadow_params, fresh.average.shadow_params)
    assert begun.average.optimization_step == 0
    path = tmp_path / "unet.pt"
    assert _in_pieces(tmp_path, lambda over: train_denoiser(RECIPE, 3, latents, path, over, start=few)) == 2
    whole = train_denoiser(RECIPE, 3, latents, tmp_path / "whole.pt", clock, start=few)
    assert _same(load_state(path), load_state(tmp_path / "whole.pt"))
    assert not torch.equal(whole.unet.conv_out.weight, first.unet.conv_out.weight)
    with pytest.raises(FileNotFoundError):
        begun.begin_with(tmp_path / "none.pt")


def test_the_loss_turns_from_what_a_clip_shows_to_how_it_looks() -> None:
    assert [shape_power(step, 1000) for step in (0, 500, 625, 750, 999)] == [1.0, 1.0, 0.75, 0.5, 0.5]
    abar = modelscope_scheduler().alphas_cumprod
    shares = []
    for power in (1.0, 0.5, 0.0):
        levels = Levels(abar, power)
        density = np.diff(levels.shares, prepend=0)
        together = density * levels.weights.numpy()
        assert np.allclose(together / together[0], (abar[0] / abar) ** power, rtol=1e-4)
        drawn = levels.draw(4000, np.random.default_rng(0))
        assert np.bincount(drawn, minlength=1000)[:100].sum() == pytest.approx(4000 * levels.shares[99], abs=2)
        shares.append(float(levels.shares[99]))
    assert shares == sorted(shares)


def test_the_autoencoder_trained_in_pieces_is_the_one_trained_at_once(tmp_path: Path) -> None:
    for name in ("whole", "pieces"):
        (tmp_path / name).mkdir()
    whole = train_autoencoder(RECIPE, tmp_path / "whole", Clock(ENDLESS, ENDLESS))
    folder = tmp_path / "pieces"
    _in_pieces(folder, lambda clock: train_autoencoder(RECIPE, folder, clock))
    pieces = train_autoencoder(RECIPE, folder, Clock(ENDLESS, ENDLESS))
    assert _same(whole.state_dict(), pieces.state_dict())
    assert pieces.config.scaling_factor == whole.config.scaling_factor != 1.0
    assert [line["step"] for line in read_lines(folder / "vae.jsonl")] == [3]


def test_cached_latents_are_those_of_the_clips(tmp_path: Path) -> None:
    torch.manual_seed(0)
    vae = make_autoencoder()
    clock = Clock(ENDLESS, ENDLESS)
    (tmp_path / "latents.npy").write_bytes(b"\x93NUMPY")  # (killed before the first ones were there)
    few = cache_latents(RECIPE, vae, tmp_path, clock, 2)
    assert few.shape == (2, 4, 8, 8, 8)
    latents = cache_latents(RECIPE, vae, tmp_path, clock, 5)
    for number in range(5):
        expected = encode_clip(vae, World(0, "train").pixels(number))
        assert torch.allclose(torch.from_numpy(latents[number]).float(), expected, atol=2e-3)


def test_the_tokenizer_has_a_token_a_word_and_one_for_what_it_does_not_know(tmp_path: Path) -> None:
    from transformers import CLIPTokenizer

    tokenizer = make_tokenizer()
    tokenizer.save_pretrained(tmp_path)
    loaded = CLIPTokenizer.from_pretrained(tmp_path)
    for word in vocabulary():
        assert loaded.tokenize(word) == [f"{word}</w>"]
    assert loaded.tokenize(f"a {UNHEARD} moves") == ["a</w>", UNKNOWN, "moves</w>"]
    for number in range(200):
        caption = World(0, "prompts", things=2).row(number).caption
        assert len(loaded(caption).input_ids) == len(caption.split()) + 2 <= loaded.model_max_length
        assert loaded(caption).input_ids == tokenizer(caption).input_ids


def test_the_scheduler_is_modelscopes() -> None:
    scheduler = modelscope_scheduler()
    assert scheduler.alphas_cumprod[-1].item() == pytest.approx(0.00466, abs=1e-5)
    assert scheduler.final_alpha_cumprod == scheduler.alphas_cumprod[0]
    scheduler.set_timesteps(50)
    assert scheduler.timesteps[0] == 981 and scheduler.timesteps[-1] == 1


def test_the_pipeline_that_is_written_loads_and_gives_the_same_clips(tmp_path: Path) -> None:
    from diffusers import TextToVideoSDPipeline

    denoiser = Denoiser(RECIPE, 3)
    torch.manual_seed(0)
    for parameter in denoiser.average.shadow_params:
        parameter.add_(0.02 * torch.randn_like(parameter))
    pipe = denoiser.pipeline(make_autoencoder())
    save_pipeline(pipe, tmp_path / "best")
    save_pipeline(pipe, tmp_path / "best")
    assert [path.name for path in tmp_path.iterdir()] == ["best"]
    files = [path for path in (tmp_path / "best").rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= MOST_BYTES
    assert not [path for path in files if path.suffix in (".bin", ".pt", ".pkl")]
    loaded = TextToVideoSDPipeline.from_pretrained(tmp_path / "best", local_files_only=True)
    assert {loaded.unet.dtype, loaded.vae.dtype, loaded.text_encoder.dtype} == {torch.float32}
    prompts = ["a red circle moves left", "qqq zzz"]
    ours, theirs = (generate(it, prompts, [0, 1], 2, 5.0) for it in (pipe, loaded))
    assert np.abs(np.stack(ours).astype(int) - np.stack(theirs)).max() <= 3
    index = json.loads((tmp_path / "best" / "model_index.json").read_text())
    assert index["_class_name"] == "TextToVideoSDPipeline"


def test_curves_and_sheets_are_drawn(tmp_path: Path) -> None:
    from PIL import Image

    draw_curve(tmp_path / "curve.png", [{"step": 50, "loss": 0.5}, {"step": 100, "loss": 0.25}], "loss")
    draw_sheet(tmp_path / "sheet.png", [World(0, "train").pixels(n) for n in range(2)], ["one", "two"])
    assert Image.open(tmp_path / "sheet.png").size == (1024, 284)
    colours = Image.open(tmp_path / "curve.png").getcolors(100_000)
    assert colours is not None and len(colours) >= 3


def test_the_command_says_where_it_goes_on_and_keeps_to_its_recipe(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    small = ["--judged-clips", "2", "--vae-crop-steps", "2", "--vae-crop-batch", "1", "--vae-steps", "3"]
    piece = ["--out", str(tmp_path), "--minutes", "0", *small]
    assert main(piece) == 0
    assert "autoencoder: begins, 3 steps" in capsys.readouterr().out
    assert main([*piece, "--threads", "2"]) == 0
    said = capsys.readouterr().out
    assert "autoencoder: goes on after step 1 of 3 steps" in said
    assert "the same command goes on from here" in said
    assert main([*piece, "--vae-rate", "0.1", "--seed", "5"]) == 2
    assert "seed is 0, not 5, vae_rate is 0.0015, not 0.1; name another --out" in capsys.readouterr().err
    assert main([*piece, "--vae-batch", "0"]) == 2
    assert "vae-batch: 0, at least 1 is wanted" in capsys.readouterr().err
    assert main(["--out", str(tmp_path / "other"), "--clips", "5"]) == 2
    assert "overfit-clips: 16, but there are 5 clips" in capsys.readouterr().err


def test_a_failed_gate_says_what_to_look_at(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    few = ["--judged-clips", "2", "--vae-crop-steps", "0", "--vae-steps", "1", "--vae-batch", "1"]
    assert main(["--out", str(tmp_path), *few]) == 1
    said = capsys.readouterr()
    assert "judge on reconstructions: 0.0%, 97% required" in said.out
    assert "look at reconstructions.png; a larger --vae-steps trains longer" in said.err


def test_a_line_that_a_kill_cut_off_is_no_line(tmp_path: Path) -> None:
    log = tmp_path / "unet.jsonl"
    append_line(log, step=50, loss=1.0)
    with log.open("a") as file:
        file.write('{"step": 100, "lo')
    append_line(log, step=100, loss=0.5)
    append_line(log, step=150, loss=0.25)
    assert [line["step"] for line in read_lines(log)] == [50, 150]
