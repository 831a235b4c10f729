"""The noise stage: a tar of clips to an Arrow file that others open; what is wrong with one clip costs that clip."""

from __future__ import annotations

import re
import weakref
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch

from noisebank.errors import BankDamaged
from noisebank.fixtures.small_models import make_small_model, smooth_clip
from noisebank.format.receipts import Receipt
from noisebank.ids import clip_number
from noisebank.inversion import reconstruct, relative_error
from noisebank.models import ModelAdapter, load_model
from noisebank.options import NoiseOptions
from noisebank.stages.clip_inversion import ClipInverter
from noisebank.stages.job import Finished, run_job
from noisebank.stages.measuring import is_drawn
from noisebank.stages.noise import NoiseStage
from noisebank.stages.over_clips import clips_of_tar
from noisebank.storage import BankWriter, Store, open_store
from noisebank.video.frames import decode_mp4
from schemas.noise import noise_schema
from tests.support.clip_shards import mp4_of, write_clips

FRAMES, STEPS = 4, 8
SHAPE = (4, FRAMES, 4, 4)
IDS = sorted([f"mine-{i}" for i in range(5)], key=clip_number)
MP4S = {id: mp4_of(smooth_clip(FRAMES, 32, 32, seed)) for seed, id in enumerate(IDS)}


@pytest.fixture(scope="module")
def adapter(tmp_path_factory: pytest.TempPathFactory) -> ModelAdapter:
    return load_model(str(make_small_model("modelscope", tmp_path_factory.mktemp("models") / "small")))


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return open_store(tmp_path / "bank")


def never() -> ModelAdapter:
    raise AssertionError("the model is loaded although there is nothing to do")


def make(
    store: Store,
    adapter: ModelAdapter | None,
    mp4s: Mapping[str, bytes] = MP4S,
    *,
    clips: Receipt | None = None,
    shape: tuple[int, int, int, int] = SHAPE,
    **changes: Any,
) -> Finished:
    options = NoiseOptions(
        **{"name": "small", "inverter": "ddim", "num_inference_steps": STEPS, "batch_size": 2, "measured": 1, **changes}
    )
    tar = (clips or write_clips(store, mp4s)).files[0].path
    load = never if adapter is None else lambda: adapter
    job = NoiseStage(options).shard(tar, clips_of_tar(store, tar), repr(options), {"shape": list(shape)}, load)
    return run_job(job, BankWriter(store))


def table_of(store: Store, made: Finished) -> pa.Table:
    (entry,) = made.receipt.files
    with store.open(entry.path) as file:
        return pa.ipc.open_file(file).read_all()


def noise_of(table: pa.Table) -> torch.Tensor:
    return torch.from_numpy(table.column("noise").combine_chunks().to_numpy_ndarray().astype(np.float32))


def failures_of(made: Finished) -> dict[str, tuple[str, bool]]:
    return {failure.id: (failure.code, failure.retryable) for failure in made.receipt.failures}


def test_the_file_holds_noise_that_gives_the_clips_back(store: Store, adapter: ModelAdapter) -> None:
    made = make(store, adapter, num_inference_steps=20, inverter="fixed-point")
    table = table_of(store, made)
    assert table.schema == noise_schema(SHAPE, "float16")
    assert table.column("id").to_pylist() == IDS
    assert (made.made, made.receipt.rows, made.receipt.failures) == (True, 5, ())
    assert (made.receipt.info["batch_size"], made.receipt.info["stride"]) == (2, 2 * 4 * FRAMES * 4 * 4)
    assert made.receipt.info["description"] == adapter.describe(20, SHAPE)
    frames = torch.stack([torch.from_numpy(decode_mp4(MP4S[id])) for id in IDS])
    given_back = reconstruct(adapter.network(), noise_of(table), adapter.levels(20, SHAPE))
    errors = relative_error(given_back, adapter.encode(frames))
    stored = torch.tensor(table.column("stored_reconstruction_error").to_pylist())
    torch.testing.assert_close(errors, stored, rtol=2e-2, atol=1e-6)
    assert max(stored) < 2e-3
    assert table.column("reconstruction_error").null_count == len(IDS)  # (of the noise before storage: not measured)
    assert 20 < min(table.column("network_calls").to_pylist()) < 200


def test_a_finished_shard_is_found_without_loading_the_model(store: Store, adapter: ModelAdapter) -> None:
    first = make(store, adapter)
    again = make(store, None)
    assert not again.made and again.receipt == first.receipt
    with pytest.raises(AssertionError, match="nothing to do"):
        make(store, None, num_inference_steps=5)


def test_noise_frames_takes_the_first_frames(store: Store, adapter: ModelAdapter) -> None:
    made = make(store, adapter, shape=(4, 2, 4, 4), frames=2)
    first_two = {id: torch.from_numpy(decode_mp4(mp4)[:2].copy()) for id, mp4 in MP4S.items()}
    latents = adapter.encode(torch.stack([first_two[id] for id in IDS]))
    given_back = reconstruct(adapter.network(), noise_of(table_of(store, made)), adapter.levels(STEPS, (4, 2, 4, 4)))
    assert relative_error(given_back, latents).max() < 0.5 < relative_error(given_back.roll(1, 0), latents).min()


def test_each_bad_clip_fails_alone_with_its_own_code(
    store: Store, adapter: ModelAdapter, monkeypatch: pytest.MonkeyPatch
) -> None:
    encode = type(adapter).encode_clip

    def nan_in_the_dark(self: ModelAdapter, pixels: torch.Tensor) -> torch.Tensor:
        return encode(self, pixels) + (torch.nan if pixels.max() < -0.5 else 0.0)

    monkeypatch.setattr(type(adapter), "encode_clip", nan_in_the_dark)
    bad = {
        IDS[0]: mp4_of(smooth_clip(FRAMES - 1, 32, 32)),
        IDS[1]: b"not an mp4 at all",
        IDS[3]: mp4_of(torch.zeros(FRAMES, 32, 32, 3, dtype=torch.uint8)),
        IDS[4]: mp4_of(smooth_clip(FRAMES, 32, 64)),
    }
    made = make(store, adapter, MP4S | bad)
    assert failures_of(made) == {
        IDS[0]: ("wrong_shape", False),
        IDS[1]: ("decode_error", False),
        IDS[3]: ("not_finite", False),
        IDS[4]: ("wrong_shape", False),
    }
    messages = {failure.id: failure.message for failure in made.receipt.failures}
    assert messages[IDS[0]] == "a clip of 3 x 32 x 32 has latents [4, 3, 4, 4], the noise set's are [4, 4, 4, 4]"
    table = table_of(store, made)
    assert table.column("id").to_pylist() == [IDS[2]]
    torch.testing.assert_close(
        noise_of(table)[0], noise_of(table_of(store, make(store, adapter)))[2], rtol=1e-2, atol=1e-2
    )


def test_clips_of_another_size_than_the_sets_fail(store: Store, adapter: ModelAdapter) -> None:
    made = make(store, adapter, MP4S | {IDS[2]: mp4_of(smooth_clip(FRAMES, 48, 32))}, shape=(4, FRAMES, 6, 4))
    assert failures_of(made) == {id: ("wrong_shape", False) for id in IDS if id != IDS[2]}
    assert table_of(store, made).column("noise").type.shape == [4, FRAMES, 6, 4]


def test_a_shard_without_one_good_clip_has_no_file(store: Store, adapter: ModelAdapter) -> None:
    made = make(store, adapter, dict.fromkeys(IDS, b"nothing"))
    assert (made.receipt.files, made.receipt.rows, len(made.receipt.failures)) == ((), 0, 5)


def test_the_quality_gate_writes_the_number_of_each_record(store: Store, adapter: ModelAdapter) -> None:
    errors = table_of(store, make(store, adapter)).column("stored_reconstruction_error").to_pylist()
    gate = sorted(errors)[2]
    made = make(store, adapter, max_reconstruction_error=gate)
    above = {id: error for id, error in zip(IDS, errors, strict=True) if error > gate}
    assert len(above) == 2
    assert {f.id: f.message for f in made.receipt.failures} == {
        id: f"the record gives its clip back with relative error {error:.3g}, above {gate:g}"
        for id, error in above.items()
    }
    assert table_of(store, made).column("id").to_pylist() == [id for id in IDS if id not in above]


def test_only_what_is_measured_is_judged(store: Store, adapter: ModelAdapter) -> None:
    share = 0.5
    drawn = {id for id in IDS if is_drawn(clip_number(id), share)}
    assert 0 < len(drawn) < len(IDS)
    table, full = (table_of(store, make(store, adapter, measured=measured)) for measured in (share, 1))
    assert noise_of(table).equal(noise_of(full))
    errors, known = (each.column("stored_reconstruction_error").to_pylist() for each in (table, full))
    assert drawn <= {id for id, error in zip(IDS, errors, strict=True) if error is not None} < set(IDS)
    assert all(error in (None, pytest.approx(other, rel=1e-3)) for error, other in zip(errors, known, strict=True))
    unmeasured = table_of(store, make(store, adapter, measured=0, max_reconstruction_error=1e-9))
    assert unmeasured.column("stored_reconstruction_error").null_count == len(IDS)
    strict = make(store, adapter, measured=share, max_reconstruction_error=1e-9)  # (bad ones draw on the others)
    assert failures_of(strict) == dict.fromkeys(IDS, ("reconstruction_error", False))


@pytest.fixture(scope="module")
def many() -> dict[str, bytes]:
    """Clips of which three, that are not drawn, invert badly: grey ones, whose latents are all but zero."""
    grey = mp4_of(torch.full((FRAMES, 32, 32, 3), 127, dtype=torch.uint8))
    ids = sorted([f"many-{i}" for i in range(48)], key=clip_number)
    bad = [id for id in ids if not is_drawn(clip_number(id), NoiseOptions().measured)][5:20:5]
    return {id: grey if id in bad else mp4_of(smooth_clip(FRAMES, 32, 32, seed)) for seed, id in enumerate(ids)}


def evaluations(
    store: Store, adapter: ModelAdapter, monkeypatch: pytest.MonkeyPatch, clips: Mapping[str, bytes], measured: float
) -> tuple[Finished, int]:
    """A shard, and how many clips went through the network for it."""
    predict, counts = type(adapter).predict, []

    def counted(self: ModelAdapter, latents: torch.Tensor, *args: Any, **conditioning: torch.Tensor) -> Any:
        counts.append(len(latents))
        return predict(self, latents, *args, **conditioning)

    with monkeypatch.context() as patch:
        patch.setattr(type(adapter), "predict", counted)
        made = make(store, adapter, clips, measured=measured, batch_size=4)
    return made, sum(counts)


def test_bad_clips_that_are_not_drawn_are_caught_by_their_residuals(
    store: Store, adapter: ModelAdapter, monkeypatch: pytest.MonkeyPatch, many: dict[str, bytes]
) -> None:
    made, _ = evaluations(store, adapter, monkeypatch, many, NoiseOptions().measured)
    bad = {id for id, mp4 in many.items() if list(many.values()).count(mp4) > 1}
    assert len(bad) == 3
    assert failures_of(made) == dict.fromkeys(bad, ("reconstruction_error", False))
    table = table_of(store, made)
    assert table.column("id").to_pylist() == [id for id in many if id not in bad]
    assert table.column("stored_reconstruction_error").null_count > 30
    unmeasured = table_of(store, make(store, adapter, many, measured=0, batch_size=4))
    kept = [i for i, id in enumerate(many) if id not in bad]
    assert noise_of(table).equal(noise_of(unmeasured)[kept])
    everything = make(store, adapter, many, measured=1, batch_size=4)
    assert failures_of(everything) == failures_of(made)


def test_measuring_by_default_costs_at_most_fifteen_in_a_hundred(
    store: Store, adapter: ModelAdapter, monkeypatch: pytest.MonkeyPatch, many: dict[str, bytes]
) -> None:
    good = {id: mp4 for id, mp4 in many.items() if list(many.values()).count(mp4) == 1}
    counts = {share: evaluations(store, adapter, monkeypatch, good, share)[1] for share in (0, NoiseOptions().measured)}
    assert counts[0] == len(good) * STEPS
    assert counts[0] < counts[NoiseOptions().measured] <= 1.15 * counts[0]


def test_running_out_of_memory_halves_the_batch_and_changes_nothing_else(
    store: Store, adapter: ModelAdapter, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = make(store, adapter, batch_size=2)
    predict, sizes = type(adapter).predict, []

    def small_device(self: ModelAdapter, latents: torch.Tensor, *args: Any, **conditioning: torch.Tensor) -> Any:
        sizes.append(len(latents))
        if len(latents) > 2:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory")
        return predict(self, latents, *args, **conditioning)

    monkeypatch.setattr(type(adapter), "predict", small_device)
    made = make(store, adapter, batch_size=4)
    assert sizes.count(4) == 1 and set(sizes) == {4, 2, 1}
    assert made.receipt.info["batch_size"] == 2
    assert made.receipt.files == expected.receipt.files  # named by their content


@pytest.mark.parametrize(("batch_size", "batches"), [(2, {"1": 1, "2": 2}), (3, {"2": 1, "3": 1}), (8, {"8": 1})])
def test_the_last_batch_is_the_smallest_power_of_two_that_holds_it(
    store: Store,
    adapter: ModelAdapter,
    monkeypatch: pytest.MonkeyPatch,
    batch_size: int,
    batches: dict[str, int],
) -> None:
    predict, sizes = type(adapter).predict, []

    def noted(self: ModelAdapter, latents: torch.Tensor, *args: Any, **conditioning: torch.Tensor) -> Any:
        sizes.append(len(latents))
        return predict(self, latents, *args, **conditioning)

    monkeypatch.setattr(type(adapter), "predict", noted)
    made = make(store, adapter, batch_size=batch_size, measured=0.0)
    assert made.receipt.info["batches"] == batches
    assert {str(size): sizes.count(size) // STEPS for size in set(sizes)} == batches
    again = make(open_store("memory://again"), adapter, batch_size=batch_size, measured=0.0)
    assert again.receipt.files == made.receipt.files


def test_the_noise_of_one_batch_is_held_at_a_time(
    store: Store, adapter: ModelAdapter, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[weakref.ref[torch.Tensor]] = []
    alive: list[int] = []
    invert = ClipInverter.invert

    def watched(*args: Any) -> Any:
        alive.append(sum(noise() is not None for noise in made))
        records = invert(*args)
        made.extend(weakref.ref(record.noise) for record in records)
        return records

    monkeypatch.setattr(ClipInverter, "invert", watched)
    assert make(store, adapter, batch_size=1).receipt.rows == 5
    assert len(alive) == 5 and max(alive) <= 1  # (of the batch before, the last record)
    assert not any(noise() is not None for noise in made)


def test_float16_and_int8_of_the_same_clips(store: Store, adapter: ModelAdapter) -> None:
    options = {"inverter": "fixed-point", "num_inference_steps": 20}
    half, byte = (table_of(store, make(store, adapter, dtype=dtype, **options)) for dtype in ("float16", "int8"))
    assert (half.column("noise").nbytes, byte.column("noise").nbytes) == (5 * 2 * 256, 5 * 256)
    assert byte.column("scale").nbytes == 5 * 4 * 4 * FRAMES
    for fine, coarse in zip(
        half.column("stored_reconstruction_error").to_pylist(),
        byte.column("stored_reconstruction_error").to_pylist(),
        strict=True,
    ):
        assert fine < 1.4e-2
        assert fine < coarse < 0.1


def test_a_video_that_was_swapped_in_the_tar_stops_the_shard(store: Store, adapter: ModelAdapter) -> None:
    swapped = MP4S | {IDS[0]: MP4S[IDS[1]]}
    with pytest.raises(BankDamaged, match=f"clip {IDS[0]}: its mp4 is not the one that was stored"):
        make(store, adapter, clips=write_clips(store, swapped, stored=MP4S))


def test_a_tar_that_lacks_a_clip_stops_the_shard(store: Store, adapter: ModelAdapter) -> None:
    with pytest.raises(BankDamaged, match="4 of 5 clips are in it"):
        make(store, adapter, clips=write_clips(store, {id: MP4S[id] for id in IDS[1:]}, stored=MP4S))


def test_a_shard_says_how_fast_it_was_made(store: Store, adapter: ModelAdapter) -> None:
    note = make(store, adapter, MP4S | {IDS[0]: b"nothing"}).note
    pattern = r"(\S+) clips/s, network (\d+)% of the time, peak memory (\S+) GB"
    rate, share, peak = (float(group) for group in re.fullmatch(pattern, note).groups())  # type: ignore[union-attr]
    assert rate > 0 and 0 < share <= 100 and 0.1 < peak < 64
