"""The demo: videos that it makes, served over loopback HTTP, to a bank, lookups, and a generated clip.

Every step is the real one, on small things: the list is a WebVid csv with some rows that must fail, the captions model
is a packaged Sentence-BERT, and the text-to-video model is a diffusers folder with random weights, so what it generates
is noise-like; but started from a stored record it gives the record's clip back, which is the point.
"""

from __future__ import annotations

import csv
import functools
import logging
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
from noisebank.fixtures.captions_model import packaged_captions_model
from noisebank.fixtures.small_models import make_small_model
from noisebank.fixtures.videos import Sample, make_sample_videos, write_video
from noisebank.format.manifest import Snapshot, read_snapshot
from noisebank.outputs import save_latents, write_whole
from noisebank.progress import show_progress
from noisebank.report.page import make_report
from noisebank.storage import open_store
from noisebank.video.frames import decode_mp4

_log = logging.getLogger(__name__)
VIDEOS = 12
STEPS = 25
FRAMES, SIZE = 16, 64
HEADER = """\
# What 'noisebank demo' built its bank with. It served the videos of this list itself, only while it ran: to build with
# this file, name a list of your own under sources.
"""
PROMPTS = (
    "a red sphere floats up into the clouds",
    "a blue box going round above the sea",
    "a yellow block drops onto a snowy field",
)


def run_demo(out: Path) -> Outcome:
    """Goes the whole way and leaves everything under ``out``.

    Raises:
        JobFailed: ``out`` holds something that is not an earlier demo.
        ConfigError: the packaged captions model is not installed.
    """
    if out.exists() and any(out.iterdir()) and not (out / "bank.yaml").exists():
        raise JobFailed(f"{out}: a folder with other files in it; name an empty one with --out")
    captions_model = packaged_captions_model()
    from pipelines.jobs import run_stages

    model, videos, listed = out / "model", out / "videos", out / "results_demo.csv"
    if not (model / "model_index.json").exists():
        _log.info("making a small text-to-video model with random weights: %s", model)
        make_small_model("modelscope", model, spatial_ratio=4)
    with show_progress("making videos", "videos") as progress:
        samples = make_sample_videos(videos, VIDEOS, progress=progress.report)
    with serve(videos) as address:
        write_list(listed, samples, address)
        config_file = _write_config(out, model, captions_model)
        _log.info("building %s from %s", out / "bank", listed)
        summary = run_stages(load_config(str(config_file)), [], "build")
    return _look(out, model, summary)


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


def write_list(path: Path, samples: list[Sample], address: str) -> None:
    """A WebVid csv of the videos, and of rows that cannot get into a bank."""
    durations = [time.strftime("PT%HH%MM%SS", time.gmtime(sample.duration_ms // 1000)) for sample in samples]
    good = [
        (str(1000 + i), f"{address}/{sample.path.name}", duration, sample.caption)
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
    (samples[0].path.parent / "readme.mp4").write_text("<html>This is no video.</html>")
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["videoid", "contentUrl", "duration", "page_dir", "name"])
        writer.writerows((video, uri, duration, "demo", caption) for video, uri, duration, caption in good + bad)


def _write_config(out: Path, model: Path, captions_model: Path) -> Path:
    config = {
        "bank": str(out / "bank"),
        "sources": [{"kind": "webvid", "path": str(out / "results_demo.csv")}],
        "fetch": {"allow_private_hosts": True, "timeout": 5, "retries": 1},
        "clips": {"frames": FRAMES, "frame_stride": 4, "size": SIZE, "maxcount": 4},
        "captions": {"model": str(captions_model)},
        "noise": [{"name": "small", "model": str(model), "num_inference_steps": STEPS, "batch_size": 4}],
        "max_failed": 0.3,
        "max_changed": 1.0,
    }
    path = out / "bank.yaml"
    path.write_text(HEADER + yaml.safe_dump(config, sort_keys=False))
    return path


def _look(out: Path, model: Path, summary: dict[str, Any]) -> Outcome:
    """Three searches, latents, a generated clip, and stored clips given back beside their sources."""
    from diffusers import TextToVideoSDPipeline
    from PIL import Image

    bank = NoiseBank.open(str(out / "bank"))
    lines = account(summary["rows"], read_snapshot(open_store(out / "bank")))
    searches = {}
    for prompt in PROMPTS:
        hits = bank.search(prompt, k=3)
        searches[prompt] = [{"id": hit.id, "caption": hit.caption, "score": hit.score} for hit in hits]
        lines += [f"search {prompt!r}", *(f"  {hit.score:.3f} {hit.id}: {hit.caption}" for hit in hits)]

    pipe = TextToVideoSDPipeline.from_pretrained(model)
    pipe.set_progress_bar_config(disable=True)
    generate = functools.partial(pipe, num_inference_steps=STEPS, guidance_scale=1.0, output_type="np")
    inputs = bank.inputs(PROMPTS[0], eta=0.2, generator=torch.Generator().manual_seed(0), pipe=pipe)
    save_latents(out / "latents.safetensors", inputs["latents"])
    ids = list(dict.fromkeys(hits[0]["id"] for hits in searches.values()))
    stored = _stored_clips(out / "bank")
    replays = []
    with show_progress("generating a clip from mixed noise, and stored clips from their own", "clips") as progress:
        write_video(out / "generated.mp4", _pixels(generate(PROMPTS[0], **inputs)), fps=8)
        for id in ids:
            progress.report(1 + len(replays), 1 + len(ids))
            replays.append(_pixels(generate("", **bank.inputs(id=id, eta=float("inf"), pipe=pipe))))
        progress.report(1 + len(ids), 1 + len(ids))
    pairs = [np.concatenate([stored[id], replay], axis=2) for id, replay in zip(ids, replays, strict=True)]
    film = [Image.fromarray(frame).resize((frame.shape[1] * 3, frame.shape[0] * 3)) for frame in np.hstack(pairs)]
    film[0].save(out / "replay.gif", save_all=True, append_images=film[1:], duration=120, loop=0)
    write_report(out, dict(zip(ids, replays, strict=True)))
    made = ("bank.yaml", "bank", "latents.safetensors", "generated.mp4", "replay.gif", "report.html")
    files = [str(out / name) for name in made]
    lines += [
        "look at:",
        *(f"  {file}" for file in files[2:]),
        f"  (replay.gif: left the stored clip, right what the generator gives back from its noise: {', '.join(ids)})",
        "  (generated.mp4 is made by a model with random weights: it shows that the way works, not a picture)",
        f"next: {sys.argv[0]} show {out / 'bank'}; {sys.argv[0]} failures {out / 'bank'}",
        f"the bank on one page, in a browser: {out / 'report.html'}",
    ]
    return Outcome({**summary, "searches": searches, "files": files}, lines)


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
