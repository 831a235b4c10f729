"""The errors that noisebank raises, by what went wrong and who can mend it.

Two kinds: a :class:`NoiseBankError` stops what was asked for; a :class:`RowFailure` costs one row, which is then
recorded with its ``code`` in the bank's failures table while the others go on.
"""

from __future__ import annotations

import re


class NoiseBankError(Exception):
    """Base of every error that stops a command or a call; ``exit_code`` is what the command line returns."""

    exit_code = 1


class ConfigError(NoiseBankError, ValueError):
    """An option has a value that cannot work; names the key, the value and what is allowed."""

    exit_code = 2


class BankNotFound(NoiseBankError, FileNotFoundError):
    """There is no bank, or no committed snapshot, at this address."""


class SnapshotExpired(NoiseBankError):
    """The snapshot existed and was vacuumed; open a later one."""


class SnapshotConflict(NoiseBankError):
    """Another writer committed a snapshot that touches the same clips; run the build again."""

    exit_code = 3


class BankDamaged(NoiseBankError):
    """A file of the bank is missing, truncated or differs from its checksum."""


def remedy_of(name: str) -> str:
    """What to do about a damaged file of a bank; ``name`` begins with its path.

    Plans and receipts are work that no snapshot has, and are made again.
    """
    if name.startswith("snapshots/"):
        return "restore it from a copy"
    if name.startswith("plans/"):
        return "run the build again, which plans anew"
    is_receipt = re.match(r"(?!index/).+/[0-9a-f]{32}\.json", name)
    return "run the build again, which makes it again" if is_receipt else "run verify"


class UnsupportedFormat(NoiseBankError):
    """The bank was written by a newer version of noisebank."""


class UnsupportedStore(NoiseBankError):
    """The storage backend cannot create a file only if it is absent, which commits need."""


class StoreError(NoiseBankError):
    """An object store cannot be reached, or refuses; names the object, the store's own code and how often it was asked.

    ``status`` is the HTTP status of its answer, 0 where there was none.
    """

    status = 0


class ShapeMismatch(NoiseBankError, ValueError):
    """Latents, clips or a pipeline have another shape, family or prediction type than the noise set."""


class ClipNotFound(NoiseBankError, KeyError):
    """No clip of this id is in the snapshot, or it has no record in the noise set."""

    __str__ = Exception.__str__  # (a KeyError would quote the message)


class PromptNotFound(NoiseBankError, KeyError):
    """No rewrite of this prompt is published."""

    def __str__(self) -> str:
        return str(self.args[0]) if self.args else ""


class UnknownNoiseSet(NoiseBankError, ValueError):
    """The bank has no noise set of this name, or several and none was named; lists those it has."""

    exit_code = 2


class JobFailed(NoiseBankError):
    """The job ran, but nothing was published: too many rows failed, or a stage is unfinished."""


class Interrupted(NoiseBankError):
    """Ctrl-C; what is finished stays finished."""

    exit_code = 130

    def __init__(self) -> None:
        super().__init__("interrupted; run the same command again to go on from what is finished")


FAILURE_CODES = (
    "bad_dimensions",
    "bad_duration",
    "bad_uri",
    "connection",
    "decode_error",
    "decoder_crashed",
    "decoder_hung",
    "forbidden",
    "missing_file",
    "no_video_stream",
    "not_finite",
    "not_video",
    "private_address",
    "reconstruction_error",
    "redirects",
    "short_body",
    "timeout",
    "tls",
    "too_large",
    "too_short",
    "too_small",
    "wrong_shape",
    "youtube_error",
    "youtube_missing",
    "youtube_unavailable",
)
"""Codes of the failures of clips and noise, besides ``http_404`` and the like; what only a list is to blame for has
others."""


class RowFailure(Exception):  # (a recorded outcome of one row, not a program error)
    """One row cannot be processed; the others go on.

    Args:
        code: short stable word for counting, e.g. ``http_404``, ``timeout``, ``too_short``.
        message: what happened, naming the thing and the value.
        retryable: whether trying again later may help (time-outs, 5xx) or not (404, not a video).
    """

    def __init__(self, code: str, message: str, *, retryable: bool = False) -> None:
        super().__init__(code, message, retryable)
        self.code = code
        self.message = message
        self.retryable = retryable

    def __str__(self) -> str:
        return f"{self.code}: {self.message}"
