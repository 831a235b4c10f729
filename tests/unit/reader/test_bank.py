"""The reader: nearest captions, noise bit for bit, one snapshot at a time, and never anything from a damaged file."""

from __future__ import annotations

import logging
import os
import pickle
import shutil
import subprocess
import sys
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier
from typing import Any

import accelerate
import diffusers
import pytest
import torch
from diffusers.utils.torch_utils import randn_tensor

import noisebank
from noisebank import (
    BankDamaged,
    BankNotFound,
    ClipNotFound,
    ConfigError,
    LowPass,
    NoiseBank,
    ShapeMismatch,
    SnapshotExpired,
    UnknownNoiseSet,
    mixed,
)
from noisebank.describe import snapshot_files
from noisebank.fixtures.small_models import make_small_model
from noisebank.format.manifest import expired_stub, read_snapshot
from noisebank.format.noise_file import NoiseShard, storage_roundtrip
from noisebank.models import from_pipeline, load_model
from noisebank.reader.frequencies import marginal_variance, mix_frequencies
from noisebank.reader.mixing import noise_digest
from noisebank.reader.pinned import PinnedSnapshot
from noisebank.reader.priors import iid
from noisebank.search.embed import Embedder, load_embedder
from noisebank.storage import Store, open_store
from tests.support import bank as bank_support
from tests.support.bank import DESCRIPTION, build
from tests.support.made_up import SHAPE, embedder, record_of
from tests.support.minilm import MINILM

CAPTIONS = {
    "mine-dog": "a dog runs on the beach",
    "mine-city": "cars drive through a city at night",
    "mine-cook": "a chef cuts onions in a kitchen",
    "yours-sky": "clouds move over a mountain",
    "yours-cat": "a cat sleeps on a sofa",
}
LAYOUTS = {
    "BCFHW": ((1, *SHAPE), lambda x: x),
    "BFCHW": ((1, SHAPE[1], SHAPE[0], *SHAPE[2:]), lambda x: x.transpose(1, 2)),
    "BSD": ((1, SHAPE[1] * SHAPE[2] * SHAPE[3], SHAPE[0]), lambda x: x.flatten(2).transpose(1, 2)),
}


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def stored(id: str, dtype: str = "float16") -> torch.Tensor:
    return storage_roundtrip(record_of(id), dtype)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return open_store(tmp_path / "bank")


@pytest.fixture
def bank(store: Store) -> NoiseBank:
    build(store, CAPTIONS)
    return NoiseBank.open(store.url)


def test_search_gives_the_nearest_captions_with_their_cosines(bank: NoiseBank) -> None:
    hits = bank.search("a puppy playing at the seaside", k=3)
    assert hits[0].id == "mine-dog"
    assert (hits[0].caption, hits[0].source) == ("a dog runs on the beach", "mine")
    vectors = embedder().embed(["a puppy playing at the seaside", hits[0].caption])
    assert hits[0].score == pytest.approx(float(vectors[0] @ vectors[1]), abs=1e-6)
    assert hits[0].score > hits[1].score > hits[2].score
    assert len(bank.search("anything", k=50)) == 5
    with pytest.raises(ValueError, match="k 0 is not allowed"):
        bank.search("anything", k=0)


@pytest.mark.parametrize("dtype", ["float16", "int8"])
def test_noise_is_equation_four_of_the_nearest_clips_record(store: Store, dtype: str) -> None:
    build(store, CAPTIONS, dtype=dtype)
    bank = NoiseBank.open(store.url)
    latents = bank.noise("a dog on the beach", eta=0.2, generator=seeded())
    assert latents.shape == (1, *SHAPE) and latents.dtype == torch.float32 and latents.is_contiguous()
    fresh = randn_tensor((1, *SHAPE), generator=seeded(), dtype=torch.float32)
    expected = (fresh + 0.2 * stored("mine-dog", dtype)) / (1 + 0.2**2) ** 0.5
    torch.testing.assert_close(latents, expected, rtol=0, atol=1e-6)
    exact = bank.noise("a dog on the beach", eta=float("inf"))
    assert torch.equal(exact[0], stored("mine-dog", dtype))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_eta_zero_is_diffusers_own_noise_bit_for_bit_in_every_layout(store: Store, layout: str) -> None:
    build(store, CAPTIONS, description={**DESCRIPTION, "layout": layout})
    bank = NoiseBank.open(store.url)
    shape, arrange = LAYOUTS[layout]
    drawn = (1, *SHAPE) if layout == "BSD" else shape
    fresh = randn_tensor(drawn, generator=seeded(3), dtype=torch.float32)
    latents = bank.noise("a dog", eta=0, generator=seeded(3))
    assert latents.shape == shape
    assert torch.equal(latents, arrange(fresh) if layout == "BSD" else fresh)
    record = bank.noise(id="yours-cat", eta=float("inf"))
    assert torch.equal(record, arrange(stored("yours-cat")[None]))
    torch.manual_seed(5)
    unseeded = bank.noise("a dog", eta=0)
    torch.manual_seed(5)
    expected = torch.randn(drawn)
    assert torch.equal(unseeded, arrange(expected) if layout == "BSD" else expected)


def test_a_list_of_prompts_gives_a_batch_with_one_generator_or_one_each(bank: NoiseBank) -> None:
    prompts = ["a dog at the sea", "a kitten on a couch", "a dog at the sea"]
    batch = bank.noise(prompts, eta=0.5, generator=seeded())
    fresh = randn_tensor((3, *SHAPE), generator=seeded(), dtype=torch.float32)
    records = torch.stack([stored("mine-dog"), stored("yours-cat"), stored("mine-dog")])
    torch.testing.assert_close(batch, (fresh + 0.5 * records) / 1.25**0.5, rtol=0, atol=1e-6)
    singles = bank.noise(prompts, eta=0.5, generator=[seeded(7), seeded(8), seeded(9)])
    for i, prompt in enumerate(prompts):
        assert torch.equal(singles[i : i + 1], bank.noise(prompt, eta=0.5, generator=seeded(7 + i)))
    with pytest.raises(ValueError, match="2 generators for a batch of 3"):
        bank.noise(prompts, generator=[seeded(), seeded()])


def test_a_list_of_prompts_costs_one_embedding_one_search_and_one_read_a_record(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    build(store, CAPTIONS)
    calls: list[str] = []

    def counting(called: Callable[..., Any]) -> Callable[..., Any]:
        return lambda *args: calls.append(called.__name__) or called(*args)

    for owner, name in ((Embedder, "embed"), (PinnedSnapshot, "nearest"), (NoiseShard, "record")):
        monkeypatch.setattr(owner, name, counting(getattr(owner, name)))
    bank = NoiseBank.open(store.url, embedder=embedder())
    prompts = ["a dog at the sea", "a kitten on a couch", "a dog at the beach", "a dog at the sea"]
    sample = bank.sample(prompts, eta=float("inf"))
    assert [hit.id for hit in sample.hits] == ["mine-dog", "yours-cat", "mine-dog", "mine-dog"]
    assert calls == ["embed", "nearest", "record", "record"]
    for latents, hit in zip(sample.latents, sample.hits, strict=True):
        assert torch.equal(latents, stored(hit.id))


def test_a_prompt_far_from_every_caption_gets_fresh_noise_and_says_so(
    bank: NoiseBank, caplog: pytest.LogCaptureFixture
) -> None:
    prompts = ["a dog runs on the beach", "quarterly tax regulation"]
    with caplog.at_level(logging.WARNING):
        sample = bank.sample(prompts, eta=0.5, generator=seeded(), min_similarity=0.6)
    assert sample.fresh == (False, True)
    fresh = randn_tensor((2, *SHAPE), generator=seeded(), dtype=torch.float32)
    assert torch.equal(sample.latents[1], fresh[1]) and not torch.equal(sample.latents[0], fresh[0])
    assert "below 0.6: fresh noise" in caplog.text
    assert sample.marginal_variance[1] == 1.0
    alone = bank.sample(prompts[1], eta=float("inf"), generator=seeded(), min_similarity=0.6)
    assert torch.equal(alone.latents, randn_tensor((1, *SHAPE), generator=seeded(), dtype=torch.float32))


def test_the_sample_reports_variance_and_a_digest_of_what_was_drawn(bank: NoiseBank) -> None:
    sample = bank.sample(id="mine-dog", eta=1.0, generator=seeded(), digest=True)
    variance = float(stored("mine-dog").var(correction=0))
    assert sample.marginal_variance == (pytest.approx((1 + variance) / 2),)
    again, other = (bank.sample(id="mine-city", generator=seeded(seed), digest=True) for seed in (0, 1))
    assert sample.drawn_digest == noise_digest(iid((1, *SHAPE), seeded())) == again.drawn_digest != other.drawn_digest
    assert bank.sample(id="mine-dog").drawn_digest == ""
    normalised = bank.sample(id="mine-dog", eta=float("inf"), normalize="channel")
    means = normalised.latents.mean(dim=(0, 2, 3, 4))
    torch.testing.assert_close(means, torch.zeros(4), rtol=0, atol=1e-6)
    assert normalised.marginal_variance == (pytest.approx(1.0, abs=1e-5),)
    assert normalised.drawn_digest == ""


def test_inputs_bring_the_size_that_goes_with_the_latents(bank: NoiseBank) -> None:
    inputs = bank.inputs("a dog", eta=0, generator=seeded())
    assert {key: inputs[key] for key in ("height", "width", "num_frames")} == {
        "height": 32,
        "width": 48,
        "num_frames": 2,
    }
    assert torch.equal(inputs["latents"], bank.noise("a dog", eta=0, generator=seeded()))
    replay = bank.inputs(id="yours-cat", eta=float("inf"))
    assert torch.equal(replay["latents"][0], stored("yours-cat"))


def test_inverted_gives_the_record_and_its_statistics(bank: NoiseBank) -> None:
    record = bank.inverted("mine-cook")
    assert torch.equal(record.noise, stored("mine-cook"))
    assert record.statistics["id"] == "mine-cook" and len(record.statistics["mean"]) == 4
    with pytest.raises(ClipNotFound, match="clip mine-nobody: not in snapshot 1"):
        bank.inverted("mine-nobody")


@pytest.mark.parametrize("layout", LAYOUTS)
def test_priors_and_low_passes_know_the_frames_in_every_layout(store: Store, layout: str) -> None:
    build(store, CAPTIONS, description={**DESCRIPTION, "layout": layout})
    bank = NoiseBank.open(store.url)
    prior, low_pass, (_, arrange) = mixed(3.0), LowPass("gaussian", 0.5, 0.5), LAYOUTS[layout]

    def canonical(latents: torch.Tensor) -> torch.Tensor:
        return from_pipeline(latents, layout, SHAPE)

    many = canonical(bank.noise(["a dog"] * 400, eta=0, generator=seeded(), prior=prior))
    measured = torch.corrcoef(many.transpose(0, 2).flatten(1))
    torch.testing.assert_close(measured, torch.tensor([[1, 0.9], [0.9, 1]]), rtol=0, atol=0.01)
    white = canonical(bank.noise("a dog", eta=0, generator=seeded()))
    fresh = prior.correlate(white, 2)
    torch.testing.assert_close(
        many[:1], prior.correlate(canonical(bank.noise(["a dog"] * 400, eta=0, generator=seeded()))[:1], 2)
    )
    latents = bank.noise("a dog", eta=0.5, generator=seeded(), prior=prior, lowpass=low_pass)
    assert latents.is_contiguous()
    record = stored("mine-dog")[None]
    expected = mix_frequencies(fresh, record, 0.5, low_pass)
    torch.testing.assert_close(latents, arrange(expected), rtol=0, atol=1e-6)
    inputs = bank.inputs("a dog", eta=0.5, generator=seeded(), prior=prior, lowpass=low_pass)
    assert torch.equal(inputs["latents"], latents)
    untouched = bank.noise("a dog", eta=0, generator=seeded(), lowpass="box")
    assert torch.equal(canonical(untouched), white)


def test_a_low_pass_draws_fresh_noise_and_reports_the_variance_of_its_mix(bank: NoiseBank) -> None:
    sample = bank.sample(
        ["a dog", "quarterly tax regulation"],
        eta=float("inf"),
        generator=seeded(),
        prior="mixed",
        lowpass="butterworth",
        min_similarity=0.3,
        digest=True,
    )
    assert sample.fresh == (False, True)
    white = randn_tensor((2, *SHAPE), generator=seeded(), dtype=torch.float32)
    fresh = mixed().correlate(white, 2)
    assert torch.equal(sample.latents[1], fresh[1]) and sample.drawn_digest == noise_digest(fresh)
    low_pass, record = LowPass("butterworth"), stored("mine-dog")
    assert torch.equal(sample.latents[:1], mix_frequencies(fresh[:1], record[None], float("inf"), low_pass))
    variance = marginal_variance(record, float("inf"), low_pass, mixed().factor(SHAPE[1]))
    assert sample.marginal_variance == (variance, 1.0)
    with pytest.raises(ValueError, match="lowpass 'low' is not allowed"):
        bank.noise("a dog", lowpass="low")


def test_a_prior_of_ones_own_is_a_function_of_shape_and_generator(bank: NoiseBank) -> None:
    def shared(shape: tuple[int, ...], generator: Any) -> torch.Tensor:
        one = torch.randn((*shape[:2], 1, *shape[3:]), generator=generator)
        return one.expand(shape).contiguous()

    latents = bank.noise("a dog", eta=0, generator=seeded(), prior=shared)
    assert torch.equal(latents[:, :, 0], latents[:, :, 1])
    fixed = torch.ones(1, *SHAPE, dtype=torch.float64)
    first, second = (bank.noise("a dog", eta=1, prior=lambda shape, generator: fixed) for _ in range(2))
    assert torch.equal(first, second) and first.dtype == torch.float32
    assert torch.equal(fixed, torch.ones_like(fixed)), "what the caller owns is left alone"
    with pytest.raises(ShapeMismatch, match=r"the prior gave noise of shape \(1,\)"):
        bank.noise("a dog", prior=lambda shape, generator: torch.zeros(1))
    for wrong, message in (({"prior": "pink"}, "prior 'pink'"), ({"eta": -1}, "eta -1"), ({"normalize": "x"}, "'x'")):
        with pytest.raises(ValueError, match=message):
            bank.noise("a dog", **wrong)


@pytest.mark.parametrize(
    ("ask", "message"),
    [
        (lambda bank: bank.noise(), "either a prompt or an id"),
        (lambda bank: bank.noise("a dog", id="mine-dog"), "either a prompt or an id"),
        (lambda bank: bank.noise([]), r"prompt \[\] is not allowed; a text, or a list of at least one"),
        (lambda bank: bank.noise({"a dog": 1}), r"prompt \{'a dog': 1\} is not allowed"),
        (lambda bank: bank.noise(["a dog", 5]), "prompt 5 is not allowed; one text"),
        (lambda bank: bank.noise(b"a dog"), "prompt 97 is not allowed; one text"),
        (lambda bank: bank.noise("\udcff"), r"prompt '\\udcff' is not allowed; it cannot be written as UTF-8"),
        (lambda bank: bank.search("\udcff"), r"prompt '\\udcff' is not allowed; it cannot be written as UTF-8"),
        (lambda bank: bank.references(["a dog"]), r"prompt \['a dog'\] is not allowed; one text"),
        (lambda bank: bank.noise(id=()), r"id \(\) is not allowed"),
        (lambda bank: bank.noise(id=[None]), "id None is not allowed; one text"),
        (lambda bank: bank.inverted(5), "id 5 is not allowed; one text"),
    ],
)
def test_a_wrong_prompt_or_id_is_named(bank: NoiseBank, ask: Callable[[NoiseBank], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ask(bank)


def test_an_id_that_is_no_text_of_any_file_is_not_found(bank: NoiseBank) -> None:
    for ask in (lambda: bank.inverted("\udcff"), lambda: bank.noise(id=["mine-dog", "\udcff"])):
        with pytest.raises(ClipNotFound, match=r"clip '\\udcff': no id, it cannot be written as UTF-8"):
            ask()


def test_references_are_the_captions_nearest_to_a_prompt(bank: NoiseBank) -> None:
    found = bank.references("a puppy playing at the seaside", k=3)
    assert found[0] == "a dog runs on the beach"
    assert found == [hit.caption for hit in bank.search("a puppy playing at the seaside", k=3)]
    assert sorted(bank.references("anything", k=9)) == sorted(CAPTIONS.values())


def test_a_bank_says_what_it_is(store: Store, bank: NoiseBank) -> None:
    assert repr(bank) == f"NoiseBank({store.url!r}, snapshot=1, noise_set='toy')"
    build(store, {"mine-new": "a dog jumps into the waves"}, sets={"toy": ["mine-new"], "other": []})
    assert repr(NoiseBank.open(store.url)) == f"NoiseBank({store.url!r}, snapshot=2, noise_set=None)"
    assert repr(NoiseBank.open(store.url, noise_set="other")).endswith("snapshot=2, noise_set='other')")


def test_a_closed_bank_leaves_nothing_behind_and_says_that_it_is_closed(tmp_path: Path) -> None:
    remote = open_store(f"memory://{tmp_path.name}")
    build(remote, CAPTIONS)
    with NoiseBank.open(remote.url, embedder=embedder()) as bank:
        assert bank.search("a dog", k=1)[0].id == "mine-dog"
        scratch = bank._pinned.scratch
        assert any(scratch.iterdir())
    assert not scratch.exists()
    bank.close()
    for ask in (lambda: bank.search("a dog"), lambda: bank.noise(id="mine-dog"), lambda: bank.inverted("mine-dog")):
        with pytest.raises(ValueError, match="this bank has been closed; open it again"):
            ask()


def test_a_bank_that_is_not_closed_leaves_nothing_behind_either(store: Store, bank: NoiseBank) -> None:
    code = f"""
import gc, tempfile
from noisebank import NoiseBank
bank = NoiseBank.open({store.url!r}, embedder={MINILM!r})
bank.noise(id="mine-dog")
forgotten = NoiseBank.open({store.url!r})
forgotten.inverted("mine-dog")
del forgotten
gc.collect()
"""
    folder = Path(store.url).parent / "tmp"
    folder.mkdir()
    environment = {**os.environ, "TMPDIR": str(folder)}
    ran = subprocess.run(
        [sys.executable, "-W", "always::ResourceWarning", "-c", code], env=environment, capture_output=True, text=True
    )
    assert (ran.returncode, ran.stderr) == (0, "")
    assert list(folder.glob("noisebank-reader-*")) == []


def test_with_several_sets_the_nearest_clip_that_has_a_record_is_taken(store: Store) -> None:
    build(store, CAPTIONS, sets={"big": list(CAPTIONS), "small": ["mine-cook", "yours-sky"]})
    with pytest.raises(UnknownNoiseSet, match="name a noise_set; it has big, small"):
        NoiseBank.open(store.url).noise("a dog on the beach")
    with pytest.raises(UnknownNoiseSet, match="no noise set 'huge'; it has big, small"):
        NoiseBank.open(store.url, noise_set="huge")
    assert NoiseBank.open(store.url).search("a dog on the beach", k=1)[0].id == "mine-dog"
    assert NoiseBank.open(store.url, noise_set="big").sample("a dog on the beach").hits[0].id == "mine-dog"
    small = NoiseBank.open(store.url, noise_set="small")
    hit = small.sample("a cat sleeps on a sofa").hits[0]
    assert hit.id in ("mine-cook", "yours-sky")
    with pytest.raises(ClipNotFound, match="clip yours-cat: no record in noise set 'small'"):
        small.noise(id="yours-cat")


def test_a_record_far_down_the_list_is_still_found(store: Store) -> None:
    many = {f"mine-{i}": f"a dog runs on the beach, take {i}" for i in range(60)}
    far = {f"mine-far{i}": f"quarterly tax regulation, part {i}" for i in range(8)}
    build(store, many | far, sets={id: [id] for id in far})
    for id in far:
        bank = NoiseBank.open(store.url, noise_set=id, embedder=embedder())
        assert bank.sample("a dog runs on the beach").hits[0].id == id
    entries = [entry.key >= 2**63 for entry in snapshot_files(store, read_snapshot(store), "noise")]
    assert {*entries} == {False, True}, "keys are 64 bits without a sign"
    build(store, {"mine-a": "a"}, sets={"toy": [], "new": []})
    with pytest.raises(ClipNotFound, match="noise set 'new' has no record in snapshot 2"):
        NoiseBank.open(store.url, noise_set="new").noise("a dog")


def test_an_open_bank_answers_from_its_snapshot_until_it_is_refreshed(store: Store, bank: NoiseBank) -> None:
    build(store, {"mine-dog": "an old tram", "mine-new": "a dog jumps into the waves"}, removed=["yours-cat"])
    assert bank.search("a dog at the sea", k=1)[0].id == "mine-dog"
    assert bank.search("a cat on a sofa", k=1)[0].id == "yours-cat"
    assert torch.equal(bank.noise(id="yours-cat", eta=float("inf"))[0], stored("yours-cat"))
    assert (bank.refresh(), bank.snapshot) == (2, 2)
    assert bank.search("a dog at the sea", k=1)[0].id == "mine-new"
    assert bank.sample("a dog at the sea").hits[0].id == "mine-new"
    assert all(hit.id != "yours-cat" for hit in bank.search("a cat on a sofa", k=10))
    assert [hit.id for hit in bank.search("an old tram", k=10)].count("mine-dog") == 1
    with pytest.raises(ClipNotFound):
        bank.noise(id="yours-cat")
    old = NoiseBank.open(store.url, snapshot=1)
    assert old.search("a cat on a sofa", k=1)[0].id == "yours-cat"


def test_the_captions_model_may_have_moved_but_must_be_the_same(tmp_path: Path, store: Store) -> None:
    build(store, CAPTIONS, model="/no/such/folder")
    with pytest.raises(ConfigError, match=r"open the bank with embedder= .*'/no/such/folder' is neither a local"):
        NoiseBank.open(store.url).search("a dog")
    moved = tmp_path / "moved"
    shutil.copytree(MINILM, moved)
    assert NoiseBank.open(store.url, embedder=str(moved)).search("a dog", k=1)[0].id == "mine-dog"
    assert NoiseBank.open(store.url, embedder=embedder()).search("a dog", k=1)[0].id == "mine-dog"
    (moved / "1_Pooling" / "config.json").write_text("{}")
    with pytest.raises(ConfigError, match="the bank's embeddings were made with"):
        NoiseBank.open(store.url, embedder=str(moved)).search("a dog")


def test_a_remote_bank_answers_like_a_local_one(tmp_path: Path, bank: NoiseBank) -> None:
    remote = open_store(f"memory://{tmp_path.name}")
    build(remote, CAPTIONS)
    other = NoiseBank.open(remote.url)
    assert other.search("a dog", k=4) == bank.search("a dog", k=4)
    assert torch.equal(other.noise("a dog", generator=seeded()), bank.noise("a dog", generator=seeded()))
    assert other.inverted("mine-dog").statistics == bank.inverted("mine-dog").statistics


def test_a_bank_travels_to_other_processes_at_its_snapshot(store: Store, bank: NoiseBank) -> None:
    build(store, {"mine-new": "a dog jumps into the waves"})
    own = NoiseBank.open(store.url, snapshot=1)
    own.search("a dog")
    assert len(pickle.dumps(own)) < 1000, "the captions model stays behind"
    copy = pickle.loads(pickle.dumps(own))
    assert copy.snapshot == 1
    assert torch.equal(copy.noise("a dog", generator=seeded()), bank.noise("a dog", generator=seeded()))


def test_there_may_be_no_bank(tmp_path: Path, bank: NoiseBank) -> None:
    with pytest.raises(BankNotFound, match="no bank here"):
        NoiseBank.open(tmp_path / "elsewhere")
    with pytest.raises(BankNotFound, match="no snapshot 9"):
        NoiseBank.open(bank._store.url, snapshot=9)


def test_a_bank_moves_on_to_captions_of_another_model(tmp_path: Path, store: Store, monkeypatch: Any) -> None:
    build(store, CAPTIONS)
    own = NoiseBank.open(store.url)
    assert own.search("a dog", k=1)
    shutil.copytree(MINILM, tmp_path / "other")
    (tmp_path / "other" / "note.json").write_text("{}")
    other = load_embedder(str(tmp_path / "other"))
    monkeypatch.setattr(bank_support, "embedder", lambda: other)
    build(store, {"mine-new": "a cat on a roof"}, model=str(tmp_path / "other"))
    own.refresh()
    assert own.search("a cat on a roof", k=1)[0].id == "mine-new"


def test_threads_read_records_of_a_remote_bank(tmp_path: Path) -> None:
    remote = open_store(f"memory://{tmp_path.name}")
    build(remote, CAPTIONS)
    bank = NoiseBank.open(remote.url, embedder=embedder())
    expected = {id: bank.inverted(id).statistics for id in CAPTIONS}
    with ThreadPoolExecutor(8) as pool:
        ids = [*CAPTIONS] * 40
        for id, found in zip(ids, pool.map(bank.inverted, ids), strict=True):
            assert found.statistics == expected[id]
            assert torch.equal(found.noise, record_of(id).half().float())
    assert not list(bank._pinned.scratch.rglob("noise/*")), "no shard stays behind"


def test_a_batch_is_fetched_from_a_remote_bank_side_by_side(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    remote = open_store(f"memory://{tmp_path.name}")
    build(remote, CAPTIONS)
    bank = NoiseBank.open(remote.url)
    bank.noise(id="mine-dog")  # (so that the record table has been read)
    met, fetch = Barrier(len(CAPTIONS), timeout=60), type(remote).read_range

    def fetched_with_all_others(self: Store, key: str, offset: int, length: int) -> bytes:
        met.wait()
        return fetch(self, key, offset, length)

    monkeypatch.setattr(type(remote), "read_range", fetched_with_all_others)
    batch = bank.noise(id=[*CAPTIONS], eta=float("inf"))
    assert torch.equal(batch, torch.stack([stored(id) for id in CAPTIONS]))


def test_one_call_answers_from_one_snapshot_though_another_thread_refreshes(
    store: Store, bank: NoiseBank, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The newer snapshot has another shape, layout and captions: nothing of it must get into the answer."""
    other = {**DESCRIPTION, "layout": "BFCHW", "shape": [4, 3, 6, 4], "spatial_ratio": 4}
    build(store, {"mine-dog": "a dog digs in the sand"}, description=other)
    before = NoiseBank.open(store.url, snapshot=1)
    wanted = before.inputs(id="mine-dog", eta=float("inf"))
    read = PinnedSnapshot.noise_set

    def overtaken(self: PinnedSnapshot, name: str) -> Any:
        found = read(self, name)
        bank.refresh()
        return found

    bank = NoiseBank.open(store.url, snapshot=1)
    monkeypatch.setattr(PinnedSnapshot, "noise_set", overtaken)
    inputs = bank.inputs(id="mine-dog", eta=float("inf"))
    assert bank.snapshot == 2
    assert torch.equal(inputs.pop("latents"), wanted.pop("latents")) and inputs == wanted


def use(bank: NoiseBank) -> None:
    """Everything that a reader does."""
    for hit in bank.search("a dog", k=10):
        bank.noise(id=hit.id)
        bank.inverted(hit.id)


@pytest.mark.parametrize("damage", ["bit", "truncated", "missing", "swapped"])
def test_whatever_file_is_damaged_no_noise_comes_of_it(store: Store, damage: str) -> None:
    build(store, CAPTIONS)
    build(store, {"mine-dog": "a dog digs in the sand", "mine-more": "rain on a window"})
    snapshot = read_snapshot(store)
    kinds = ("index", "records", "noise")
    files = [entry for kind in kinds for entry in snapshot_files(store, snapshot, kind)]
    files += snapshot.parts["noise/toy"]
    assert len(files) >= 10
    information = {segment.info.path for segment in snapshot.index}
    for entry in (entry for entry in files if entry.path not in information):
        content = store.read(entry.path)
        use(NoiseBank.open(store.url, embedder=embedder()))
        if damage == "missing":
            store.delete(entry.path)
        else:
            changed = bytearray(content)
            changed[len(content) // 2] ^= 16
            other = store.read(next(file.path for file in files if file.path != entry.path))
            store.put(entry.path, {"bit": bytes(changed), "truncated": content[:-1], "swapped": other}[damage])
        with pytest.raises(BankDamaged, match=entry.path):
            use(NoiseBank.open(store.url, embedder=embedder()))
        store.put(entry.path, content)


def test_a_reader_of_a_vacuumed_snapshot_is_told_so(store: Store, bank: NoiseBank) -> None:
    first = read_snapshot(store, 1)
    build(store, {"mine-new": "a dog jumps into the waves"})
    for entry in [*snapshot_files(store, first), *first.own_files]:
        store.delete(entry.path)
    store.put(first.path, expired_stub(first, 2))
    asks = {
        "search": lambda bank: bank.search("a dog"),
        "noise": lambda bank: bank.noise(id="mine-dog"),
        "noise for a pipeline": lambda bank: bank.noise(id="mine-dog", pipe=object()),
        "inputs": lambda bank: bank.inputs(id="mine-dog"),
        "check": lambda bank: bank.check(object()),
        "inverted": lambda bank: bank.inverted("mine-dog"),
    }
    for what, ask in asks.items():
        with pytest.raises(SnapshotExpired, match="snapshot 1 was removed by vacuum"):
            ask(NoiseBank(store, first))
            pytest.fail(what)
    with pytest.raises(SnapshotExpired):
        NoiseBank.open(store.url, snapshot=1)


def test_the_package_names_its_reader_and_nothing_it_has_not() -> None:
    assert noisebank.NoiseBank is NoiseBank and "Hit" in dir(noisebank)
    assert set(noisebank.__all__) <= set(dir(noisebank))
    with pytest.raises(AttributeError, match="no attribute 'Nobody'"):
        noisebank.Nobody  # noqa: B018


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_small_model("modelscope", tmp_path_factory.mktemp("models") / "modelscope")


@pytest.fixture
def fitting(store: Store, folder: Path) -> tuple[NoiseBank, Any]:
    """A bank whose records are of a small pipeline, and the pipeline."""
    description = load_model(str(folder)).describe(4, (4, 2, 8, 8))
    build(store, CAPTIONS, description=description)
    pipe = diffusers.DiffusionPipeline.from_pretrained(folder)
    pipe.set_progress_bar_config(disable=True)
    return NoiseBank.open(store.url), pipe


def test_a_real_pipeline_generates_from_its_inputs(fitting: tuple[NoiseBank, Any]) -> None:
    bank, pipe = fitting
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        assert bank.check(pipe) == bank.check(pipe, num_inference_steps=4) == []
        inputs = bank.inputs("a dog", pipe=pipe, generator=seeded())
    assert (inputs["num_frames"], inputs["latents"].dtype) == (2, torch.float32)
    latents = pipe("a dog", **inputs, num_inference_steps=1, output_type="latent").frames
    assert latents.shape == (1, 4, 2, 8, 8) and latents.isfinite().all()
    own = pipe(
        "a dog",
        generator=seeded(),
        height=inputs["height"],
        width=inputs["width"],
        num_frames=2,
        num_inference_steps=1,
        output_type="latent",
    ).frames
    ours = pipe(
        "a dog",
        **bank.inputs("a dog", eta=0, generator=seeded(), pipe=pipe),
        num_inference_steps=1,
        output_type="latent",
    ).frames
    assert torch.equal(own, ours), "eta=0 is what the pipeline draws itself"
    assert bank.inputs(id="mine-dog", pipe=pipe.to(torch.float16))["latents"].dtype == torch.float16


def test_weights_that_cannot_be_compared_are_a_warning(fitting: tuple[NoiseBank, Any]) -> None:
    bank, pipe = fitting
    accelerate.cpu_offload(pipe.unet, torch.device("cpu"))
    with pytest.warns(UserWarning, match="weights is 'offloaded: its values cannot be compared'"):
        inputs = bank.inputs("a dog", pipe=pipe)
    assert inputs["latents"].device == torch.device("cpu")
    pipe.unet = None
    with pytest.raises(ShapeMismatch, match="unet is None"):
        bank.check(pipe)


def test_weights_of_whole_numbers_are_other_weights(fitting: tuple[NoiseBank, Any]) -> None:
    bank, pipe = fitting
    pipe.unet.register_buffer("absmax", torch.zeros(3, dtype=torch.uint8))
    with pytest.warns(UserWarning, match="weights"):
        assert [mismatch.what for mismatch in bank.check(pipe)] == ["weights"]


def test_a_pipeline_that_samples_otherwise_is_a_warning_and_one_that_is_another_an_error(
    fitting: tuple[NoiseBank, Any],
) -> None:
    bank, pipe = fitting
    with pytest.warns(UserWarning, match="noise set 'toy': warning: num_inference_steps is 8"):
        differences = {mismatch.what for mismatch in bank.check(pipe, num_inference_steps=8)}
    assert differences == {"num_inference_steps"}
    with pytest.warns(UserWarning, match="num_inference_steps is 8"):
        bank.inputs("a dog", pipe=pipe, num_inference_steps=8)
    pipe.scheduler = diffusers.EulerDiscreteScheduler.from_config(pipe.scheduler.config)
    with pytest.warns(UserWarning, match="scheduler is 'EulerDiscreteScheduler'"):
        bank.noise("a dog", pipe=pipe)
    with torch.no_grad():
        pipe.vae.encoder.conv_in.weight.mul_(1.05)
    for ask in (lambda: bank.check(pipe), lambda: bank.noise("a dog", pipe=pipe), lambda: bank.inputs("a", pipe=pipe)):
        with pytest.raises(ShapeMismatch, match="noise set 'toy' does not fit this TextToVideoSDPipeline: error: vae"):
            ask()
