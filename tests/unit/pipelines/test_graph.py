"""The graph of every command as Beam's Java engines take it: the fuser of the Flink job server makes stages of it, and
the heavy steps begin stages of their own."""

from __future__ import annotations

from pathlib import Path

import apache_beam as beam
import pytest
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.runners.portability.portable_runner import PortableRunner

from noisebank.config import config_from_mapping
from noisebank.options import Config
from pipelines.graph import build_pipeline
from tests.support.jars import find_class_path, run_java

FUSE = Path(__file__).parents[2] / "support/flink/Fuse.java"
HEAVY = ("Make clips/", "Make captions/", "Make noise/one/", "Make noise/two/")
COMMANDS = [
    *((command, True, True) for command in ("build", "clips", "captions", "index", "noise", "commit")),
    *(("build", two, hint) for two, hint in ((False, False), (True, False), (False, True))),
]
"""Each command with two noise sets and an accelerator hint, and a build without."""


def configure(two_sets: bool, hint: bool) -> Config:
    accelerator = {"accelerator": "type:nvidia-l4;count:1"} if hint else {}
    noise = [{"name": name, **accelerator} for name in (("one", "two") if two_sets else ("one",))]
    return config_from_mapping({"bank": "/bank", "sources": [{"kind": "webvid", "path": "a.csv"}], "noise": noise})


def write_pipeline(pipeline: beam.Pipeline, path: Path) -> None:
    """What a job server is given of a pipeline."""
    options = PipelineOptions(["--environment_type=EXTERNAL", "--environment_config=localhost:50000"])
    path.write_bytes(PortableRunner().get_proto_pipeline(pipeline, options).SerializeToString())


def fuse(*paths: Path) -> dict[str, list[list[str]]]:
    """By file, the steps of each fused stage, those that are fused with the stage's input first."""
    fused = {}
    for line in run_java(FUSE, *paths).splitlines():
        file, *stages = line.split("\t")
        assert stages and not stages[0].startswith("refused"), line
        fused[Path(file).stem] = [stage.rstrip(";").split(";") for stage in stages]
    return fused


@pytest.mark.engines
def test_every_graph_passes_the_fuser_and_a_reshuffle_stands_right_before_each_heavy_step(tmp_path: Path) -> None:
    find_class_path()
    paths = []
    for command, two_sets, hint in COMMANDS:
        pipeline = beam.Pipeline()
        plan = None if command in ("build", "clips") else "plans/0/plan.json"
        build_pipeline(pipeline, configure(two_sets, hint), run_id="run", stage=command, plan=plan)
        paths.append(tmp_path / f"{command}-{two_sets}-{hint}")
        write_pipeline(pipeline, paths[-1])
    fused = fuse(*paths)
    assert len(fused) == len(COMMANDS)
    for name, stages in fused.items():
        heavy = [stage for stage in stages if any(step.startswith(HEAVY) for step in stage)]
        assert heavy, name
        for stage in heavy:
            assert stage[0].startswith(HEAVY), f"{name}: {stage}"


@pytest.mark.engines
def test_a_graph_that_the_fuser_refuses_is_told(tmp_path: Path) -> None:
    pipeline = beam.Pipeline()
    begun = pipeline | beam.Create([1])
    here = begun | beam.Reshuffle() | "Here" >> beam.Map(abs)
    there = here | "There" >> beam.Map(abs).with_resource_hints(accelerator="type:nvidia-l4;count:1")
    both = (here, there) | beam.Flatten() | "Both" >> beam.Map(abs)
    _ = begun | "Side" >> beam.Map(lambda one, others: one, beam.pvalue.AsList(both))
    write_pipeline(pipeline, tmp_path / "bad")
    with pytest.raises(AssertionError, match="refused: "):
        fuse(tmp_path / "bad")
