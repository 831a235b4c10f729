"""Whether somebody answers at the address of a job server, asked before a job is handed to it: Beam's own client waits
for minutes without a word. And which options that server takes beside Beam's own."""

from __future__ import annotations

import argparse
import socket
from collections.abc import Iterable, Sequence
from urllib.parse import urlsplit

import grpc
from apache_beam.portability.api import beam_job_api_pb2, beam_job_api_pb2_grpc

from noisebank.errors import ConfigError

WAIT_S = 4.0
"""How long an address is waited for (of a name with an IPv4 and an IPv6 address: each)."""

Described = beam_job_api_pb2.PipelineOptionDescriptor
"""An option, as a job server describes it."""


def split_endpoint(endpoint: str, option: str) -> tuple[str, int]:
    """Host and port of ``host:port`` or of an http address.

    Args:
        endpoint: the address.
        option: that gives it, for the message.

    Raises:
        ConfigError: it is no such address.
    """
    address = urlsplit(endpoint if "://" in endpoint else f"//{endpoint}")
    try:
        if address.hostname and address.port:
            return address.hostname, address.port
    except ValueError:
        pass
    raise ConfigError(f"--{option}: {endpoint!r} is no address; host:port is wanted, such as localhost:8099")


def check_listens(endpoint: str, option: str, remedy: str, seconds: float = WAIT_S) -> None:
    """Refuses an address at which nobody takes connections.

    Args:
        endpoint: ``host:port`` or an http address.
        option: that gives it, for the message.
        remedy: what to do, for the message.
        seconds: how long it is tried.

    Raises:
        ConfigError: no connection could be made, or it is no address.
    """
    try:
        socket.create_connection(split_endpoint(endpoint, option), timeout=seconds).close()
    except OSError as error:
        raise ConfigError(f"--{option}: nobody answers at {endpoint} ({error}); {remedy}") from error


def ask_options(endpoint: str, option: str, seconds: float = WAIT_S) -> list[Described]:
    """The options that a job server takes, as it describes them itself.

    Args:
        endpoint: ``host:port`` of the server.
        option: that gives it, for the message.
        seconds: how long an answer is waited for.

    Raises:
        ConfigError: no job server answers there.
    """
    host, port = split_endpoint(endpoint, option)
    with grpc.insecure_channel(f"{host}:{port}", [("grpc.enable_http_proxy", 0)]) as channel:
        server = beam_job_api_pb2_grpc.JobServiceStub(channel)
        request = beam_job_api_pb2.DescribePipelineOptionsRequest()
        try:
            return list(server.DescribePipelineOptions(request, timeout=seconds, wait_for_ready=True).options)
        except grpc.RpcError as error:
            raise ConfigError(
                f"--{option}: no job server answers at {endpoint} within {seconds:g} s ({error.code().name}: "
                f"{error.details()}); start it, or name another"
            ) from error


def find_unknown(words: Sequence[str], described: Iterable[Described]) -> list[str]:
    """The command-line words that a job server takes no more than Beam does.

    Args:
        words: that Beam does not know.
        described: the options of the server, which Beam's client reads in the same way.

    Raises:
        ConfigError: the value of an option is not allowed.
    """
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    kinds = beam_job_api_pb2.PipelineOptionType
    for option in described:
        named = f"--{option.name}"
        if option.type == kinds.BOOLEAN:
            parser.add_argument(named, action="store_false" if option.default_value == "true" else "store_true")
        elif option.type == kinds.ARRAY:
            parser.add_argument(named, action="append")
        else:
            parser.add_argument(named, type=int if option.type == kinds.INTEGER else str)
    try:
        return parser.parse_known_args(words)[1]
    except argparse.ArgumentError as error:
        raise ConfigError(f"options of the job server: {error}") from error
