"""What tests share: a small model, videos, projects that use them, and object stores on loopback."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from tests.support.emulators import Emulator, emulator
from tests.support.projects import VIDEOS, Project, write_videos
from tests.support.servers import VideoServer

ROOT = Path(__file__).parents[1]

# A busy machine is no failure: examples have no deadline.
settings.register_profile("suite", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("suite")


@pytest.fixture(scope="session")
def small_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a small text-to-video model in diffusers' format."""
    from noisebank.fixtures.small_models import make_small_model

    return make_small_model("modelscope", tmp_path_factory.mktemp("models") / "modelscope")


@pytest.fixture(scope="session")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of the videos ``v00.mp4``, ``v01.mp4``..., all different."""
    return write_videos(tmp_path_factory.mktemp("videos"), VIDEOS)


@pytest.fixture
def server(videos: Path) -> Iterator[VideoServer]:
    """Serves the videos, or misbehaves, and counts the requests."""
    with VideoServer(videos) as running:
        yield running


@pytest.fixture
def project(tmp_path: Path, small_model: Path, videos: Path) -> Project:
    """An empty bank with a configuration."""
    return Project(tmp_path / "project", small_model, videos)


@pytest.fixture(scope="module")
def module_project(
    tmp_path_factory: pytest.TempPathFactory, small_model: Path, videos: Path
) -> Callable[[str], Project]:
    """Makes empty banks that the tests of a module share."""
    return lambda name: Project(tmp_path_factory.mktemp(name) / "project", small_model, videos)


@pytest.fixture(scope="session")
def bank_folder(tmp_path_factory: pytest.TempPathFactory, small_model: Path, videos: Path) -> Path:
    """A bank of six clips with two failures, built by the command in a process of its own."""
    project = Project(tmp_path_factory.mktemp("built") / "project", small_model, videos)
    rows = project.rows(6)
    project.write_list([*rows, rows[0]._replace(id="gone", uri="gone.mp4"), rows[1]._replace(id="mute", caption=" ")])
    command = [sys.executable, "-m", "pipelines.cli", "build", "-c", str(project.config_file), "--max_failed", "0.5"]
    subprocess.run(command, check=True, cwd=ROOT, capture_output=True, timeout=600)
    return project.bank


@pytest.fixture(scope="session")
def start_emulator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], Emulator]]:
    """Starts the store of a scheme at the first call; skips where its program is not installed."""
    running: dict[str, Emulator] = {}
    with ExitStack() as stack:

        def start(scheme: str) -> Emulator:
            if scheme not in running:
                running[scheme] = stack.enter_context(emulator(scheme, tmp_path_factory.mktemp(scheme)))
            return running[scheme]

        yield start


@pytest.fixture(params=["s3", "gs", "az"])
def cloud(request: pytest.FixtureRequest, start_emulator: Callable[[str], Emulator]) -> Iterator[Emulator]:
    """Each of the stores in turn, found by the environment."""
    with start_emulator(request.param).found() as running:
        yield running


@pytest.fixture
def s3(start_emulator: Callable[[str], Emulator]) -> Iterator[Emulator]:
    """The S3 store, found by the environment."""
    with start_emulator("s3").found() as running:
        yield running
