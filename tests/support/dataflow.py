"""A service on loopback that takes jobs as Dataflow's API does and runs each from what was staged alone, in a process
of its own; and what is in the description of a job, down to the texts inside pickled functions.

As a program: runs the pipeline that is in a file.
"""

from __future__ import annotations

import base64
import bz2
import json
import os
import pickletools
import subprocess
import sys
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.portability.api import beam_runner_api_pb2 as api
from apache_beam.portability.common_urns import composites, primitives
from apache_beam.runners.portability.fn_api_runner import FnApiRunner
from apache_beam.transforms.environments import EmbeddedPythonEnvironment

from noisebank.storage import open_store
from tests.support.servers import AnyMethodHandler, LoopbackServer


class DataflowService(LoopbackServer):
    """Takes jobs.

    Args:
        folder: where their processes work, and what is staged is copied to.

    Attributes:
        jobs: as they were submitted.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.jobs: list[dict[str, Any]] = []
        self.processes: list[subprocess.Popen[bytes]] = []
        super().__init__(_Handler)

    @property
    def words(self) -> tuple[str, ...]:
        """Options by which Beam finds it."""
        return (f"--dataflow_endpoint={self.url.replace('127.0.0.1', 'localhost')}", "--no_auth")

    def start(self, job: dict[str, Any]) -> None:
        """Runs a job, whose process knows nothing of this one but the clouds and where modules are."""
        path = self.folder / f"{len(self.jobs)}.pb"
        path.write_bytes(read_address(job["environment"]["sdkPipelineOptions"]["options"]["pipelineUrl"]))
        self.jobs.append(job)
        command = [sys.executable, "-m", __name__, str(path)]
        environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
        with path.with_suffix(".log").open("wb") as log:
            self.processes.append(subprocess.Popen(command, cwd=self.folder, env=environment, stderr=log))

    def state(self) -> str:
        """Of the last job."""
        code = self.processes[-1].poll()
        return "JOB_STATE_RUNNING" if code is None else "JOB_STATE_FAILED" if code else "JOB_STATE_DONE"

    def messages(self) -> list[dict[str, str]]:
        """Of the last job: what its process said, if it failed."""
        if self.state() != "JOB_STATE_FAILED":
            return []
        said = (self.folder / f"{len(self.jobs) - 1}.log").read_text()
        message = {"messageText": said[said.rindex("Traceback") :], "messageImportance": "JOB_MESSAGE_ERROR"}
        return [{"id": "1", "time": "2026-01-01T00:00:00Z", **message}]


class _Handler(AnyMethodHandler):
    def answer_any(self) -> None:
        service: DataflowService = self.server.owner
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        document: dict[str, Any] = {}
        if self.command == "POST":
            service.start(job := json.loads(body))
            document = {"id": "1", "name": job["name"], "clientRequestId": job["clientRequestId"]}
        if self.path.partition("?")[0].endswith("/messages"):
            document["jobMessages"] = service.messages()
        else:
            document |= {"id": "1", "currentState": service.state()}
        answer = json.dumps(document).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)


def read_address(address: str) -> bytes:
    """The content of an object."""
    folder, _, name = address.rpartition("/")
    return open_store(folder).read(name)


def pickled(pipeline: api.Pipeline) -> Iterator[tuple[str, bytes]]:
    """Everything of a pipeline that workers unpickle, with the name of the step or coder that has it."""
    parts = pipeline.components
    for step in parts.transforms.values():
        if step.spec.urn == primitives.PAR_DO.urn:
            pardo = api.ParDoPayload.FromString(step.spec.payload)
            yield step.unique_name, pardo.do_fn.payload
            for side in pardo.side_inputs.values():
                yield step.unique_name, side.view_fn.payload
                yield step.unique_name, side.window_mapping_fn.payload
        elif step.spec.urn in (composites.COMBINE_PER_KEY.urn, composites.COMBINE_GLOBALLY.urn):
            yield step.unique_name, api.CombinePayload.FromString(step.spec.payload).combine_fn.payload
        else:
            yield step.unique_name, step.spec.payload
    for name, coder in parts.coders.items():
        yield name, coder.spec.payload
    for name, strategy in parts.windowing_strategies.items():
        yield name, strategy.window_fn.payload


def texts_in(payload: bytes) -> Iterator[str]:
    """Every text and byte string in a pickle of Beam's, and in those inside it; of what is none, all as it stands."""
    content = unpack(payload)
    if content is None:
        yield payload.decode("latin-1")
        return
    for _, value, _ in pickletools.genops(content):
        if isinstance(value, str):
            yield value
        elif isinstance(value, bytes):
            yield from texts_in(value)


def unpack(payload: bytes) -> bytes | None:
    """The pickle that Beam has compressed; None if there is none."""
    for decompress in (zlib.decompress, bz2.decompress):
        try:
            return decompress(base64.b64decode(payload, validate=True)) or None
        except (ValueError, OSError, zlib.error):
            continue
    return None


def main(path: str) -> None:
    """Runs a pipeline in this process, whatever image it names."""
    pipeline = api.Pipeline.FromString(Path(path).read_bytes())
    here = EmbeddedPythonEnvironment.default().to_runner_api(None)
    for environment in pipeline.components.environments.values():
        environment.urn, environment.payload = here.urn, here.payload
        del environment.dependencies[:]
    FnApiRunner().run_via_runner_api(pipeline, PipelineOptions([])).wait_until_finish()


if __name__ == "__main__":
    main(sys.argv[1])
