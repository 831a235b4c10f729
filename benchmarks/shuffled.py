"""What a job passes between workers, counted on the elements as Beam encodes them for its own local runner."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple
from unittest.mock import patch

from apache_beam.coders.coder_impl import create_InputStream
from apache_beam.runners.portability.fn_api_runner.execution import GroupingBuffer


class Shuffled(NamedTuple):
    """An element that was grouped or reshuffled.

    Args:
        value: as it is encoded, without its key.
        bytes: of the encoded pair of key and value, with its window and time.
    """

    value: bytes
    bytes: int


@contextmanager
def watch_shuffles() -> Iterator[list[Shuffled]]:
    """Every element that is shuffled by jobs of this process, on the local runner in memory, while the block runs."""
    seen: list[Shuffled] = []
    append = GroupingBuffer.append

    def append_and_count(buffer: GroupingBuffer, data: bytes) -> None:
        stream, coder = create_InputStream(data), buffer._pre_grouped_coder.get_impl()
        while (left := stream.size()) > 0:
            _, value = coder.decode_from_stream(stream, True).value
            seen.append(Shuffled(value, left - stream.size()))
        append(buffer, data)

    with patch.object(GroupingBuffer, "append", append_and_count):
        yield seen
