"""A bank in a folder, and workers on other machines: the folder must be the same one for all."""

from __future__ import annotations

import pytest

from noisebank.commits.runs import begin_run, collect_run
from noisebank.config import load_config
from noisebank.errors import ConfigError
from noisebank.stages.configured import identify_stages
from noisebank.storage import open_store
from pipelines.graph import build_pipeline
from pipelines.jobs import run_pipeline
from runners.engines import find_engine
from tests.support.projects import Project


def test_a_worker_that_finds_another_folder_at_the_path_of_the_bank_stops_the_job(project: Project) -> None:
    project.write_list(project.rows(1))
    config = load_config(str(project.config_file))
    fingerprints, models = identify_stages(config, None)
    store = open_store(config.bank)

    def run(run_id: str) -> None:
        known = {"fingerprints": fingerprints, "models": models, "begun": True}
        run_pipeline(find_engine([]), lambda p: build_pipeline(p, config, run_id=run_id, stage="clips", **known))

    with pytest.raises(ConfigError, match="where a worker runs, this is not the folder of the machine that started"):
        run("elsewhere")
    assert not list(project.bank.glob("clips/*"))
    begin_run(store, "here")
    run("here")
    assert list(project.bank.glob("clips/*.tar"))
    assert collect_run(store, "here")["stages"]["clips"]["done"] == 1
    assert not list(project.bank.glob("runs/here*"))
