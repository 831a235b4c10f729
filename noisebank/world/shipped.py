"""The small text-to-video model that was trained on the world and comes with the package."""

from __future__ import annotations

from pathlib import Path

from noisebank.errors import ConfigError

SHIPPED = Path(__file__).with_name("pipeline")


def shipped_model() -> Path:
    """Folder of the model, a ``TextToVideoSDPipeline`` in diffusers' format: 8 frames of 64 x 64, the world's captions.

    Raises:
        ConfigError: the package was installed without it.
    """
    if not (SHIPPED / "model_index.json").exists():
        raise ConfigError(
            f"{SHIPPED}: the small trained model is missing; train it with python -m examples.toy.train --out FOLDER "
            "and put it there with python -m examples.toy.ship --from FOLDER/best"
        )
    return SHIPPED
