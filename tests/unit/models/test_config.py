"""Models by folder and by hub id, read without weights; which model it is, whatever its path."""

import shutil
import subprocess
import sys

import pytest
import torch

from noisebank.config import config_from_mapping
from noisebank.errors import ConfigError
from noisebank.fixtures.small_models import make_small_model, smooth_clip
from noisebank.models import check_model, load_clip_rules, load_model, model_digest, read_model_config
from noisebank.stages.configured import identify_stages
from tests.support.minilm import MINILM


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return make_small_model("modelscope", tmp_path_factory.mktemp("models") / "small")


def test_a_folder_is_read_from_its_json_alone(folder, tmp_path):
    for path in folder.rglob("*.json"):
        copy = tmp_path / path.relative_to(folder)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, copy)
    assert read_model_config(str(tmp_path)).pipeline_class == "TextToVideoSDPipeline"
    assert load_clip_rules(str(tmp_path)).latent_shape(16, 64, 64) == (4, 16, 8, 8)
    with pytest.raises(ConfigError, match="cannot be loaded"):
        load_model(str(tmp_path))


def test_rules_need_neither_diffusers_nor_transformers(folder):
    script = f"""
import sys
from noisebank.models import load_clip_rules, model_digest
load_clip_rules({str(folder)!r}).check(16, 64, 64)
model_digest({str(folder)!r})
assert not {{"diffusers", "transformers"}} & set(sys.modules), "imported"
"""
    subprocess.run([sys.executable, "-c", script], check=True)


def test_digest_is_of_the_content(folder, tmp_path):
    digest = model_digest(str(folder))
    assert len(digest) == 32
    copy = shutil.copytree(folder, tmp_path / "elsewhere")
    (copy / "README.md").write_text("not part of the model")
    (copy / ".cache").mkdir()
    (copy / ".cache" / "note.json").write_text("{}")
    assert model_digest(str(copy)) == digest
    weights = next((copy / "unet").glob("*.safetensors"))
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    assert model_digest(str(copy)) != digest
    assert model_digest(str(folder), motion_adapter=None) == digest


def test_the_same_seed_makes_the_same_model(folder, tmp_path):
    state = torch.random.get_rng_state()
    assert model_digest(str(make_small_model("modelscope", tmp_path / "again"))) == model_digest(str(folder))
    assert model_digest(str(make_small_model("modelscope", tmp_path / "other", seed=1))) != model_digest(str(folder))
    assert torch.equal(torch.random.get_rng_state(), state)
    with pytest.raises(ValueError, match="choose one of"):
        make_small_model("sora", tmp_path / "none")


@pytest.mark.parametrize("spatial_ratio", [4, 8])
def test_the_small_vae_gives_back_the_blurred_clip(tmp_path, spatial_ratio):
    pipe = load_model(str(make_small_model("modelscope", tmp_path, spatial_ratio=spatial_ratio))).pipe
    pixels = smooth_clip(4, 64, 64, seed=9).permute(0, 3, 1, 2).float() / 127.5 - 1
    with torch.inference_mode():
        decoded = pipe.vae.decode(pipe.vae.encode(pixels).latent_dist.mode()).sample
    blurred = torch.nn.functional.avg_pool2d(pixels, spatial_ratio)
    found = torch.nn.functional.avg_pool2d(decoded, spatial_ratio)
    inner = (..., slice(1, -1), slice(1, -1))
    assert torch.corrcoef(torch.stack([blurred[inner].flatten(), found[inner].flatten()]))[0, 1] > 0.98
    assert (decoded - pixels).abs().mean() < 0.15


def test_a_hub_id_is_read_from_the_cache(folder, tmp_path, monkeypatch):
    """The hub's cache layout, made by hand: what a worker finds after a download, here without a network."""
    import huggingface_hub.constants

    revision = "0123456789abcdef0123456789abcdef01234567"
    repository = tmp_path / "models--noisebank--small"
    shutil.copytree(folder, repository / "snapshots" / revision)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(revision)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    assert read_model_config("noisebank/small").pipeline_class == "TextToVideoSDPipeline"
    assert load_clip_rules("noisebank/small").latent_shape(16, 64, 64) == (4, 16, 8, 8)
    check_model("noisebank/small", 20, (4, 16, 8, 8))
    weights = repository / "snapshots" / revision / "unet" / "diffusion_pytorch_model.safetensors"
    digest = model_digest("noisebank/small")
    weights.rename(weights.with_suffix(".bin"))
    with pytest.raises(ConfigError, match=r"noisebank/small': no unet/diffusion_pytorch_model\.safetensors"):
        check_model("noisebank/small", 20, (4, 16, 8, 8))
    weights.with_suffix(".bin").rename(weights)
    (repository / "refs" / "main").write_text("f" * 40)
    shutil.move(repository / "snapshots" / revision, repository / "snapshots" / ("f" * 40))
    assert model_digest("noisebank/small") == digest == model_digest(str(folder))
    with pytest.raises(ConfigError, match=r"noisebank/absent.*the hub cannot be reached"):
        read_model_config("noisebank/absent")


def test_what_is_not_a_model_is_named(tmp_path):
    for model in (str(tmp_path), "/no/such/folder"):
        with pytest.raises(ConfigError, match=model):
            read_model_config(model)
        with pytest.raises(ConfigError, match=model):
            model_digest(model)
    (tmp_path / "model_index.json").write_text("[]")
    with pytest.raises(ConfigError, match="not a JSON object"):
        read_model_config(str(tmp_path))


def test_a_relative_folder_is_found_again_from_elsewhere(folder, tmp_path, monkeypatch):
    shutil.copytree(MINILM, tmp_path / "minilm")
    shutil.copytree(folder, tmp_path / "video")
    monkeypatch.chdir(tmp_path)
    options = {"captions": {"model": "minilm"}, "noise": [{"model": "video"}], "clips": {"size": 64}}
    _, models = identify_stages(config_from_mapping(options))
    noise = models["noise/modelscope"]
    assert (models["captions"]["model"], noise["model"]) == (str(tmp_path / "minilm"), str(tmp_path / "video"))
