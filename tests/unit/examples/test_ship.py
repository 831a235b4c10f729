"""Putting a trained pipeline into the package."""

from __future__ import annotations

from pathlib import Path

import pytest

from examples.toy import ship
from noisebank.errors import ConfigError
from noisebank.fixtures.small_models import make_small_model
from noisebank.models import load_model
from noisebank.world import shipped


def test_a_pipeline_takes_the_place_of_the_old_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    source, target = make_small_model("modelscope", tmp_path / "new"), make_small_model("ltx", tmp_path / "old")
    assert ship.ship(source, target) > 0
    names = {path.relative_to(source) for path in source.rglob("*")}
    assert {path.relative_to(target) for path in target.rglob("*")} == names
    assert load_model(str(target)).family == "modelscope"


@pytest.mark.parametrize("spoil", ["other", "large", "broken"])
def test_what_cannot_be_shipped_leaves_the_old_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, spoil: str, capsys: pytest.CaptureFixture[str]
) -> None:
    source, target = make_small_model("modelscope", tmp_path / "new"), make_small_model("ltx", tmp_path / "old")
    monkeypatch.setattr(ship, "ship", lambda folder, ship=ship.ship: ship(folder, target))
    if spoil == "other":
        (source / "unet.pt").write_bytes(b"state")
    elif spoil == "large":
        (source / "vae" / "more.safetensors").write_bytes(bytes(12_000_001))
    else:
        (source / "unet" / "diffusion_pytorch_model.safetensors").unlink()
    assert ship.main(["--from", str(source)]) == 1
    assert capsys.readouterr().err
    assert load_model(str(target)).family == "ltx"


def test_a_package_without_the_model_says_how_to_make_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shipped, "SHIPPED", tmp_path)
    with pytest.raises(ConfigError, match=r"python -m examples\.toy\.ship --from FOLDER/best"):
        shipped.shipped_model()
