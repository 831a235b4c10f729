"""How exactly each inverter inverts, family by family, and what its stopping rule costs. Prints markdown.

``python -m benchmarks.roundtrip`` makes a small model of every family and prints the table of docs/inversion.md: video
-> latents -> noise -> the pipeline's own ``__call__`` -> latents. ``--precisions`` prints what pipelines in float32,
float16 and bfloat16 give back beside the error that a record would have. ``--frontier`` prints error against network
calls for tolerances and fixed schedules, on untrained and briefly trained networks in three precisions. ``--stalls``
prints what combining iterates gains where a step stalls. With ``--model`` FOLDER (``shipped`` is the package's own)
the frontier is that of a model of the small world.
"""

from __future__ import annotations

import argparse
import logging
import math
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

from noisebank.fixtures.small_models import make_small_model, smooth_clip
from noisebank.format.noise_file import storage_roundtrip
from noisebank.inversion import Inversion, Levels, Network, invert, reconstruct, relative_error
from noisebank.inversion.inverters import STALL, Steps
from noisebank.models import ModelAdapter, load_model
from noisebank.models.replay import replay
from noisebank.options import STORAGE_DTYPES, NoiseOptions
from noisebank.world.shipped import shipped_model
from noisebank.world.world import World

STEPS = 50
PRECISIONS = (torch.float32, torch.float16, torch.bfloat16)
SHAPES = {
    "modelscope": (16, 64, 64),
    "animatediff": (16, 64, 64),
    "stable-diffusion": (1, 64, 64),
    "cogvideox": (9, 64, 64),
    "wan": (9, 64, 64),
    "ltx": (9, 64, 96),
}


def main() -> None:
    """Parse the arguments and print one of the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    tables = parser.add_mutually_exclusive_group()
    for flag, table, help in (
        ("--precisions", precisions, "what pipelines in half precision give back instead of the families' table"),
        ("--frontier", frontier, "error against calls instead of the families' table"),
        ("--stalls", stalls, "errors where plain iteration stalls instead of the families' table"),
    ):
        tables.add_argument(flag, dest="table", action="store_const", const=table, default=families, help=help)
    parser.add_argument("--model", help="with --frontier: a model of the small world instead, or shipped")
    parser.add_argument("--clips", type=int, default=4, help="with --frontier: how many are inverted (default: 4)")
    arguments = parser.parse_args()
    logging.getLogger("diffusers").setLevel(logging.ERROR)
    with tempfile.TemporaryDirectory() as scratch:
        options = {"model": arguments.model, "clips": arguments.clips} if arguments.table is frontier else {}
        for line in arguments.table(Path(scratch), **options):
            print(line, flush=True)


def families(scratch: Path) -> Iterator[str]:
    """The table of families: relative error of the latents given back, and network calls, T = 50, float32."""
    columns = [
        "family",
        "prediction",
        "ddim",
        "diffusers' inverse scheduler",
        "fixed-point",
        "calls",
        "float16 (bytes)",
        "int8 (bytes)",
    ]
    yield f"| {' | '.join(columns)} |"
    yield "|---" * len(columns) + "|"
    for family, shape in SHAPES.items():
        adapter = load_model(str(make_small_model(family, scratch / family)))
        latents = adapter.encode(smooth_clip(*shape, seed=1)[None])
        levels, network = adapter.levels(STEPS, tuple(latents.shape[1:])), adapter.network()
        ddim = invert(network, latents, levels, NoiseOptions(inverter="ddim")).noise
        found = invert(network, latents, levels)
        cells = [
            family,
            levels.prediction_type,
            _error(adapter, ddim, latents),
            _error(adapter, noise, latents) if (noise := library_inversion(adapter, latents)) is not None else "-",
            _error(adapter, found.noise, latents),
            str(found.network_calls),
        ]
        for dtype in STORAGE_DTYPES:
            error = _error(adapter, storage_roundtrip(found.noise, dtype), latents)
            cells.append(f"{error} ({_record_bytes(tuple(latents.shape[1:]), dtype):,})")
        yield f"| {' | '.join(cells)} |"


def precisions(scratch: Path) -> Iterator[str]:
    """The table of precisions, T = 50: the error that a record of ``fixed-point`` would have, and that of a pipeline in
    the precision of the network; in the last column, of one in bfloat16 started from the noise found in float32."""
    names = [str(dtype).removeprefix("torch.") for dtype in PRECISIONS]
    columns = [f"{name}: {what}" for name in names for what in ("recorded", "pipeline")]
    yield f"| family | {' | '.join(columns)} | float32 noise in a bfloat16 pipeline |"
    yield "|---" * (len(columns) + 2) + "|"
    for family, shape in SHAPES.items():
        folder = str(make_small_model(family, scratch / family))
        cells, found = [family], {}
        for dtype in PRECISIONS:
            adapter = load_model(folder, dtype=dtype)
            latents = adapter.encode(smooth_clip(*shape, seed=1)[None])
            levels, network = adapter.levels(STEPS, tuple(latents.shape[1:])), adapter.network()
            found[dtype] = invert(network, latents, levels, dtype=dtype).noise
            recorded = relative_error(reconstruct(network, found[dtype], levels), latents).item()
            cells += [f"{recorded:.1e}", _error(adapter, found[dtype], latents)]
        cells.append(_error(adapter, found[torch.float32], latents))
        yield f"| {' | '.join(cells)} |"


def _error(adapter: ModelAdapter, noise: torch.Tensor, latents: torch.Tensor) -> str:
    """Relative error of what the pipeline's own ``__call__``, in the network's dtype, makes of ``noise`` for the empty
    prompt."""
    return f"{relative_error(replay(adapter, noise, STEPS), latents).item():.1e}"


def _record_bytes(shape: tuple[int, ...], dtype: str) -> int:
    """Bytes of a record ``[C, F, H, W]``: its values, and for int8 a float32 scale a channel and frame."""
    values = math.prod(shape)
    return 2 * values if dtype == "float16" else values + 4 * math.prod(shape[:2])


def library_inversion(adapter: ModelAdapter, latents: torch.Tensor, steps: int = STEPS) -> torch.Tensor | None:
    """A plain loop over diffusers' ``DDIMInverseScheduler``, where it applies (it knows no flow matching)."""
    from diffusers import DDIMInverseScheduler

    if adapter.scheduler_class == "FlowMatchEulerDiscreteScheduler":
        return None
    scheduler = DDIMInverseScheduler.from_config(adapter.pipe.scheduler.config)
    scheduler.set_timesteps(steps)
    network = adapter.network()
    with torch.inference_mode():
        for timestep in scheduler.timesteps:
            prediction = network(latents, timestep.expand(len(latents)).to(latents.device))
            latents = scheduler.step(prediction, timestep, latents, return_dict=False)[0]
    return latents


def frontier(scratch: Path, model: str | None = None, clips: int = 4) -> Iterator[str]:
    """Error against calls of ``fixed-point`` for stopping rules, networks and precisions (images, T = 50); with a model
    of the small world on that alone, and clips of the world that it was not trained on."""
    rules = list(_rules())
    yield f"| network | precision | {' | '.join(name for name, _ in rules)} |"
    yield "|---" * (len(rules) + 2) + "|"
    for name, dtype, adapter, frames in _networks(scratch, model, clips):
        latents = adapter.encode(frames)
        levels, network = adapter.levels(STEPS, tuple(latents.shape[1:])), adapter.network()
        cells = [_frontier_cell(rule(network, latents, levels), network, latents, levels) for _, rule in rules]
        yield f"| {name} | {str(dtype).removeprefix('torch.')} | {' | '.join(cells)} |"


def _networks(
    scratch: Path, model: str | None, count: int
) -> Iterator[tuple[str, torch.dtype, ModelAdapter, torch.Tensor]]:
    """Name, precision, model and clips ``[N, F, H, W, 3]`` of every row of the frontier."""
    if model is not None:
        model = str(shipped_model()) if model == "shipped" else model
        world = World(0, "prompts")
        clips = torch.stack([torch.from_numpy(world.pixels(number)) for number in range(count)])
        yield from (("trained on the world", dtype, load_model(model, dtype=dtype), clips) for dtype in PRECISIONS)
        return
    folder = str(make_small_model("stable-diffusion", scratch / "stable-diffusion"))
    trained = train_briefly(load_model(folder)).pipe.unet.state_dict()
    clips = torch.stack([smooth_clip(1, 64, 64, seed) for seed in range(count)])
    for name, state in (("untrained", None), ("trained briefly", trained)):
        for dtype in PRECISIONS:
            adapter = load_model(folder, dtype=dtype)
            if state is not None:
                adapter.pipe.unet.load_state_dict(state)
            yield name, dtype, adapter, clips


Rule = Callable[[Network, torch.Tensor, Levels], Inversion]


def _rules() -> Iterator[tuple[str, Rule]]:
    def fixed_point(**options: Any) -> Rule:
        return lambda network, latents, levels: invert(network, latents, levels, NoiseOptions(**options))

    yield "ddim", fixed_point(inverter="ddim")
    yield "one call a step", fixed_point(max_iterations=1)
    yield "the same, from the last output alone", lambda *given: _scheduled(*given, lambda t: 1)
    for tolerance in (1e-2, 3e-3, 1e-3, 1e-4):
        yield f"tolerance {tolerance:g}", fixed_point(tolerance=tolerance)
    yield "tolerance 1e-4 to 1e-3", lambda network, latents, levels: _iterate(network, latents, levels, 1e-4, 10)
    yield "tolerance 3e-4 to 3e-3", lambda network, latents, levels: _iterate(network, latents, levels, 3e-4, 10)
    yield "6 calls where t <= 100", _fixed_schedule
    yield "5 calls everywhere", lambda network, latents, levels: _scheduled(network, latents, levels, lambda t: 5)


def _fixed_schedule(network: Network, latents: torch.Tensor, levels: Levels) -> Inversion:
    return _scheduled(network, latents, levels, lambda timestep: 6 if timestep <= 100 else 1)


def _scheduled(
    network: Network,
    latents: torch.Tensor,
    levels: Levels,
    calls_at: Callable[[float], int],
) -> Inversion:
    """Iteration from the last step's output with a given number of calls a step, whatever the residual."""
    steps, calls, direction = Steps(levels, latents.device), 0, None
    with torch.inference_mode():
        for step in reversed(range(len(levels))):
            at = torch.full((len(latents),), step)
            estimate = latents if direction is None else steps.noisier(latents, direction, at)
            for _ in range(calls_at(float(levels.timesteps[step]))):
                direction = steps.direction(network, estimate, at)
                estimate = steps.noisier(latents, direction, at)
                calls += 1
            latents = estimate
    none = torch.zeros(len(latents), dtype=torch.int64)
    return Inversion(latents, calls, none + calls, torch.zeros(len(levels), len(latents)), none)


HARD: tuple[tuple[str, int, dict[str, Any], bool], ...] = (
    ("wan", 7, {}, False),
    ("wan", 10, {}, False),
    ("cogvideox", 7, {}, False),
    ("cogvideox", 10, {}, False),
    ("ltx", 7, {}, False),
    ("modelscope", 7, {"timestep_spacing": "trailing"}, False),
    ("animatediff", 7, {"timestep_spacing": "trailing"}, False),
    ("stable-diffusion", 20, {"timestep_spacing": "trailing", "prediction_type": "sample"}, True),
    ("stable-diffusion", 50, {"timestep_spacing": "trailing", "prediction_type": "sample"}, True),
)
"""Family, steps, options of the scheduler, and whether the network is trained briefly."""


def stalls(scratch: Path) -> Iterator[str]:
    """Mean error (calls a clip) of plain iteration, which leaves a step that stalls, and of ``fixed-point``."""
    yield "| family | scheduler | network | T | plain iteration | fixed-point |"
    yield "|---" * 6 + "|"
    for family, steps, options, trained in HARD:
        adapter = load_model(str(make_small_model(family, scratch / family)))
        adapter.pipe.scheduler.register_to_config(**options)
        adapter.pipe.scheduler = type(adapter.pipe.scheduler).from_config(adapter.pipe.scheduler.config)
        if trained:
            train_briefly(adapter)
        frames, height, width = SHAPES[family]
        latents = adapter.encode(torch.stack([smooth_clip(frames, height, width, seed) for seed in range(4)]))
        levels, network = adapter.levels(steps, tuple(latents.shape[1:])), adapter.network()
        cells = [
            _frontier_cell(rule(network, latents, levels), network, latents, levels) for rule in (_iterate, invert)
        ]
        said = ", ".join(str(value) for value in options.values()) or "its own"
        yield f"| {family} | {said} | {'trained briefly' if trained else 'untrained'} | {steps} | {' | '.join(cells)} |"


def _iterate(
    network: Network, latents: torch.Tensor, levels: Levels, strict: float = 1e-4, ratio: float = 1.0
) -> Inversion:
    """``fixed-point`` without combining iterates, clip by clip; its tolerance is ``strict`` at the clean end and rises
    by equal factors to ``ratio`` times as much at the noisy one."""
    found, calls, steps = [], [], Steps(levels, latents.device)
    with torch.inference_mode():
        for z in latents.split(1):
            y, direction, before, made = z, torch.zeros_like(z), torch.zeros_like(z), 0
            for step in reversed(range(len(levels))):
                at = torch.tensor([step])
                if made:
                    y = steps.noisier(z, steps.extrapolate(direction, before, at), at)
                before = direction
                tolerance = strict * ratio ** (1 - step / (len(levels) - 1))
                z, direction, needed = _solve_step(network, steps, at, z, y, tolerance)
                made += needed
            found.append(z)
            calls.append(made)
    none = torch.zeros(len(latents), dtype=torch.int64)
    return Inversion(torch.cat(found), max(calls), torch.tensor(calls), torch.zeros(len(levels), len(latents)), none)


def _solve_step(
    network: Network, steps: Steps, at: torch.Tensor, z: torch.Tensor, y: torch.Tensor, tolerance: float
) -> tuple[torch.Tensor, torch.Tensor, int]:
    """Noisy end of a step that is first taken to be ``y``, the last output there, and the calls made."""
    last, made = math.inf, 0
    while made < NoiseOptions().max_iterations:
        made += 1
        direction = steps.direction(network, y, at)
        update = steps.noisier(z, direction, at)
        residual = relative_error(y, update).item()
        y = update if residual < last else y
        if residual <= tolerance or not residual <= STALL * last:
            break
        last = residual
    return y, direction, made


def _frontier_cell(inversion: Inversion, network: Network, latents: torch.Tensor, levels: Levels) -> str:
    error = relative_error(reconstruct(network, inversion.noise, levels), latents).mean().item()
    return f"{error:.1e} ({inversion.calls.float().mean().item():.0f})"


def train_briefly(adapter: ModelAdapter, steps: int = 400) -> ModelAdapter:
    """Train the network on smooth clips for seconds: enough to stop being random."""
    torch.manual_seed(0)
    unet, scheduler = adapter.pipe.unet.train().requires_grad_(True), adapter.pipe.scheduler
    predicts_sample = scheduler.config.prediction_type == "sample"
    latents = adapter.encode(torch.stack([smooth_clip(1, 64, 64, seed) for seed in range(100, 132)])).clone().squeeze(2)
    embeds = adapter.conditioning("")["encoder_hidden_states"].clone()
    optimizer = torch.optim.AdamW(unet.parameters(), lr=2e-3)
    for _ in range(steps):
        noise, timesteps = torch.randn_like(latents), torch.randint(0, 1000, (len(latents),))
        noisy = scheduler.add_noise(latents, noise, timesteps)
        prediction = unet(noisy, timesteps, embeds.expand(len(latents), -1, -1), return_dict=False)[0]
        optimizer.zero_grad()
        torch.nn.functional.mse_loss(prediction, latents if predicts_sample else noise).backward()
        optimizer.step()
    unet.eval().requires_grad_(False)
    return adapter


if __name__ == "__main__":
    main()
