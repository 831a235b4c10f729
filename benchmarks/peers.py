"""Beside what people use: video2dataset, autofaiss, and a loop over diffusers' ``DDIMInverseScheduler``.

``make peers`` sets up ``.venv-peers`` (``benchmarks/peers.txt``) and runs ``python -m benchmarks.peers``, which prints
a table. Both sides get the same served videos, the same vectors, the same network; theirs run in processes of their own
Python (:mod:`benchmarks.peer_sides`). Needs FFmpeg's programs, which video2dataset calls.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import io
import json
import multiprocessing
import shutil
import subprocess
import tarfile
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.peer_sides import cpu_seconds
from benchmarks.shard import CLIPS, serve, source
from noisebank.fixtures.videos import write_video

PEERS = Path(__file__).parents[1] / ".venv-peers" / "bin" / "python"
DISTINCT, FRAMES, FPS = 4, 128, 25
DIM = 384
QUERIES = 512
_SEED = 11


@contextlib.contextmanager
def served_videos(folder: Path, clips: int) -> Iterator[list[tuple[str, bool]]]:
    """Addresses of videos, and whether a clip can be made of each: one in eight is bad, in one of five ways."""
    for number in range(DISTINCT):
        source(folder / f"{number}.mp4", number, FRAMES)
    whole = (folder / "0.mp4").read_bytes()
    (folder / "page.mp4").write_text("<!DOCTYPE html><html><body>not found</body></html>" * 40)
    (folder / "empty.mp4").write_bytes(b"")
    (folder / "half.mp4").write_bytes(whole[: len(whole) // 2])
    write_video(folder / "short.mp4", [np.full((360, 640, 3), 90, np.uint8)] * 20)
    bad = ("page.mp4", "empty.mp4", "half.mp4", "short.mp4", "missing.mp4")
    near, far = multiprocessing.get_context("spawn").Pipe()
    server = multiprocessing.get_context("spawn").Process(target=serve, args=(str(folder), far), daemon=True)
    server.start()
    url = near.recv()
    names = [f"{number % DISTINCT}.mp4" if number % 8 else bad[number // 8 % len(bad)] for number in range(clips)]
    try:
        yield [(f"{url}/{name}?{number}", name not in bad) for number, name in enumerate(names)]
    finally:
        server.terminate()
        server.join()


def measure_clips(clips: int, processes: int) -> dict[str, dict[str, Any]]:
    """Both sides on the same addresses: CPU seconds a good clip, wall, and what they said of bad files."""
    with tempfile.TemporaryDirectory(prefix="noisebank-peers-") as name:
        folder = Path(name)
        (folder / "served").mkdir()
        with served_videos(folder / "served", clips) as videos:
            ours = _our_clips(folder, videos)
            theirs = _their_clips(folder, videos, processes)
    good = sum(is_good for _, is_good in videos)
    for side in (ours, theirs):
        side["cpu_s_a_clip"] = side["cpu"] / max(1, side["right"])
        side["good"], side["bad"] = good, clips - good
    return {"ours": ours, "theirs": theirs}


def _our_clips(folder: Path, videos: Sequence[tuple[str, bool]]) -> dict[str, Any]:
    """A shard, fetched to tar."""
    from noisebank.format.shards import ShardSample, write_shard
    from noisebank.options import FetchOptions
    from noisebank.video.clips import Clip, ClipRequest, make_clips
    from noisebank.video.sandbox import Sandbox

    began, cpu = time.perf_counter(), cpu_seconds()
    sandbox = Sandbox()
    requests = [ClipRequest(f"v-{number}", uri) for number, (uri, _) in enumerate(videos)]
    made = make_clips(requests, CLIPS, FetchOptions(allow_private_hosts=True, retries=0), folder, sandbox)
    samples = (ShardSample(one.id, clip.mp4, "a caption", {}) for one, clip in made if isinstance(clip, Clip))
    write_shard(folder / "ours.tar", samples)
    sandbox.close()
    used = {"wall": time.perf_counter() - began, "cpu": cpu_seconds() - cpu}
    return {**used, **judge_tars([folder / "ours.tar"], {f"v-{n}": good for n, (_, good) in enumerate(videos)})}


def _their_clips(folder: Path, videos: Sequence[tuple[str, bool]], processes: int) -> dict[str, Any]:
    listed, output = folder / "list.csv", folder / "theirs"
    with listed.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["url", "caption"])
        writer.writerows((uri, f"{number}") for number, (uri, _) in enumerate(videos))
    asked = {"listed": str(listed), "output": str(output), "size": 256, "fps": FPS / 8, "processes": processes}
    found = run_peer("clips", asked)
    judged = judge_tars(sorted(output.glob("*.tar")), {f"{number}": good for number, (_, good) in enumerate(videos)})
    return {**found, **judged}


def judge_tars(tars: Sequence[Path], good: dict[str, bool]) -> dict[str, int]:
    """Of the clips in tars, told apart by their keys or else by their captions: ``right`` are good videos with 16
    frames of 256 x 256, ``wrong`` good ones with others, ``false`` bad ones that count as made."""
    counts = {"right": 0, "wrong": 0, "false": 0}
    for tar in tars:
        with tarfile.open(tar) as members:
            files = {member.name: members.extractfile(member) for member in members if member.isfile()}
            held = {name: file.read() for name, file in files.items() if file}
        for name, data in held.items():
            stem, _, suffix = name.rpartition(".")
            if suffix != "mp4":
                continue
            known = stem if stem in good else held.get(f"{stem}.txt", b"").decode()
            if not good[known]:
                counts["false"] += 1
            else:
                counts["right" if _shape_of(data) == (16, 256, 256) else "wrong"] += 1
    return counts


def _shape_of(data: bytes) -> tuple[int, int, int]:
    import av

    try:
        with av.open(io.BytesIO(data)) as container:
            frames = [(frame.height, frame.width) for frame in container.decode(video=0)]
    except (av.FFmpegError, IndexError):
        return (0, 0, 0)
    return (len(frames), *frames[0]) if frames else (0, 0, 0)


def measure_index(vectors: int, memory_mb: int) -> dict[str, dict[str, Any]]:
    """Both sides on the same clustered vectors, one thread, as much memory."""
    import faiss

    from noisebank.search.index import build_index, choose_index, held_out_queries

    with tempfile.TemporaryDirectory(prefix="noisebank-peers-") as folder:
        points = _clustered(vectors)
        queries = held_out_queries(points)
        exact = faiss.knn(queries, points, 1, metric=faiss.METRIC_INNER_PRODUCT)[1][:, 0]
        cpu = cpu_seconds()
        kind = choose_index(vectors, DIM, memory_mb * 1_000_000)
        tuned = build_index(points, 0.95, kind)
        ours: dict[str, Any] = {
            "cpu": cpu_seconds() - cpu,
            "kind": kind,
            "bytes": len(faiss.serialize_index(tuned.index)),
        }
        faiss.omp_set_num_threads(1)
        began = time.process_time()
        found = [int(tuned.index.search(query[None], 1)[1][0, 0]) for query in queries]
        ours |= {"ms": 1000 * (time.process_time() - began) / QUERIES, "found": found}
        (Path(folder) / "vectors").mkdir()
        np.save(Path(folder, "vectors", "0.npy"), points)
        np.save(Path(folder, "queries.npy"), queries)
        asked = {"vectors": f"{folder}/vectors", "queries": f"{folder}/queries.npy"}
        theirs = run_peer("index", {**asked, "memory": f"{memory_mb}M", "cores": 1})
        for side in (ours, theirs):
            scores = np.einsum("qd,qd->q", queries, points[np.maximum(side.pop("found"), 0)])
            best = np.einsum("qd,qd->q", queries, points[exact])
            side["recall"] = float((scores >= best - 1e-5).mean())
    return {"ours": ours, "theirs": theirs}


def _clustered(count: int) -> Any:
    """Vectors ``[N, 384]`` float32 of length one, around one centre a thousand, as captions lie around topics."""
    random = np.random.default_rng(_SEED)
    centres = random.standard_normal((max(1, count // 1000), DIM), np.float32)
    points = centres[random.integers(0, len(centres), count)]
    for start in range(0, count, 65_536):
        block = points[start : start + 65_536]
        block += random.standard_normal(block.shape, np.float32)
        block /= np.linalg.norm(block, axis=1, keepdims=True)
    return points


def run_peer(side: str, arguments: dict[str, Any]) -> dict[str, Any]:
    """What a side of :mod:`benchmarks.peer_sides` measured, in a process of the peers' Python."""
    program = Path(__file__).with_name("peer_sides.py")
    command = [str(PEERS), str(program), side, json.dumps(arguments)]
    finished = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    measured: dict[str, Any] = json.loads(finished.stdout.splitlines()[-1])
    return measured


def lines(clips: int, vectors: int, memory_mb: int, processes: int, sides: Sequence[str]) -> Iterator[str]:
    """The table, in markdown, a line when it is measured."""
    yield "| what | noisebank | beside | |"
    yield "|---|---|---|---|"
    if "clips" in sides:
        both = measure_clips(clips, processes)
        ours, theirs = both["ours"], both["theirs"]
        head = f"video2dataset {theirs['version']}"
        yield f"| CPU-s a clip of 16 x 256 x 256 | {ours['cpu_s_a_clip']:.3f} | {theirs['cpu_s_a_clip']:.3f} | {head} |"
        yield f"| wall, s | {ours['wall']:.1f} | {theirs['wall']:.1f} | {clips} videos, {ours['bad']} of them bad |"
        right = [f"{side['right']} ({side['wrong']})" for side in (ours, theirs)]
        yield f"| clips as asked for (others, of good videos) | {' | '.join(right)} | of {ours['good']} good videos |"
        yield f"| bad files that count as made | {ours['false']} | {theirs['false']} | of {ours['bad']} |"
    if "index" in sides:
        both = measure_index(vectors, memory_mb)
        ours, theirs = both["ours"], both["theirs"]
        head = f"autofaiss {theirs['version']}, {vectors:,} x {DIM}, {memory_mb} MB"
        yield f"| recall@1 | {ours['recall']:.3f} | {theirs['recall']:.3f} | {head} |"
        yield f"| build, CPU-s | {ours['cpu']:.1f} | {theirs['cpu']:.1f} | {ours['kind']} and {theirs['kind']} |"
        yield f"| query, ms | {ours['ms']:.2f} | {theirs['ms']:.2f} | one at a time, one thread |"
        yield f"| bytes | {ours['bytes']:.3g} | {theirs['bytes']:.3g} | |"
    if "inversion" in sides:
        import diffusers

        from benchmarks.inversion import run as run_inversion

        found = run_inversion(8)
        head = f"a loop over `DDIMInverseScheduler`, diffusers {diffusers.__version__}, T = 50, small UNet3D"
        ours_a_second = [1000 / found[f"ms_a_clip_{name}"] for name in ("ddim", "fixed_point")]
        loop = 1000 / found["ms_a_clip_loop"]
        yield f"| clips a CPU-s, `ddim` (equal calls) | {ours_a_second[0]:.2f} | {loop:.2f} | {head} |"
        yield f"| clips a CPU-s, `fixed-point` | {ours_a_second[1]:.2f} | {loop:.2f} | |"
        errors = f"{found['error_fixed_point']:.1e} | {found['error_ddim']:.1e}"
        yield f"| relative error of the latents given back, `fixed-point` | {errors} | |"


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.peers", description=__doc__)
    parser.add_argument("sides", nargs="*", help="clips, index or inversion (default: all)")
    parser.add_argument("--clips", type=int, default=128)
    parser.add_argument("--vectors", type=int, default=1_000_000)
    parser.add_argument("--memory-mb", type=int, default=500)
    parser.add_argument("--processes", type=int, default=1)
    options = parser.parse_args()
    if shutil.which("ffmpeg") is None:
        parser.error("video2dataset calls ffmpeg, which is not installed")
    sides = options.sides or ["clips", "index", "inversion"]
    for line in lines(options.clips, options.vectors, options.memory_mb, options.processes, sides):
        print(line, flush=True)


if __name__ == "__main__":
    main()
