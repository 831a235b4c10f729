"""One shard of synthetic clips: prompts in; a webdataset tar and a contact sheet out.

A prompt takes minutes on a GPU, so each one that is done is kept in a folder of work until its shard is: a job that was
killed goes on behind it, however its list is cut by then. The folder says what is done and what is going on, too, which
is what progress shows.
"""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from noisebank.errors import BankDamaged, RowFailure
from noisebank.format.receipts import Failure, find_receipt, inputs_hash, receipt_path
from noisebank.format.sealed import seal, unseal
from noisebank.format.shards import ShardSample, write_shard
from noisebank.ids import clip_number
from noisebank.stages.job import Made, ShardJob, failure_of
from noisebank.storage import BankWriter, Store
from noisebank.synthesis.entry import Entry, Models, Prompt, make_entry
from noisebank.synthesis.options import STAGE, SynthesisOptions
from noisebank.synthesis.sheet import ContactSheet, draw_text_row

WORK = "work"
"""Folder of what is done of unfinished shards."""
_NOW, _PROMPTS = "now", "prompts"


@dataclass(frozen=True)
class SynthesisShard:
    """One tar to make.

    Args:
        prompts: in the order of the tar.
        options: of the job.
        fingerprint: of the options and models.
        digests: of the models.
        load: gives the loaded models; called only when there is something to do.
    """

    prompts: tuple[Prompt, ...]
    options: SynthesisOptions
    fingerprint: str
    digests: Mapping[str, str]
    load: Callable[[], Models]

    @property
    def job(self) -> ShardJob:
        """What makes it at most once."""
        inputs = shard_inputs(self.fingerprint, self.prompts)
        return ShardJob(STAGE, self.fingerprint, inputs, len(self.prompts), self.make)

    def make(self, writer: BankWriter) -> Made:
        """The tar, none if every prompt failed. Beside it lies its contact sheet, which may be removed: ``info`` names
        it, and has the prompts' keys by id."""
        contacts = ContactSheet()
        failures: list[Failure] = []
        with tempfile.TemporaryDirectory(prefix="noisebank-synthesis-") as scratch:
            tar, sheet = Path(scratch, "clips.tar"), Path(scratch, "sheet.png")
            good = write_shard(tar, self._samples(writer.store, contacts, failures))
            info: dict[str, Any] = {"keys": {prompt.id: prompt_key(prompt) for prompt in self.prompts}}
            if not good:
                return Made((), 0, tuple(failures), info)
            sheet.write_bytes(contacts.to_png())
            clips, shown = writer.group([(tar, ".tar", good), (sheet, ".png", good)], STAGE)
        return Made((clips,), good, tuple(failures), info | {"tar": clips.path, "sheet": shown.path})

    def _samples(self, store: Store, contacts: ContactSheet, failures: list[Failure]) -> Iterator[ShardSample]:
        """The tar's samples as they are made; every prompt is added to the contact sheet."""
        for prompt in self.prompts:
            try:
                entry = self._entry(store, prompt)
            except RowFailure as failure:
                failures.append(failure_of(_row_of(prompt), STAGE, failure))
                contacts.add(draw_text_row(f"{prompt.id}: {prompt.text}  {failure}"))
                continue
            contacts.add(entry.row)
            yield ShardSample(prompt.id, entry.mp4, prompt.text, dict(entry.info))

    def _entry(self, store: Store, prompt: Prompt) -> Entry:
        """The entry of a prompt, made or kept from before; raises its failure."""
        kept = KeptWork(store, self.fingerprint)
        entry = kept.read(prompt)
        if entry is None:
            folder = ShardFolder(store, shard_inputs(self.fingerprint, self.prompts))
            try:
                prompt.check()
                entry = make_entry(prompt, self.options, self.load(), self.digests, folder.announce)
            except RowFailure as failure:
                kept.write(prompt, failure)
                raise
            kept.write(prompt, entry)
        if isinstance(entry, RowFailure):
            raise entry
        return entry


@dataclass(frozen=True)
class ShardFolder:
    """What an unfinished shard is to have, and what is going on in it.

    Args:
        store: of the source.
        inputs: hash of those of the shard.
    """

    store: Store
    inputs: str

    @property
    def path(self) -> str:
        """Where it is."""
        return f"{WORK}/{self.inputs}"

    def plan(self, prompts: tuple[Prompt, ...]) -> None:
        """Writes down which prompts the shard has."""
        self.store.put(f"{self.path}/{_PROMPTS}", seal({"prompts": [vars(prompt) for prompt in prompts]}))

    def prompts(self) -> tuple[Prompt, ...]:
        """The prompts of the shard.

        Raises:
            BankDamaged: their file is damaged.
        """
        name = f"{self.path}/{_PROMPTS}"
        return tuple(Prompt(**prompt) for prompt in unseal(self.store.read(name), name)["prompts"])

    def announce(self, stage: str) -> None:
        """Says what is going on."""
        self.store.put(f"{self.path}/{_NOW}", stage.encode())

    def clear(self) -> None:
        """Removes it."""
        for name in (_NOW, _PROMPTS):
            self.store.delete(f"{self.path}/{name}")


@dataclass(frozen=True)
class KeptWork:
    """What came of prompts whose shard is not finished, whatever shard that was when they were done.

    Args:
        store: of the source.
        fingerprint: of the options and models.
    """

    store: Store
    fingerprint: str

    def write(self, prompt: Prompt, outcome: Entry | RowFailure) -> None:
        """Keeps what came of a prompt; its document comes last, so that it stands for all of it."""
        mp4, row, document = self.keys(prompt)
        if isinstance(outcome, RowFailure):
            self.store.put(document, seal({"failure": vars(outcome)}))
            return
        self.store.put(mp4, outcome.mp4)
        self.store.put(row, outcome.row)
        digest = hashlib.sha256(outcome.row).hexdigest()
        self.store.put(document, seal({"info": dict(outcome.info), "row_sha256": digest}))

    def read(self, prompt: Prompt) -> Entry | RowFailure | None:
        """What is kept of a prompt; None where there is nothing, or something damaged."""
        *data, name = self.keys(prompt)
        try:
            document = unseal(self.store.read(name), name)
            if "failure" in document:
                return RowFailure(**document["failure"])
            mp4, row = map(self.store.read, data)
        except (FileNotFoundError, BankDamaged):
            return None
        info = document["info"]
        found = hashlib.sha256(mp4).hexdigest(), hashlib.sha256(row).hexdigest()
        return Entry(mp4, info, row) if found == (info["sha256"], document["row_sha256"]) else None

    def clear(self, prompt: Prompt) -> None:
        """Removes what is kept of a prompt, its document first."""
        for key in reversed(self.keys(prompt)):
            self.store.delete(key)

    def keys(self, prompt: Prompt) -> tuple[str, str, str]:
        """The files of a prompt: the clip, its row of the contact sheet, and the document."""
        stem = f"{WORK}/{self.fingerprint}/{prompt.id}-{prompt_key(prompt)}-{prompt.attempt}"
        return f"{stem}.mp4", f"{stem}.png", f"{stem}.json"


def look_at_work(store: Store, shards: Mapping[str, Sequence[str]]) -> tuple[int, list[str]]:
    """How many prompts of the shards are done, and what is going on in those that are being made.

    Args:
        store: of the source.
        shards: the documents of the prompts of each (the last of :meth:`KeptWork.keys`), by its inputs hash.
    """
    finished, kept = ({file.key for file in store.scan(folder)} for folder in (STAGE, WORK))
    done, going_on = 0, []
    for inputs, documents in shards.items():
        if receipt_path(STAGE, inputs) in finished:
            done += len(documents)
            continue
        done += sum(document in kept for document in documents)
        if (now := f"{WORK}/{inputs}/{_NOW}") in kept:
            going_on.append(store.read(now).decode())
    return done, going_on


def clear_work(store: Store, fingerprint: str, prompts: Iterable[Prompt]) -> None:
    """Removes the work of shards of these prompts that have their receipt; what is not finished stays, and so does what
    other jobs are making.

    Args:
        store: of the source.
        fingerprint: of the options and models.
        prompts: of the job's list.
    """
    ids, kept = {prompt.id for prompt in prompts}, KeptWork(store, fingerprint)
    planned = [key.split("/")[1] for key in store.list(WORK) if key.endswith(f"/{_PROMPTS}")]
    for inputs in planned:
        folder = ShardFolder(store, inputs)
        with suppress(FileNotFoundError, BankDamaged):
            shard = folder.prompts()
            if ids.issuperset(prompt.id for prompt in shard) and find_receipt(store, STAGE, inputs, verify=True):
                for prompt in shard:
                    kept.clear(prompt)
                folder.clear()


def prompt_key(prompt: Prompt) -> str:
    """What is asked for under an id, in short: 16 hexadecimal digits of prompt, given anchor and validity."""
    return inputs_hash("", pa.array([prompt.text, prompt.image, prompt.invalid]))[:16]


def shard_inputs(fingerprint: str, prompts: tuple[Prompt, ...]) -> str:
    """The inputs hash of a shard: ids, prompts, given anchors, and each one's attempt."""
    texts = [[getattr(prompt, name) for prompt in prompts] for name in ("id", "text", "image", "invalid")]
    attempts = pa.array([prompt.attempt for prompt in prompts], pa.int16())
    return inputs_hash(fingerprint, *(pa.array(column, pa.string()) for column in texts), attempts)


def _row_of(prompt: Prompt) -> dict[str, Any]:
    return {"num": clip_number(prompt.id), "id": prompt.id, "source": "", "uri": "", "attempt": prompt.attempt}
