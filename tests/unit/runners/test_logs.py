"""What people see of the log: our lines, warnings of libraries, and an error of ours once, as the command says it."""

from __future__ import annotations

import logging

import pytest

from noisebank.errors import JobFailed
from runners.logs import _is_news

BEAM = "apache_beam.runners.worker.sdk_worker"


@pytest.mark.parametrize(
    ("name", "level", "message", "raised", "news"),
    [
        ("noisebank.stages", logging.INFO, "clips: 4 made", None, True),
        ("apache_beam.io", logging.INFO, "a remark", None, False),
        ("apache_beam.io", logging.WARNING, "a warning", None, True),
        ("transforms.shards", logging.ERROR, "noisebank.errors.JobFailed: ours to tell", None, True),
        (
            BEAM,
            logging.ERROR,
            "Error processing\nnoisebank.errors.JobFailed: too many failed [while running]",
            None,
            False,
        ),
        (BEAM, logging.ERROR, "failed", RuntimeError("noisebank.errors.JobFailed: too many failed"), False),
        (BEAM, logging.ERROR, "failed", JobFailed("too many failed"), False),
        (BEAM, logging.ERROR, "failed", RuntimeError("what nobody foresaw"), True),
        (
            "apache_beam.utils.subprocess_server",
            logging.WARNING,
            "Really starting service at x with cmd y",
            None,
            False,
        ),
    ],
)
def test_what_is_news(name: str, level: int, message: str, raised: Exception | None, news: bool) -> None:
    told = (type(raised), raised, None) if raised else None
    assert _is_news(logging.LogRecord(name, level, __file__, 1, message, None, told)) == news
