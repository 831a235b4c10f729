"""Which benchmarks there are, at which sizes, and what of their results stands in the table."""

from __future__ import annotations

from collections.abc import Callable

from benchmarks.table import Row

SUITE: dict[str, Callable[[bool], list[Row]]] = {}
"""Benchmarks by name; each measures (at small sizes where asked) and returns its rows. They import what they measure
when they run."""


def benchmark(measure: Callable[[bool], list[Row]]) -> Callable[[bool], list[Row]]:
    """Decorator that enters a function into the suite under its own name."""
    SUITE[measure.__name__] = measure
    return measure


@benchmark
def shard(quick: bool) -> list[Row]:
    """Writing a shard against the same fetch, decode, resize and encode in a bare loop."""
    from benchmarks.shard import run

    found = run(16 if quick else 128)
    return [
        Row(
            "a shard of clips, fetched to tar",
            "a bare loop of the same fetch, decode, resize and encode",
            found["ratio"],
            "<= 1.2, <= 0.25 CPU-s",
            found["shard_cpu_s_a_clip"],
            f"CPU-s a clip; {found['clips']:.0f} clips of 5 s, 640 x 360, H.264",
        )
    ]


@benchmark
def captions(quick: bool) -> list[Row]:
    """Embedding captions against bare ``SentenceTransformer.encode``."""
    from benchmarks.captions import run

    count = 128 if quick else 2048
    found = run(count)
    return [
        Row(
            "captions a second, stage to file",
            "`SentenceTransformer.encode` on the same sorted batches",
            found["ratio"],
            ">= 0.95",
            1000 / found["stage_captions_per_s"],
            f"CPU-s a thousand captions; {count} captions, MiniLM-L6",
        )
    ]


@benchmark
def inversion(quick: bool) -> list[Row]:
    """Batched inversion against the network alone, and against a loop over diffusers' inverse scheduler."""
    from benchmarks.inversion import run

    found = run(4 if quick else 8)
    return [
        Row(
            "clips inverted a second, `fixed-point`",
            "the network calls alone",
            found["network_alone"],
            ">= 0.95",
            found["ms_a_clip_fixed_point"] / 1000,
            f"CPU-s a clip; small UNet3D, T = 50; error {found['error_fixed_point']:.1e}",
        ),
        Row(
            "clips inverted a second, `ddim` in batches",
            "a loop over clips with `DDIMInverseScheduler`",
            found["multiple_ddim"],
            ">= 3 on a GPU",
            found["ms_a_clip_ddim"] / 1000,
            f"CPU-s a clip, equal calls; error {found['error_ddim']:.1e}",
        ),
        Row(
            "clips inverted a second, `fixed-point` in batches",
            "the same loop",
            found["multiple_fixed_point"],
            "-",
            found["ms_a_clip_fixed_point"] / 1000,
            f"CPU-s a clip; {found['calls_a_batch'] / 50:.1f} times the calls of the loop",
        ),
    ]


@benchmark
def lookup(quick: bool) -> list[Row]:
    """Warm lookups and mixes against memcpy, randn and what the mix computes; a thousand prompts at once."""
    from benchmarks import prompts
    from benchmarks.lookup import run

    found = run(200 if quick else 1000)
    sides = {
        "float16": ("float16", "memcpy + randn + weighted sum"),
        "int8": ("int8", "memcpy + randn + weighted sum"),
        "float16, prior `mixed`": ("prior_float16", "the same and a matrix product over the frames"),
        "float16, low-pass `gaussian`": ("lowpass_float16", "memcpy + randn + three FFTs and weighted sum"),
    }
    rows = [
        Row(
            f"lookup and mix, warm, {what}",
            against,
            found[f"ratio_{side}"],
            "<= 1.2",
            found[f"lookup_us_{side}"] / 1e6,
            "one record of 4 x 16 x 32 x 32",
        )
        for what, (side, against) in sides.items()
    ]
    count = 100 if quick else 1000
    parts = prompts.run(count)
    noise = f"{count:,} new prompts at once, from text to mix"
    seconds = ", ".join(f"{part} {parts[part]:.2g}" for part in prompts.PARTS)
    return [
        *rows,
        Row(noise, "embedding + search + reading + mixing", parts["ratio"], "<= 1.3", parts["noise"], seconds),
    ]


@benchmark
def planning(quick: bool) -> list[Row]:
    """Planning 1M and 10M rows of a WebVid-like csv, into an empty bank and as an update."""
    from benchmarks.planning import run

    rows = []
    for count, goal in ((100_000, "-"),) if quick else ((10**6, "<= 6 CPU-s"), (10**7, "<= 60 CPU-s, <= 1000 MB")):
        found = run(count)
        for what, name in (("empty", "into an empty bank"), ("update", "with 1% new or edited, against as many rows")):
            used = found[what]
            notes = f"{used['peak_mb']} MB at the most; start-up {found['base']['cpu_seconds']} CPU-s of it"
            rows.append(Row(f"plan of {count:,} csv rows, {name}", "-", None, goal, used["cpu_seconds"], notes))
    return rows


@benchmark
def updates(quick: bool) -> list[Row]:
    """Builds with little or nothing to do against the first build of the bank."""
    from benchmarks.updates import run

    found = run(200 if quick else 5000)
    first = f"the first build of {found['clips']:,} clips, {found['first_cpu_s']:.0f} CPU-s"
    return [
        Row(
            "a build with nothing to do",
            first,
            found["idle_ratio"],
            "< 0.02",
            found["idle_cpu_s"],
            f"{found['idle_stages']} stages ran",
        ),
        Row(
            "a build with 1% more clips, less start-up",
            first,
            found["added_ratio"],
            "<= 0.015",
            found["added_cpu_s"],
            f"of which start-up {found['start_up_cpu_s']:.1f} CPU-s; {found['added_inversions']} clips inverted",
        ),
        Row(
            "a build with 1% of the captions edited",
            first,
            found["edited_ratio"],
            "0 inversions",
            found["edited_cpu_s"],
            f"{found['edited_inversions']} clips inverted",
        ),
    ]
