"""From a list of prompts to shards: which are asked for, which are done, and what is left, in tars of their own.

A source grows: prompts that it has already stay as they are, whether a list names them or not, and new ones come in new
tars.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass
from itertools import count

from noisebank.errors import ConfigError
from noisebank.format.receipts import Failure, Receipt, find_receipt, list_receipts
from noisebank.ids import safe, xxh64
from noisebank.prompts import image_address, read_prompts
from noisebank.storage import Store
from noisebank.synthesis.entry import Prompt
from noisebank.synthesis.job import prompt_key
from noisebank.synthesis.options import STAGE


def list_prompts(path: str) -> tuple[list[Prompt], int]:
    """The prompts of a list, in its order, each once; and how many rows say again what one before them does.

    A row that cannot be used (no prompt, an id that is another prompt's) is among them, as such and under another id.

    Args:
        path: as for :func:`noisebank.prompts.read_prompts`; a relative image is one beside the list.

    Raises:
        ConfigError: as there.
    """
    prompts: dict[str, Prompt] = {}
    duplicates = 0
    for row in read_prompts(path, also=["image"]).to_pylist():
        prompt = Prompt(safe(row["id"].strip()), row["prompt"].strip(), image_address(path, row["image"]))
        if row["invalid"]:
            prompt = refused(prompt, row["invalid"], prompts)
        first = prompts.setdefault(prompt.id, prompt)
        if first == prompt:
            duplicates += first is not prompt
        else:
            prompt = refused(prompt, f"id_taken: id {prompt.id!r} is that of {first.text!r:.80} too", prompts)
            prompts[prompt.id] = prompt
    return list(prompts.values()), duplicates


def refused(prompt: Prompt, reason: str, known: Container[str] = ()) -> Prompt:
    """A prompt that cannot be used, and why (``"code: message"``), under an id that is not in ``known``."""
    stem = f"invalid-{xxh64(f'{prompt.id} {prompt.text} {reason}'):016x}"
    ids = (f"{stem}-{number}" if number else stem for number in count())
    return dataclasses.replace(prompt, id=next(id for id in ids if id not in known), invalid=reason)


@dataclass(frozen=True)
class Finished:
    """What a source has.

    Args:
        keys: by id, what was asked for (:func:`.job.prompt_key`), of all prompts that were tried.
        failures: by id, of those that got no clip.
        fingerprints: of the options that anything was made with.
    """

    keys: Mapping[str, str]
    failures: Mapping[str, Failure]
    fingerprints: frozenset[str]


def read_finished(store: Store) -> Finished:
    """What is finished in a source, by its receipts; of several tries of a prompt the last counts."""
    keys: dict[str, str] = {}
    failures: dict[str, Failure] = {}
    fingerprints = set()
    for receipt in _receipts(store):
        fingerprints.add(receipt.fingerprint)
        failed = {failure.id: failure for failure in receipt.failures}
        for id, key in receipt.info["keys"].items():
            before = failures.get(id)
            if id not in keys or (before and (id not in failed or failed[id].attempts > before.attempts)):
                keys[id] = key
                failures.pop(id, None)
                if id in failed:
                    failures[id] = failed[id]
    return Finished(keys, failures, frozenset(fingerprints))


def _receipts(store: Store) -> Iterable[Receipt]:
    found = (find_receipt(store, STAGE, inputs, verify=True) for inputs in list_receipts(store, STAGE))
    return (receipt for receipt in found if receipt is not None)


def cut_shards(
    prompts: Iterable[Prompt], finished: Finished, fingerprint: str, maxcount: int, retry: Iterable[str] = ()
) -> list[tuple[Prompt, ...]]:
    """Shards of the prompts that are not in the source, ``maxcount`` in each but the last: new ones, then those that
    failed and are asked for in other words now, or whose failure is to be tried again.

    A job that goes on cuts what is left as it did before.

    Args:
        prompts: of a list.
        finished: what the source has.
        fingerprint: of the options now.
        maxcount: most prompts in a shard.
        retry: codes of failures to try again, or ``all``.

    Raises:
        ConfigError: the source was made with other options.
    """
    if others := finished.fingerprints - {fingerprint}:
        raise ConfigError(
            f"out: its clips were made with other options or models (fingerprint {min(others)}, now {fingerprint}); "
            "give another out, which may be a second source of the same bank"
        )
    codes = set(retry)
    new: list[Prompt] = []
    again: list[Prompt] = []
    for prompt in prompts:
        key, failure = finished.keys.get(prompt.id), finished.failures.get(prompt.id)
        if failure and (key != prompt_key(prompt) or codes & {failure.code, "all"}):
            again.append(dataclasses.replace(prompt, attempt=failure.attempts + 1))
        elif key is None:
            new.append(prompt)
    return [tuple(left[i : i + maxcount]) for left in (new, again) for i in range(0, len(left), maxcount)]


def without_taken(prompts: Iterable[Prompt], finished: Finished) -> list[Prompt]:
    """The prompts, those refused whose id is that of another prompt's clip in the source."""
    checked = []
    for prompt in prompts:
        key = finished.keys.get(prompt.id)
        if key not in (None, prompt_key(prompt)) and prompt.id not in finished.failures:
            prompt = refused(prompt, f"id_taken: the source has a clip of another prompt with id {prompt.id!r}")
        checked.append(prompt)
    return checked


def count_failures(prompts: Iterable[Prompt], finished: Finished) -> Counter[str]:
    """By code, how many of the prompts have no clip."""
    return Counter(finished.failures[prompt.id].code for prompt in prompts if prompt.id in finished.failures)
