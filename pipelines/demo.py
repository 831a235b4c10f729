"""The demo: videos of the small world, served over loopback HTTP, to a bank, lookups, and generated clips.

Every step is the real one, on small things: the list is a WebVid csv with some rows that must fail, the captions model
is a packaged Sentence-BERT, and the text-to-video model was trained on the world. One picture shows what came of it:
clips of the bank, what the generator gives back from their noise, and what it makes of a prompt from Gaussian noise and
from a mix with the nearest clip's.
"""

from __future__ import annotations

import csv
import functools
import logging
import math
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml

from noisebank import NoiseBank
from noisebank.commands import Outcome
from noisebank.config import load_config
from noisebank.describe import snapshot_files
from noisebank.errors import JobFailed
from noisebank.evaluation.measures import psnr
from noisebank.fixtures.captions_model import packaged_captions_model
from noisebank.fixtures.videos import Sample, write_video
from noisebank.format.manifest import Snapshot, read_snapshot
from noisebank.outputs import save_latents, write_whole
from noisebank.progress import show_progress
from noisebank.report.page import make_report
from noisebank.storage import open_store
from noisebank.video.frames import decode_mp4
from noisebank.world.attributes import FRAMES, SIDE
from noisebank.world.judge import read_clip
from noisebank.world.lists import DURATION_MS
from noisebank.world.shipped import shipped_model
from noisebank.world.world import World
from pipelines.comparison import Pixels, Shown, draw_comparison

_log = logging.getLogger(__name__)
VIDEOS = 12
STEPS = 25
ETA = 0.2
SEED = 0
GUIDANCE = 5.0
HEADER = """\
# What 'noisebank demo' built its bank with. It served the videos of this list itself, only while it ran: to build with
# this file, name a list of your own under sources.
"""
PROMPTS = {
    "a red square moves to the left": ("red", "square", "left"),
    "a large cyan circle moves right": ("cyan", "circle", "right"),
    "a small green disc falls": ("green", "circle", "down"),
}
"""What is asked for, and the colour, shape and motion that the judge is to read."""
ROWS = (
    "nearest clip\nin the bank",
    "given back from\nits noise alone\n(eta = inf)",
    f"prompt from\nGaussian noise,\nseed {SEED}",
    f"prompt from the\nnearest clip's noise\nin Gaussian noise\n(ONA, eta = {ETA}),\nseed {SEED}",
)
"""Of the picture."""


def run_demo(out: Path) -> Outcome:
    """Goes the whole way and leaves everything under ``out``.

    Raises:
        JobFailed: ``out`` holds something that is not an earlier demo.
        ConfigError: the packaged captions model, or the shipped model, is not installed.
    """
    if out.exists() and any(out.iterdir()) and not (out / "bank.yaml").exists():
        raise JobFailed(f"{out}: a folder with other files in it; name an empty one with --out")
    captions_model, model = packaged_captions_model(), shipped_model()
    from pipelines.jobs import run_stages

    videos, listed = out / "videos", out / "results_demo.csv"
    samples = _make_videos(videos)
    with serve(videos) as address:
        write_list(listed, samples, videos, address)
        config_file = _write_config(out, model, captions_model)
        _log.info("building %s from %s", out / "bank", listed)
        summary = run_stages(load_config(str(config_file)), [], "build")
    return _look(out, model, summary)


def _make_videos(folder: Path) -> list[Sample]:
    world = World(SEED, "pool")
    samples = []
    with show_progress("making videos", "videos") as progress:
        for number in range(VIDEOS):
            (path,) = world.write_videos(folder, [number])
            samples.append(Sample(path, world.row(number).caption, DURATION_MS))
            progress.report(number + 1, VIDEOS)
    return samples


@contextmanager
def serve(folder: Path) -> Iterator[str]:
    """Serves a folder on a free port of the loopback address, quietly; gives ``http://127.0.0.1:port``."""

    class Handler(SimpleHTTPRequestHandler):
        def log_message(self, format: str, *args: object) -> None:
            _log.debug(format, *args)

    with ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Handler, directory=str(folder))) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()


def write_list(path: Path, samples: list[Sample], folder: Path, address: str) -> None:
    """A WebVid csv of the videos under ``folder``, and of rows that cannot get into a bank."""
    durations = [time.strftime("PT%HH%MM%SS", time.gmtime(sample.duration_ms // 1000)) for sample in samples]
    good = [
        (str(1000 + i), f"{address}/{sample.path.relative_to(folder)}", duration, sample.caption)
        for i, (sample, duration) in enumerate(zip(samples, durations, strict=True))
    ]
    bad = [
        ("2001", f"{address}/missing.mp4", "PT00H00M05S", "a video that is not there"),
        ("2002", f"{address}/readme.mp4", "PT00H00M05S", "a page of text called mp4"),
        ("2003", good[0][1], good[0][2], ""),
        ("2004", good[0][1], "five seconds", "a duration that cannot be read"),
        ("2005", "http://127.0.0.1:9/closed.mp4", "PT00H00M05S", "a server that is down"),
        good[1],
    ]
    (folder / "readme.mp4").write_text("<html>This is no video.</html>")
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["videoid", "contentUrl", "duration", "page_dir", "name"])
        writer.writerows((video, uri, duration, "demo", caption) for video, uri, duration, caption in good + bad)


def _write_config(out: Path, model: Path, captions_model: Path) -> Path:
    config = {
        "bank": str(out / "bank"),
        "sources": [{"kind": "webvid", "path": str(out / "results_demo.csv")}],
        "fetch": {"allow_private_hosts": True, "timeout": 5, "retries": 1},
        "clips": {"frames": FRAMES, "frame_stride": 1, "size": SIDE, "pixel_format": "yuv444p", "maxcount": 4},
        "captions": {"model": str(captions_model)},
        "noise": [{"name": "small", "model": str(model), "num_inference_steps": STEPS, "batch_size": 4}],
        "max_failed": 0.3,
        "max_changed": 1.0,
    }
    path = out / "bank.yaml"
    path.write_text(HEADER + yaml.safe_dump(config, sort_keys=False))
    return path


def _look(out: Path, model: Path, summary: dict[str, Any]) -> Outcome:
    """Three searches, latents, and a picture of what generation gives."""
    bank = NoiseBank.open(str(out / "bank"))
    lines = account(summary["rows"], read_snapshot(open_store(out / "bank")))
    searches = {}
    for prompt in PROMPTS:
        hits = bank.search(prompt, k=3)
        searches[prompt] = [{"id": hit.id, "caption": hit.caption, "score": hit.score} for hit in hits]
        lines += [f"search {prompt!r}", *(f"  {hit.score:.3f} {hit.id}: {hit.caption}" for hit in hits)]

    columns, replays = _generate(out, bank, model, {prompt: hits[0] for prompt, hits in searches.items()})
    draw_comparison(ROWS, columns).save(out / "comparison.png")
    write_report(out, replays)
    made = ("bank.yaml", "bank", "latents.safetensors", "generated.mp4", "comparison.png", "report.html")
    files = [str(out / name) for name in made]
    lines += [
        "look at:",
        *(f"  {file}" for file in files[2:]),
        "  (comparison.png: four of the eight frames of clips of the bank, the same given back from their noise, and",
        "  what a prompt gives from Gaussian noise and from the bank's, with what a judge reads in them; three",
        "  prompts prove nothing, and eta 0.2 changes little: docs/evidence.md asks 400)",
        f"next: {sys.argv[0]} show {out / 'bank'}; {sys.argv[0]} failures {out / 'bank'}",
        f"the bank on one page, in a browser: {out / 'report.html'}",
    ]
    return Outcome({**summary, "searches": searches, "files": files}, lines)


def _generate(
    out: Path, bank: NoiseBank, model: Path, nearest: Mapping[str, Mapping[str, Any]]
) -> tuple[dict[str, list[Shown]], dict[str, Pixels]]:
    """The clips of the picture, by prompt, and those given back, by id."""
    from diffusers import TextToVideoSDPipeline

    pipe = TextToVideoSDPipeline.from_pretrained(model)
    pipe.set_progress_bar_config(disable=True)
    stored = _stored_clips(out / "bank")
    columns: dict[str, list[Shown]] = {}
    replays: dict[str, Pixels] = {}

    def generate(said: str, guidance: float, inputs: Mapping[str, Any]) -> Pixels:
        made = pipe(said, num_inference_steps=STEPS, guidance_scale=guidance, output_type="np", **inputs)
        return _pixels(made)

    with show_progress("generating clips", "prompts") as progress:
        for prompt, hit in nearest.items():
            replays[hit["id"]] = generate("", 1.0, bank.inputs(id=hit["id"], eta=math.inf, pipe=pipe))
            plain, mixed = (
                bank.inputs(prompt, eta=eta, generator=torch.Generator().manual_seed(SEED), pipe=pipe)
                for eta in (0.0, ETA)
            )
            made = [generate(prompt, GUIDANCE, inputs) for inputs in (plain, mixed)]
            clip = stored[hit["id"]]
            columns[prompt] = [
                Shown(clip, hit["caption"]),
                Shown(replays[hit["id"]], f"PSNR {psnr(replays[hit['id']], clip):.0f} dB to the clip above"),
                *(_judge(prompt, frames) for frames in made),
            ]
            if len(columns) == 1:
                write_video(out / "generated.mp4", made[-1], fps=8)
                save_latents(out / "latents.safetensors", mixed["latents"])
            progress.report(len(columns), len(nearest))
    return columns, replays


def _judge(prompt: str, frames: Pixels) -> Shown:
    """A generated clip with what the judge reads in it."""
    reading = read_clip(frames)
    found = (reading.colour, reading.shape, reading.motion)
    said = ", ".join(value or "?" for value in found)
    right = sum(value == wanted for value, wanted in zip(found, PROMPTS[prompt], strict=True))
    return Shown(frames, f"reads as: {said} ({right} of 3)", right == len(found))


def write_report(out: Path, replays: Mapping[str, Any]) -> None:
    """``report.html`` of the bank in ``out``, and in the folder ``replays`` the clips given back that it shows, by
    id."""
    folder = out / "replays"
    folder.mkdir(exist_ok=True)
    for id, frames in replays.items():
        write_video(folder / f"{id}.mp4", frames, fps=8)
    write_whole(out / "report.html", make_report(open_store(out / "bank"), replays=folder).html.encode())


def account(rows: Mapping[str, int], snapshot: Snapshot) -> list[str]:
    """Where every row of the list ended: in the bank, among its failures, or as a duplicate."""
    lines = [f"bank: {snapshot.in_bank} clips of {rows['read']} rows in snapshot {snapshot.number}"]
    lines += [f"  failed {code}: {count}" for code, count in sorted(snapshot.failure_counts.items())]
    return [*lines, f"  listed twice: {rows['duplicate']}"]


def _pixels(generated: Any) -> Any:
    """What a pipeline generated as uint8 ``[F, H, W, 3]``."""
    return (np.clip(generated.frames[0], 0, 1) * 255).round().astype(np.uint8)


def _stored_clips(bank: Path) -> dict[str, Any]:
    """The frames of each clip, uint8 ``[F, H, W, 3]``, as webdataset finds them in the tars of the latest snapshot."""
    import webdataset

    store = open_store(bank)
    tars = [str(bank / entry.path) for entry in snapshot_files(store, read_snapshot(store), "clips")]
    samples = webdataset.WebDataset(tars, shardshuffle=False, empty_check=False)
    return {sample["__key__"]: decode_mp4(sample["mp4"]) for sample in samples}
