"""What an object store answers when it does not do as asked, in one line: the object, the store's own code, the tries.

obstore's messages go over many lines, with the answer's XML and a dump of its own values; addresses in them may be
signed. Of all that, the status, the store's code and message, and how often it was asked are kept.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

from obstore.exceptions import AlreadyExistsError, BaseError, PreconditionError

from noisebank.errors import StoreError

RETRIES = 6
"""How often a request that failed is sent again, within a limited time."""

_DUMP = re.compile(r"\n+Debug source:.*", re.DOTALL)
_REQUEST = re.compile(r"performing ([A-Z]+) (\w+://[^/\s?]+)\S* in ")
_STATUS = re.compile(r"status code: ([0-9]{3}[^:\n]*)")
_RETRIES = re.compile(r"after ([0-9]+) retries")
_CODE = re.compile(r"<Code>(.*?)</Code>|\"(?:code|reason)\": *\"?(\w+)")
_MESSAGE = re.compile(r"<Message>(.*?)</Message>|\"message\": *\"(.*?)\"", re.DOTALL)
_KIND = re.compile(r"kind: (Connect|Timeout|Interrupted)\b")
_CAUSE = re.compile(r"\"((?:dns|tcp connect|tls)[^\"]*)\"")
_METADATA_SERVERS = ("169.254.169.254", "metadata.google.internal")
"""Where a machine of a cloud has its credentials from, which is asked when nobody gave any."""
_NO_CREDENTIALS = (
    "; no credentials were given, so this machine was asked for its own (docs/format.md has the variables)"
)
_CUT_OFF = "response body error"
_NO_BUCKET = ("NoSuchBucket", "ContainerNotFound", "bucket does not exist", "no such bucket")
_KINDS = {"Connect": "no connection", "Timeout": "no answer in time", "Interrupted": "cut off"}
_LONGEST = 200


@contextmanager
def one_line_errors(where: str) -> Iterator[None]:
    """Lets obstore's errors out as one line that begins with ``where``, the address of the object.

    Conditions that do not hold (``AlreadyExistsError``, ``PreconditionError``) stay as they are.

    Raises:
        FileNotFoundError: there is no such object.
        StoreError: anything else, a bucket that is not there included.
    """
    try:
        yield
    except FileNotFoundError as error:
        if any(words in str(error) for words in _NO_BUCKET):
            raise _store_error(where, error) from None
        raise FileNotFoundError(f"{where}: there is no such object") from None
    except (AlreadyExistsError, PreconditionError):
        raise
    except BaseError as error:
        raise _store_error(where, error) from None


def describe_answer(error: BaseException) -> str:
    """An error of obstore in one line.

    >>> describe_answer(ValueError("Error performing GET http://h/b/k?sig=x in 2ms, after 6 retries, max_retries: 6 - "
    ...     "Server returned non-2xx status code: 503 Busy: <Error><Code>SlowDown</Code></Error>"))
    'GET at http://h: 503 Busy: SlowDown, 7 tries'
    """
    whole = str(error)
    text = _DUMP.sub("", whole).strip()
    if is_cut_off(error):
        return f"the answer was cut off, {1 + RETRIES} tries"
    if not (request := _REQUEST.search(text)):
        return _shorten(text)
    retries = _RETRIES.search(text)
    tries = int(retries[1]) + 1 if retries else 1
    if status := _STATUS.search(text):
        body = text[status.end() :]
        parts = [status[1].strip(), _first(_CODE.search(body)), _first(_MESSAGE.search(body))]
        answer = ": ".join(part for part in parts if part)
    else:
        kind, cause = _KIND.search(whole), _CAUSE.search(whole)
        answer = _KINDS[kind[1]] if kind else text.rpartition(" - ")[2]
        answer += f" ({cause[1]})" if cause else ""
    hint = _NO_CREDENTIALS if request[2].endswith(_METADATA_SERVERS) else ""
    return f"{request[1]} at {request[2]}: {_shorten(answer)}, {tries} {'try' if tries == 1 else 'tries'}{hint}"


def is_cut_off(error: BaseException) -> bool:
    """Whether the answer began well and broke off; obstore asks again for all but listings."""
    return _CUT_OFF in str(error)


def _store_error(where: str, error: BaseException) -> StoreError:
    named = StoreError(f"{where}: {describe_answer(error)}")
    status = _STATUS.search(str(error))
    named.status = int(status[1][:3]) if status else 0
    return named


def _first(found: re.Match[str] | None) -> str:
    return next((group for group in found.groups() if group), "") if found else ""


def _shorten(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= _LONGEST else f"{line[:_LONGEST]}..."
