"""Models of the hub: one commit for all workers, and a digest of the files that loading reads, wherever they are."""

from __future__ import annotations

import shutil
from pathlib import Path

import huggingface_hub.constants
import pytest

from noisebank.config import config_from_mapping
from noisebank.errors import ConfigError
from noisebank.hub import content_lines, digest_lines, pin, refer, resolve_file, split_reference
from noisebank.models import has_digest, load_model, model_digest, older_model_digest
from noisebank.stages.configured import pin_revisions
from tests.support.hub import HubCache, HubServer

ID = "noisebank/small"


@pytest.fixture
def cache(small_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> HubCache:
    """The hub's cache with the small model at its first commit; the hub cannot be reached."""
    cache = HubCache(tmp_path / "hub")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(cache.folder))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    cache.commit(ID, small_model, "a")
    return cache


def test_a_reference_is_a_folder_or_an_id_with_a_revision(tmp_path: Path) -> None:
    folder = tmp_path / "model@home"
    folder.mkdir()
    assert split_reference(str(folder)) == (str(folder), None) == (refer(str(folder), "main"), None)
    assert split_reference("org/name@v1.0") == ("org/name", "v1.0")
    assert refer("org/name@v1.0", "main") == "org/name@main"
    assert refer("org/name@v1.0", None) == "org/name@v1.0"


def test_a_link_to_nothing_is_not_looked_for_on_the_hub(tmp_path: Path) -> None:
    (tmp_path / "model").symlink_to(tmp_path / "gone")
    with pytest.raises(ConfigError, match="gone, where no folder is"):
        resolve_file(str(tmp_path / "model"), "model_index.json")


def test_a_folder_and_a_cached_id_of_the_same_files_have_one_digest(cache: HubCache, small_model: Path) -> None:
    digest = model_digest(str(small_model))
    assert model_digest(ID) == digest == model_digest(f"{ID}@main") == model_digest(f"{ID}@{'a' * 40}")


def test_what_loading_does_not_read_does_not_count(cache: HubCache, small_model: Path, tmp_path: Path) -> None:
    digest, copy = model_digest(ID), shutil.copytree(small_model, tmp_path / "copy")
    others = ["README.md", ".gitattributes", "look.png", "unet/diffusion_pytorch_model.bin", "notes.txt"]
    others += ["unet/diffusion_pytorch_model.fp16.safetensors", "vae/flax_model.msgpack", "onnx/config.json"]
    for name in others:
        (copy / name).parent.mkdir(exist_ok=True)
        (copy / name).write_text("another")
    cache.commit(ID, copy, "b")
    assert model_digest(ID) == digest == model_digest(str(copy))
    weights = copy / "unet" / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"x")
    cache.commit(ID, copy, "c")
    assert model_digest(ID) == model_digest(str(copy)) != digest == model_digest(f"{ID}@{'b' * 40}")
    config = copy / "scheduler" / "scheduler_config.json"
    config.write_text(config.read_text() + " ")
    assert model_digest(str(copy)) != model_digest(ID)


def test_workers_load_the_commit_that_was_planned_with(cache: HubCache, small_model: Path, tmp_path: Path) -> None:
    options = {"captions": {"model": str(small_model)}, "noise": [{"model": ID}]}
    planned = pin_revisions(config_from_mapping(options))
    assert (planned.noise[0].revision, planned.captions.revision) == ("a" * 40, None)
    copy = shutil.copytree(small_model, tmp_path / "copy")
    weights = copy / "unet" / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"x")
    cache.commit(ID, copy, "b")  # (the branch moves between plan and worker)
    digest = model_digest(planned.noise[0].reference)
    assert pin(ID, ["model_index.json"]) == f"{ID}@{'b' * 40}"
    assert pin_revisions(config_from_mapping(options), planned) == planned
    moved = {**options, "noise": [{"model": str(copy)}]}
    assert pin_revisions(config_from_mapping(moved), planned).noise[0].revision is None
    loaded = load_model(planned.noise[0].reference, digest=digest).pipe.unet.state_dict()
    expected = load_model(str(small_model)).pipe.unet.state_dict()
    assert all(loaded[name].equal(expected[name]) for name in expected)
    with pytest.raises(ConfigError, match=f"the noise is to be made with {digest}"):
        load_model(ID, digest=digest)


def test_a_digest_of_the_older_rule_is_recognised(cache: HubCache, small_model: Path, tmp_path: Path) -> None:
    """Earlier versions took a folder by all its files and a hub id by its commit."""
    of_folder, of_commit = older_model_digest(str(small_model)), older_model_digest(ID)
    assert of_commit == digest_lines([f"revision {'a' * 40}"])
    assert of_folder == digest_lines(content_lines(str(small_model), "model_index.json", "diffusers"))
    assert has_digest(of_folder, str(small_model)) and has_digest(of_commit, ID)
    copy = shutil.copytree(small_model, tmp_path / "copy")
    (copy / "README.md").write_text("better")
    cache.commit(ID, copy, "b")
    assert older_model_digest(ID) != of_commit
    assert has_digest(of_commit, ID)  # (its commit is still in the cache, with the same files)
    weights = copy / "unet" / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"x")
    cache.commit(ID, copy, "c")
    assert not has_digest(of_commit, ID) and not has_digest(of_folder, str(copy))


def test_a_cache_of_configurations_alone_is_no_model(cache: HubCache, small_model: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(small_model, tmp_path / "copy")
    (copy / "vae" / "diffusion_pytorch_model.safetensors").unlink()
    cache.commit(ID, copy, "b")
    with pytest.raises(ConfigError, match="its weights are not all in the cache, and the hub cannot be asked"):
        model_digest(ID)


def test_weights_that_are_not_here_are_asked_for_not_fetched(
    small_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with HubServer(ID, small_model, "d" * 40) as hub:
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
        monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", hub.url)
        template = f"{hub.url}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
        monkeypatch.setattr(huggingface_hub.constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        assert pin(ID, ["model_index.json"]) == f"{ID}@{'d' * 40}"
        assert model_digest(f"{ID}@{'d' * 40}") == model_digest(str(small_model))
    assert hub.fetched and not any(name.endswith(".safetensors") for name in hub.fetched)
