"""Against the pipelines' own ``__call__``: images of AnimateDiff, frames of latents, and regeneration."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from noisebank.inversion import relative_error
from noisebank.models import ModelAdapter, load_model, pipeline_inputs
from noisebank.synthesis.animation import animate, levels_from, regenerate
from noisebank.synthesis.candidates import draw, draw_images, still

SHAPES = {
    "modelscope": (4, 64, 64),
    "animatediff": (4, 64, 64),
    "stable-diffusion": (1, 64, 64),
    "cogvideox": (9, 64, 64),
    "wan": (5, 64, 64),
    "ltx": (9, 64, 64),
}
PROMPT = "a dog on the beach"


def call(adapter: ModelAdapter, latents: torch.Tensor, output_type: str, **options: Any) -> Any:
    """What the pipeline makes of canonical latents."""
    shape = tuple(latents.shape[1:])
    inputs = pipeline_inputs(adapter.describe(options["num_inference_steps"], shape), latents)  # type: ignore[arg-type]
    return adapter.pipe(PROMPT, negative_prompt="", **inputs, output_type=output_type, return_dict=False, **options)[0]


def test_a_still_animatediff_is_stable_diffusion_bit_for_bit(
    adapters: dict[str, ModelAdapter], folders: dict[str, str]
) -> None:
    images = adapters["stable-diffusion"]
    moving = load_model(folders["stable-diffusion"], motion_adapter=f"{folders['animatediff']}/motion_adapter")
    for module in moving.pipe.unet.modules():  # (a new adapter adds nothing: its last layer is 0)
        if hasattr(module, "proj_out") and type(module).__name__ == "AnimateDiffTransformer3D":
            torch.nn.init.normal_(module.proj_out.weight)
    noise = draw(3, (1, 4, 1, 8, 8))
    options = {"num_inference_steps": 3, "guidance_scale": 7.5}
    expected = call(images, noise, "latent", **options)
    assert not torch.equal(call(moving, noise, "latent", **options)[:, :, 0], expected)
    with still(moving):
        assert torch.equal(call(moving, noise, "latent", **options)[:, :, 0], expected)
        drawn = [draw_images(a, a.network(PROMPT, 7.5), [1, 2, 3], (64, 64), 3, 2) for a in (moving, images)]
    assert torch.equal(*drawn)
    assert drawn[0].shape == (3, 64, 64, 3) and drawn[0].dtype == torch.uint8
    with pytest.raises(KeyboardInterrupt), still(moving):
        raise KeyboardInterrupt
    assert not torch.equal(call(moving, noise, "latent", **options)[:, :, 0], expected)


@pytest.mark.parametrize("family", SHAPES)
def test_images_do_not_depend_on_their_batch_mates(adapters: dict[str, ModelAdapter], family: str) -> None:
    adapter = adapters[family]
    size = SHAPES[family][1:]
    three, one = (draw_images(adapter, adapter.network(PROMPT), seeds, size, 2, 2) for seeds in ([5, 6, 7], [7]))
    assert (three[2].int() - one[0].int()).abs().max() <= 1
    assert not torch.equal(three[0], three[1])


@pytest.mark.parametrize("family", SHAPES)
def test_latents_are_decoded_as_the_pipeline_does(adapters: dict[str, ModelAdapter], family: str) -> None:
    adapter = adapters[family]
    shape = adapter.rules.latent_shape(*SHAPES[family])
    levels, latents, noise = adapter.levels(2, shape), draw(1, (1, *shape)), draw(2, (1, *shape))
    noised = levels.add_noise(latents, noise)
    pictures = torch.as_tensor(call(adapter, noised, "np", num_inference_steps=2, guidance_scale=1.0))
    expected = (pictures.reshape(1, *SHAPES[family], 3) * 255).round().int()
    made = adapter.decode(regenerate(adapter.network(PROMPT), latents, noise, levels))
    assert (made.dtype, made.shape) == (torch.uint8, expected.shape)
    assert (made.int() - expected).abs().max() <= 1
    assert made.float().std() > 5


@pytest.mark.parametrize("family", ["modelscope", "animatediff"])
def test_regeneration_from_1_is_the_pipeline_from_the_noised_latents(
    adapters: dict[str, ModelAdapter], family: str
) -> None:
    adapter = adapters[family]
    shape = adapter.rules.latent_shape(*SHAPES[family])
    levels, network = adapter.levels(4, shape), adapter.network(PROMPT, 7.5)
    moved = animate(network, draw(0, (1, *shape)), draw(1, (1, *shape)), levels, until=0.5)
    fresh = draw(2, (1, *shape))
    made = regenerate(network, moved, fresh, levels_from(levels, 1.0))
    noised = levels.add_noise(moved, fresh)
    expected = call(adapter, noised, "latent", num_inference_steps=4, guidance_scale=7.5)
    assert relative_error(made, expected).item() < 1e-5
    other = regenerate(network, draw(0, (1, *shape)), fresh, levels_from(levels, 1.0))
    assert relative_error(other, expected).item() > 1e-3


@pytest.mark.parametrize("family", ["cogvideox", "wan", "ltx"])
def test_where_the_sampler_starts_from_noise_alone_the_first_level_moves_nothing(
    adapters: dict[str, ModelAdapter], family: str
) -> None:
    """So it is not called: with all levels but the first left out, the latents come back as they were."""
    adapter = adapters[family]
    shape = adapter.rules.latent_shape(*SHAPES[family])
    levels, calls = adapter.levels(4, shape), list[float]()
    network = adapter.network(PROMPT)

    def counted(latents: torch.Tensor, timestep: torch.Tensor) -> torch.Tensor:
        calls.append(timestep.item())
        return network(latents, timestep)

    latents, noise = draw(0, (1, *shape)), draw(1, (1, *shape))
    assert torch.equal(animate(counted, latents, noise, levels, until=0.75), latents) and calls == []
    assert relative_error(animate(counted, latents, noise, levels, until=0.5), latents).item() > 1e-3
    assert len(calls) == 1
