"""A bank that lives, against a plain dictionary: whatever happens to it, search, noise, failures and counts agree.

Every step changes the lists, the videos or the options and builds; or kills a build, a vacuum or a compaction between
any two writes and starts it again; then everything that the bank says is compared with :class:`Model`.
Run more of it with ``NOISEBANK_LIVES=100 pytest tests/e2e/test_state_machine.py`` (lives; 8 by default).
"""

from __future__ import annotations

import functools
import math
import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from noisebank import NoiseBank
from noisebank.errors import ClipNotFound, SnapshotExpired
from noisebank.format.manifest import Snapshot, latest_snapshot
from noisebank.search.embed import Embedder, load_embedder
from noisebank.stages import captions as captions_stage
from noisebank.stages import noise as noise_stage
from noisebank.storage import open_store
from tests.support.faults import PowerCut, power_cut
from tests.support.minilm import MINILM
from tests.support.projects import CAPTIONS, Project, Row, noisebank
from tests.support.servers import VideoServer

SHORT = 8
LIVES = int(os.environ.get("NOISEBANK_LIVES", SHORT))
STEPS = 6
IDS = tuple(f"clip{i:02}" for i in range(6))
VIDEOS = tuple(f"v{i:02}.mp4" for i in range(4))
SETS = ("small", "second")
SIZES = (64, 80)
LOOSE = ("--max_failed", 1, "--max_removed", 1, "--max_changed", 1)
OK = "ok"
RETRYABLE, PERMANENT, INVALID = "http_500", "missing_file", "empty_caption"
Clip = tuple[str, int]
"""Uri and size that a clip was made from."""


@dataclass(frozen=True)
class Change:
    """What happens before a build.

    Args:
        rows: new content of some rows by id, ``(video, whether it is served, caption)``; None: not listed any more.
        gone: videos that are not there as files now.
        outage: whether the server answers 500 now.
        size: of the clips from now on.
        second: whether a second noise set is configured from now on.
        repeated: whether the first row is listed twice.
        retry: whether every failure is tried again, permanent ones too.
    """

    rows: dict[str, tuple[str, bool, str] | None]
    gone: frozenset[str]
    outage: bool
    size: int
    second: bool
    repeated: bool
    retry: bool


@dataclass(frozen=True)
class Known:
    """What the bank should know of a row.

    Args:
        listing: how it was listed last.
        clip, caption: what is held.
        sets: noise sets with a record of the clip.
        code, attempts: why making the clip as listed failed, and how often.
    """

    listing: Row
    clip: Clip | None = None
    caption: str | None = None
    sets: frozenset[str] = frozenset()
    code: str = ""
    attempts: int = 0


class Tried(NamedTuple):
    """A row whose clip a build has to make, and what may come of it."""

    id: str
    clip: Clip
    allowed: frozenset[str]


@dataclass
class Model:
    """The dictionary: what the bank should say.

    Where an interrupted build may or may not have finished a shard while its videos were otherwise, several outcomes
    are right; they are kept here, and the bank's own answer decides.
    """

    rows: dict[str, Known] = field(default_factory=dict)
    invalid: frozenset[str] = frozenset()
    size: int = SIZES[0]
    sets: tuple[str, ...] = SETS[:1]
    made: set[tuple[str, Clip]] = field(default_factory=set)
    given_up: set[tuple[str, Clip]] = field(default_factory=set)
    interrupted: dict[tuple[str, Clip], set[str]] = field(default_factory=dict)

    def tried(self, listed: dict[str, Row], size: int, world: Callable[[str], str], retry: bool) -> list[Tried]:
        """The rows whose clip a build of ``listed`` must make."""
        found = []
        for id, row in listed.items():
            known, clip = self.rows.get(id), (row.uri, size)
            if not row.caption or (known and known.clip == clip):
                continue
            on_record = known is not None and known.listing == row and known.code and size == self.size
            if on_record and not retry and (known.code == PERMANENT or known.attempts > 1):
                continue  # (the second pause is an hour)
            allowed = {world(row.uri), *self.interrupted.get((id, clip), ())}
            if (id, clip) in self.made:
                allowed.add(OK)
            if (id, clip) in self.given_up and not on_record:
                allowed.add(PERMANENT)
            found.append(Tried(id, clip, frozenset(allowed)))
        return found

    def interrupt(self, tried: Sequence[Tried]) -> None:
        """A build was killed: of what it tried, any part may be finished."""
        for id, clip, allowed in tried:
            self.interrupted.setdefault((id, clip), set()).update(allowed)
            self._remember(id, clip, allowed)

    def build(self, listed: dict[str, Row], size: int, sets: tuple[str, ...], outcomes: dict[str, str]) -> None:
        """A build has been published; ``outcomes`` of what it tried."""
        before, self.rows = self.rows, {}
        for id, row in listed.items():
            known = before.get(id)
            if row.caption:
                self.rows[id] = _built(known or Known(row), row, size, frozenset(sets), outcomes.get(id, ""))
                if id in outcomes:
                    self._remember(id, (row.uri, size), {outcomes[id]})
            elif known and (known.clip is None or known.clip[1] == size):
                self.rows[id] = known
        self.invalid = frozenset(id for id, row in listed.items() if not row.caption)
        self.size, self.sets, self.interrupted = size, sets, {}

    def _remember(self, id: str, clip: Clip, outcomes: set[str] | frozenset[str]) -> None:
        if OK in outcomes:
            self.made.add((id, clip))
        if PERMANENT in outcomes:
            self.given_up.add((id, clip))

    @property
    def complete(self) -> dict[str, Known]:
        """The rows that are in the bank."""
        return {id: known for id, known in self.rows.items() if known.sets >= {*self.sets}}

    @property
    def captions(self) -> dict[str, str]:
        """What search finds."""
        return {id: known.caption for id, known in self.rows.items() if known.caption}

    @property
    def failures(self) -> dict[tuple[str, str], str]:
        """Code by id and stage."""
        failures = {(id, "clips"): known.code for id, known in self.rows.items() if known.code}
        return failures | {(id, "plan"): INVALID for id in self.invalid}


def _built(known: Known, row: Row, size: int, sets: frozenset[str], outcome: str) -> Known:
    """What becomes of a listed row in a build; ``outcome`` of making its clip, empty where nothing was to be made.

    A row whose new clip cannot be made keeps the old one with the records that it has, unless other options took that
    away, and its caption with it. A new set gets its record in the next build, when it is clear which clip stays.
    """
    if outcome == OK or known.clip == (row.uri, size):
        return Known(row, (row.uri, size), row.caption, sets)
    if known.clip is None or known.clip[1] != size:
        known = replace(known, clip=None, caption=None, sets=frozenset())
    elif not outcome:
        known = replace(known, sets=sets)
    return replace(known, listing=row, code=outcome or known.code)


@dataclass(frozen=True)
class World:
    """What all lives share: a model, videos, a server, and the noise of every video at every size in every set."""

    model: Path
    videos: Path
    server: VideoServer
    embedder: Embedder
    noise: dict[tuple[str, int, str], torch.Tensor]


def noise_sets(model: Path) -> list[dict[str, Any]]:
    """Two noise sets, of two steps and of one; in batches of one, so that noise is a function of the clip alone."""
    options = {"model": str(model), "inverter": "ddim", "measured": 0, "batch_size": 1}
    return [{"name": name, "num_inference_steps": 2 - i, **options} for i, name in enumerate(SETS)]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, small_model: Path, videos: Path) -> Iterator[World]:
    """The models are loaded once for all builds."""
    embedder = load_embedder(MINILM)
    with pytest.MonkeyPatch.context() as patch, VideoServer(videos) as server:
        patch.setattr(captions_stage, "load_embedder", lambda model, digest: embedder)
        patch.setattr(noise_stage, "load_for_inversion", functools.cache(noise_stage.load_for_inversion))
        project = Project(tmp_path_factory.mktemp("reference") / "project", small_model, videos)
        project.write_list([Row(video[:3], f"videos/{video}", video) for video in VIDEOS])
        noise = {}
        for size in SIZES:
            project.configure(
                clips={**project.config["clips"], "size": size}, noise=noise_sets(small_model), max_redone=1
            )
            project.build()
            for name in SETS:
                bank = NoiseBank.open(project.bank, noise_set=name)
                for video in VIDEOS:
                    noise[video, size, name] = bank.inverted(f"mine-{video[:3]}").noise
        distinct = {tuple(tensor.flatten().tolist()) for tensor in noise.values()}
        assert len(distinct) == len(noise)
        yield World(small_model, videos, server, embedder, noise)


CHANGES = st.builds(
    Change,
    rows=st.dictionaries(
        st.sampled_from(IDS),
        st.one_of(
            st.none(),
            st.tuples(st.sampled_from(VIDEOS), st.booleans(), st.sampled_from(["", *CAPTIONS])),
            st.tuples(st.sampled_from(VIDEOS), st.booleans(), st.sampled_from(CAPTIONS)),
        ),
        max_size=4,
    ),
    gone=st.frozensets(st.sampled_from(VIDEOS), max_size=2),
    outage=st.booleans(),
    size=st.sampled_from([SIZES[0], SIZES[0], SIZES[0], SIZES[1]]),
    second=st.booleans(),
    repeated=st.booleans(),
    retry=st.booleans(),
)
MOMENTS = st.integers(0, 40)
"""After so many writes a job is killed; a build of this size has 15 to 35."""


class Life(RuleBasedStateMachine):
    """A bank and its model."""

    world: World

    def __init__(self) -> None:
        super().__init__()
        self._folder = tempfile.TemporaryDirectory(prefix="noisebank-life-")
        folder = Path(self._folder.name)
        self.files = folder / "files"
        self.files.mkdir()
        self.project = Project(folder / "project", self.world.model, self.files)
        self.bank, self.store = self.project.bank, open_store(self.project.bank)
        self.listed = {id: Row(id, f"videos/{VIDEOS[i]}", CAPTIONS[i]) for i, id in enumerate(IDS[:3])}
        self.size, self.sets, self.repeated = SIZES[0], SETS[:1], False
        self.model, self.pinned = Model(), None
        self.retry = False
        self._change(Change({}, frozenset(), False, self.size, False, False, False))
        self._build()

    def teardown(self) -> None:
        self.pinned = None
        self._folder.cleanup()

    @rule(change=CHANGES)
    def update(self, change: Change) -> None:
        """Something changes, and a build brings the bank up to date."""
        self._change(change)
        self._build()

    @rule(change=CHANGES, moment=MOMENTS, meanwhile=st.one_of(st.none(), CHANGES))
    def killed(self, change: Change, moment: int, meanwhile: Change | None) -> None:
        """A build is killed; perhaps something changes again; the next build goes on."""
        self._change(change)
        tried = self._tried()
        ran = None
        with power_cut(moment), suppress(PowerCut):  # (which gets out where the command itself tidies up)
            ran = self._run_build()
        if self._has_moved() or (ran is not None and ran.exit_code == 0):
            self._publish(tried)
        else:
            self.model.interrupt(tried)
        self._check()
        if meanwhile is not None:
            self._change(meanwhile)
        self._build()

    @rule()
    def nothing(self) -> None:
        """A build with nothing to do commits nothing."""
        if not self._tried() and not self.retry:
            assert self._build()["committed"] is False

    @rule(keep=st.integers(1, 2), killed=st.one_of(st.none(), MOMENTS))
    def vacuum(self, keep: int, killed: int | None) -> None:
        """What no kept snapshot needs goes, never the one that was newest; who was killed is finished by the next."""
        newest = self._snapshot()
        self._maintain(killed, "vacuum", self.bank, "--keep", keep)
        assert newest is None or noisebank("verify", self.bank, "--snapshot", newest.number).exit_code == 0
        committed = self._snapshot()
        self._maintain(None, "vacuum", self.bank, "--keep", keep)
        assert self._snapshot() == committed, "a second vacuum has nothing to do"

    @rule(purge=st.booleans(), killed=st.one_of(st.none(), MOMENTS))
    def compact(self, purge: bool, killed: int | None) -> None:
        """Small shards are merged; nothing is lost."""
        self._maintain(killed, "compact", self.bank, *(["--purge"] if purge else []))

    @rule()
    def reopen(self) -> None:
        """A reader is pinned to this snapshot, and asked again after every later step."""
        if self._snapshot() and self.model.captions:
            bank = NoiseBank.open(self.bank, noise_set=SETS[0], embedder=self.world.embedder)
            self.pinned = bank, self.model.captions, self._noise(SETS[0])

    @invariant()
    def a_pinned_reader_answers_from_its_snapshot(self) -> None:
        if self.pinned is None:
            return
        bank, captions, noise = self.pinned
        try:
            assert {hit.id: hit.caption for hit in bank.search("a dog", k=20)} == _named(captions)
            for id, wanted in noise.items():
                assert torch.equal(bank.inverted(f"mine-{id}").noise, wanted)
        except SnapshotExpired:
            assert bank.snapshot not in self._readable()
            self.pinned = None

    def _maintain(self, killed: int | None, *words: object) -> None:
        if self._snapshot() is None:
            return
        if killed is not None:
            with power_cut(killed):
                try:
                    noisebank(*words)
                except Exception as error:  # noqa: BLE001 (whatever a process does when it is killed)
                    assert "nothing more is written" in str(error)
            self._check()
        ran = noisebank(*words)
        assert ran.exit_code == 0, ran.stderr
        self._check()

    def _change(self, change: Change) -> None:
        """Brings the list, the videos and the configuration to what they are now."""
        for id, row in change.rows.items():
            self.listed.pop(id, None)
            if row is not None:
                video, served, caption = row
                address = f"{self.world.server.url}/broken" if served else "videos"
                self.listed[id] = Row(id, f"{address}/{video}", caption)
        for video in VIDEOS:
            path = self.files / video
            path.unlink(missing_ok=True)
            if video not in change.gone:
                path.symlink_to(self.world.videos / video)
        self.world.server.healthy = not change.outage
        self.size, self.retry = change.size, change.retry
        self.sets = SETS if change.second or self.sets == SETS else SETS[:1]
        self.repeated = change.repeated
        sets = noise_sets(self.world.model)[: len(self.sets)]
        fetch = {"allow_private_hosts": True, "timeout": 5, "retries": 0}
        self.project.configure(
            clips={**self.project.config["clips"], "size": self.size, "maxcount": 2},
            noise=sets,
            fetch=fetch,
            max_redone=1,
        )
        self.project.write_list(self._list())

    def _list(self) -> list[Row]:
        """The list as it is written."""
        rows = list(self.listed.values())
        valid = [row for row in rows if row.caption]
        return [*rows, *valid[: int(self.repeated)]]

    def _outcome(self, uri: str) -> str:
        """What comes of fetching a video now."""
        if "/broken/" in uri:
            return OK if self.world.server.healthy else RETRYABLE
        return OK if (self.files / Path(uri).name).exists() else PERMANENT

    def _tried(self) -> list[Tried]:
        return self.model.tried(self.listed, self.size, self._outcome, self.retry)

    def _run_build(self) -> Any:
        self._before = self._snapshot()
        retry = ["--retry_failures", "all"] if self.retry else []
        return self.project.run("build", *LOOSE, *retry)

    def _build(self) -> dict[str, Any]:
        tried, known, before = self._tried(), dict(self.model.rows), self._state()
        ran = self._run_build()
        assert ran.exit_code == 0, ran.stderr
        self._publish(tried)
        rows = ran.document["rows"]
        valid = {id: row for id, row in self.listed.items() if row.caption}
        wanted = {
            "read": len(self._list()),
            "new": len(valid.keys() - known.keys()),
            "changed": sum(known[id].listing != row for id, row in valid.items() if id in known),
            "unchanged": sum(known[id].listing == row for id, row in valid.items() if id in known),
            "removed": len(known.keys() - self.model.rows.keys()),
            "duplicate": len(self._list()) - len(self.listed),
            "invalid": len(self.listed) - len(valid),
            "failed": sum(self.model.rows[row.id].code != "" for row in tried),
            "in_bank": len(self.model.complete),
        }
        assert {name: rows[name] for name in wanted} == wanted
        assert ran.document["committed"] == (bool(tried) or self._state() != before)
        self._check()
        return ran.document

    def _publish(self, tried: list[Tried]) -> None:
        """Takes a published build into the model; the bank says which of the allowed outcomes came about."""
        failed = {(f["id"], f["stage"]): f for f in self._failures()}
        outcomes = {}
        for row in tried:
            failure = failed.get((f"mine-{row.id}", "clips"))
            outcomes[row.id] = failure["code"] if failure else OK
            assert outcomes[row.id] in row.allowed, row
        self.model.build(self.listed, self.size, self.sets, outcomes)
        for row in tried:
            if (failure := failed.get((f"mine-{row.id}", "clips"))) is not None:
                self.model.rows[row.id] = replace(self.model.rows[row.id], attempts=failure["attempts"])

    def _check(self) -> None:
        """Everything that the bank says."""
        if self._snapshot() is None:
            assert not self.model.rows and not self.model.invalid
            return
        report = self.project.look("verify")
        assert report["ok"], report["damaged"]
        failures = {(f["id"], f["stage"]): f["code"] for f in self._failures()}
        assert failures == {(f"mine-{id}", stage): code for (id, stage), code in self.model.failures.items()}
        assert self.project.look("show")["rows"] == len(self.model.complete)
        captions = _named(self.model.captions)
        for name in self.model.sets if self.model.captions else ():
            bank = NoiseBank.open(self.bank, noise_set=name, embedder=self.world.embedder)
            noise = self._noise(name)
            for id in IDS:
                if id in noise:
                    assert torch.equal(bank.inverted(f"mine-{id}").noise, noise[id]), id
                else:
                    with pytest.raises(ClipNotFound):
                        bank.inverted(f"mine-{id}")
            assert {hit.id: hit.caption for hit in bank.search("a dog", k=20)} == captions
            for id in noise:
                caption = self.model.captions[id]
                found = bank.noise(caption, eta=math.inf)[0]
                same = [noise[other] for other in noise if self.model.captions[other] == caption]
                assert any(torch.equal(found, wanted) for wanted in same), caption
                assert bank.search(caption, k=1)[0].caption == caption

    def _noise(self, name: str) -> dict[str, torch.Tensor]:
        """The noise of every row that has a record in a set."""
        return {
            id: self.world.noise[Path(known.clip[0]).name, known.clip[1], name]
            for id, known in self.model.rows.items()
            if name in known.sets
        }

    def _state(self) -> tuple[Any, ...]:
        return dict(self.model.rows), self.model.invalid, self.model.size, self.model.sets

    def _snapshot(self) -> Snapshot | None:
        return latest_snapshot(self.store) if self.bank.exists() else None

    def _has_moved(self) -> bool:
        """Whether the build that was just run, or killed, has published."""
        after = self._snapshot()
        return after is not None and (self._before is None or after.number > self._before.number)

    def _failures(self) -> list[dict[str, Any]]:
        return self.project.look("failures")["failures"] if self._snapshot() else []

    def _readable(self) -> set[int]:
        """Numbers of the snapshots that can be opened."""
        readable = set()
        for number in range(1, latest_snapshot(self.store).number + 1):
            if noisebank("show", self.bank, "--snapshot", number).exit_code == 0:
                readable.add(number)
        return readable


def _named(captions: dict[str, str]) -> dict[str, str]:
    """By the ids that the source gives."""
    return {f"mine-{id}": caption for id, caption in captions.items()}


@pytest.mark.timeout(0 if LIVES > SHORT else 900)
def test_the_bank_agrees_with_a_dictionary_whatever_happens_to_it(world: World) -> None:
    run_state_machine_as_test(
        type("OneLife", (Life,), {"world": world}),
        settings=settings(
            max_examples=LIVES,
            stateful_step_count=STEPS,
            deadline=None,
            derandomize=LIVES <= SHORT,
            phases=(Phase.explicit, Phase.generate),
            suppress_health_check=list(HealthCheck),
            print_blob=True,
        ),
    )
