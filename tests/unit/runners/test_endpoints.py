"""Addresses of job servers: one that answers, one that refuses, one that is silent; and what a server says."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest
from apache_beam.portability.api import beam_job_api_pb2, beam_job_api_pb2_grpc

from noisebank.errors import ConfigError
from runners.endpoints import ask_options, check_listens, find_unknown
from runners.engine import Needs
from runners.engines import find_engine

KINDS = beam_job_api_pb2.PipelineOptionType


class Server(beam_job_api_pb2_grpc.JobServiceServicer):
    """A job server that has three options of its own."""

    def DescribePipelineOptions(self, request, context):  # noqa: N802 (gRPC's name)
        named = {"execution_mode_for_batch": KINDS.STRING, "slots": KINDS.INTEGER, "spread": KINDS.BOOLEAN}
        options = [beam_job_api_pb2.PipelineOptionDescriptor(name=name, type=kind) for name, kind in named.items()]
        return beam_job_api_pb2.DescribePipelineOptionsResponse(options=options)


@pytest.fixture
def job_server() -> Iterator[str]:
    server = grpc.server(ThreadPoolExecutor(1))
    beam_job_api_pb2_grpc.add_JobServiceServicer_to_server(Server(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield f"127.0.0.1:{port}"
    server.stop(None)


@pytest.fixture
def silent() -> Iterator[str]:
    """Takes connections and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield f"127.0.0.1:{listening.getsockname()[1]}"


@pytest.fixture
def closed() -> str:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        return f"127.0.0.1:{listening.getsockname()[1]}"


def test_a_server_is_asked_for_options_of_its_own(job_server: str) -> None:
    check_listens(job_server, "job_endpoint", "start it")
    described = ask_options(job_server, "job_endpoint")
    words = ["--execution_mode_for_batch=BATCH", "--spread", "--slots", "2", "--unheard_of", "3"]
    assert find_unknown(words, described) == ["--unheard_of", "3"]
    with pytest.raises(ConfigError, match=r"slots.*'many'"):
        find_unknown(["--slots=many"], described)


def test_an_address_where_nobody_answers_is_refused(closed: str, silent: str) -> None:
    with pytest.raises(ConfigError, match=f"--job_endpoint: nobody answers at {closed} .*; start it"):
        check_listens(closed, "job_endpoint", "start it")
    for address in (closed, silent):
        with pytest.raises(ConfigError, match=f"--job_endpoint: no job server answers at {address} within 0.3 s"):
            ask_options(address, "job_endpoint", seconds=0.3)


@pytest.mark.parametrize("address", ["localhost", "localhost:", ":8099", "localhost:port", "localhost:99999999"])
def test_what_is_no_address_is_refused(address: str) -> None:
    with pytest.raises(ConfigError, match=r"--flink_master: .* is no address; host:port is wanted"):
        check_listens(address, "flink_master", "start it")


def test_a_job_goes_to_a_server_that_is_there_with_the_options_of_that_server(job_server: str, closed: str) -> None:
    words = ["--runner=PortableRunner", f"--job_endpoint={job_server}", "--execution_mode_for_batch=BATCH"]
    find_engine(words).prepare(Needs())
    with pytest.raises(ConfigError, match="--unheard_of: neither an option"):
        find_engine([*words, "--unheard_of"])
    for runner in ("PortableRunner", "PrismRunner"):
        with pytest.raises(ConfigError, match=f"no job server answers at {closed}"):
            find_engine([f"--runner={runner}", f"--job_endpoint={closed}"]).prepare(Needs())
