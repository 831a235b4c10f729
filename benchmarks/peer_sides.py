"""The other tools' sides of :mod:`benchmarks.peers`, run by the Python of an environment of their own, which has no
noisebank: ``python peer_sides.py clips|index ARGUMENTS`` as JSON; the last line printed is what was measured, as JSON.
"""

from __future__ import annotations

import json
import resource
import sys
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any


def cpu_seconds() -> float:
    """Of this process and of its children that have ended."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in used)


def mend_video2dataset() -> None:
    """Mends two faults of video2dataset 1.3.0 for which every shard with these subsamplers fails: its worker asks them
    for an attribute that they lack, and iterates over a mapping that one of them changes. At import, because its
    workers are processes of their own."""
    from video2dataset.subsamplers import FrameSubsampler, ResolutionSubsampler

    for subsampler in (FrameSubsampler, ResolutionSubsampler):
        subsampler.encode_formats = {"video": "mp4"}
    thin_out = FrameSubsampler.__call__
    FrameSubsampler.__call__ = lambda self, streams, metadata=None: thin_out(self, dict(streams), metadata)


if __name__ in ("__main__", "__mp_main__") and sys.argv[1:2] == ["clips"]:
    mend_video2dataset()


def clips(listed: str, output: str, size: int, fps: float, processes: int) -> dict[str, Any]:
    """video2dataset on a csv of ``url`` and ``caption``: tars of clips that are scaled, cropped and thinned out."""
    import yaml
    from video2dataset import video2dataset

    config = {
        "subsampling": {
            "ResolutionSubsampler": {"args": {"video_size": size, "resize_mode": ["scale", "crop"]}},
            "FrameSubsampler": {"args": {"frame_rate": fps}},
        },
        "reading": {"yt_args": {"yt_metadata_args": None}, "timeout": 30, "sampler": None},
        "storage": {"number_sample_per_shard": 32, "oom_shard_count": 5, "captions_are_subtitles": False},
        "distribution": {
            "processes_count": processes,
            "thread_count": 16,
            "subjob_size": 1000,
            "distributor": "multiprocessing",
        },
    }
    path = Path(output).with_suffix(".yaml")
    path.write_text(yaml.safe_dump(config))
    began, cpu = time.perf_counter(), cpu_seconds()
    video2dataset(
        url_list=listed, output_folder=output, config=str(path), output_format="webdataset", caption_col="caption"
    )
    return {"wall": time.perf_counter() - began, "cpu": cpu_seconds() - cpu, "version": version("video2dataset")}


def index(vectors: str, queries: str, memory: str, cores: int) -> dict[str, Any]:
    """autofaiss on a folder of ``.npy`` files: builds, then searches one by one."""
    import faiss
    import numpy as np
    from autofaiss import build_index

    faiss.omp_set_num_threads(cores)
    cpu = cpu_seconds()
    made, info = build_index(
        embeddings=vectors,
        save_on_disk=False,
        metric_type="ip",
        max_index_memory_usage=memory,
        current_memory_available="8G",
        nb_cores=cores,
        verbose=30,
    )
    cpu = cpu_seconds() - cpu
    asked = np.load(queries)
    began = time.process_time()
    found = [made.search(asked[i : i + 1], 1)[1][0, 0] for i in range(len(asked))]
    ms = 1000 * (time.process_time() - began) / len(asked)
    return {
        "cpu": cpu,
        "ms": ms,
        "found": [int(one) for one in found],
        "kind": info.get("index_key"),
        "bytes": len(faiss.serialize_index(made)),
        "version": version("autofaiss"),
    }


SIDES: dict[str, Callable[..., dict[str, Any]]] = {"clips": clips, "index": index}

if __name__ == "__main__":
    print(json.dumps(SIDES[sys.argv[1]](**json.loads(sys.argv[2]))))
