"""A whole study: what is left of it is generated, read and measured, then all of it is analysed and written down.

Finished pieces are files, so a study that was killed goes on, and one that was enlarged makes what is new.
"""

from __future__ import annotations

import hashlib
import io
import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from noisebank.devices import choose_device
from noisebank.errors import BankDamaged, ConfigError
from noisebank.evaluation.analysis import Analysis, complete_rows
from noisebank.evaluation.cells import ArmPlan, Cell, cut
from noisebank.evaluation.clips import read_clips
from noisebank.evaluation.generation import Row, generate_piece
from noisebank.evaluation.judges import Judge, load_judge
from noisebank.evaluation.judging import JudgeAccuracy, measure_judge
from noisebank.evaluation.measures import Small, shrink
from noisebank.evaluation.options import MEASURES, OUTCOME, ArmOptions, EvaluationOptions
from noisebank.evaluation.plots import draw_plots
from noisebank.evaluation.pool import Pool, StudyPrompt, read_study_prompts, read_truth
from noisebank.evaluation.preregistration import Registered, check_agrees, read_preregistration
from noisebank.evaluation.report import read_notes, write_report
from noisebank.format.sealed import seal, unseal
from noisebank.models import ModelAdapter, load_for_inversion, model_digest
from noisebank.models.load import choose_precision
from noisebank.options import NoiseOptions, fingerprint, output_options
from noisebank.progress import ReportProgress, silent
from noisebank.storage import Store, open_store

SHAPE = ("shape", "layout")
"""Of a noise set: what fresh noise has to have in common."""
PIECES, SUMMARY, ROWS, REPORT = "pieces", "summary.json", "outcomes.parquet", "report.md"
_REMEMBERED = 512
_log = logging.getLogger(__name__)


def evaluate(options: EvaluationOptions, progress: ReportProgress = silent) -> dict[str, Any]:
    """Runs what is left of a study and writes its results into ``out``.

    Args:
        options: of the study.
        progress: called with how many clips are done, and how many there are.

    Returns:
        The summary, as in ``summary.json``.

    Raises:
        ConfigError: an option cannot work, the judge does not read an attribute on real clips, or the study is not the
            one of its preregistration.
        ShapeMismatch: the model does not take a noise set's records.
        BankNotFound, UnknownNoiseSet, BankDamaged: as of a bank's reader.
    """
    options.check()
    registered = read_preregistration(options.preregistration) if options.preregistration else None
    prompts, refused = read_study_prompts(options.prompts, options.attributes)
    notes, others = read_notes(options), _read_others(options.beside)
    study = Study(options, prompts, registered)
    if registered is not None:
        check_agrees(registered, options, len(prompts), study.prompts_sha256, study.digest)
    accuracy = study.measure_judge()
    accuracy.check(options.attributes, options.min_judge_accuracy)
    rows = complete_rows(
        study.generate(progress), {prompt.id: prompt for prompt in prompts}, study.truth, options.attributes
    )
    summary = study.summarise(rows, accuracy, refused)
    _publish(study.store, options, summary, rows, notes, others)
    return summary


def _read_others(beside: Sequence[str]) -> list[dict[str, Any]]:
    """The summaries of other studies; ConfigError where there is none yet."""
    try:
        found = [unseal(open_store(out).read(SUMMARY), f"{out}/{SUMMARY}") for out in beside]
    except FileNotFoundError as error:
        raise ConfigError(f"beside: a study without a {SUMMARY}; run it first: {error}") from error
    for out, summary in zip(beside, found, strict=True):
        if "not_compared" not in summary:
            raise ConfigError(f"beside: {out}: {SUMMARY} is of an older version; run the study's command again")
    return found


@dataclass
class Study:
    """A study with its banks open; the model is loaded when something has to be made.

    Args:
        options: of the study.
        prompts: that it asks.
        registered: what was fixed beforehand, if anything was.
    """

    options: EvaluationOptions
    prompts: Sequence[StudyPrompt]
    registered: Registered | None
    _adapter: ModelAdapter | None = None
    _clips: dict[str, Small] = field(default_factory=dict)

    def __post_init__(self) -> None:
        options = self.options
        self.store: Store = open_store(options.out)
        self.truth = read_truth(options.clips, options.attributes)
        self.judge: Judge = load_judge(options.judge)
        self.pool = Pool(options.bank, options.set_, self.truth)
        others: dict[tuple[str, str | None], Pool] = {}
        self._pools = {arm.label: self._open_pool(arm, others) for arm in options.arms}
        self.plans = [ArmPlan(arm, options, self.pool, self._pools[arm.label]) for arm in options.arms]
        self._compare_shapes()
        self._check_clips()
        self.digest = model_digest(options.model, options.motion_adapter)
        self.precision = choose_precision(options.precision, choose_device("auto"))
        shape = {key: self.pool.records().model[key] for key in SHAPE}
        self.fingerprint = fingerprint(options, model_digest=self.digest, computed_in=self.precision, **shape)
        self.judge_fingerprint = fingerprint(options.judge)

    @property
    def prompts_sha256(self) -> str:
        """Of the prompts that are asked: ids, texts and what a clip has to show."""
        asked = [[prompt.id, prompt.text, dict(prompt.truth)] for prompt in self.prompts]
        return hashlib.sha256(json.dumps(asked).encode()).hexdigest()

    def _open_pool(self, arm: ArmOptions, others: dict[tuple[str, str | None], Pool]) -> Pool:
        """What an arm looks up in: the study's pool, or one of ``others``, by bank and noise set."""
        if arm.bank in (None, self.options.bank):
            return self.pool
        asked = arm.bank, arm.set_ or self.options.set_
        if asked not in others:
            others[asked] = Pool(*asked, self.truth)
        return others[asked]

    def _compare_shapes(self) -> None:
        """Refuses arms whose noise cannot be the same: ConfigError names the first."""
        wanted = self.pool.records().model
        for plan in self.plans:
            for key in SHAPE:
                if plan.model[key] != wanted[key]:
                    raise ConfigError(
                        f"arms.{plan.name}: its records have the {key} {plan.model[key]}, those of the study "
                        f"{wanted[key]}; fresh noise would not be the same"
                    )

    def _check_clips(self) -> None:
        """Refuses lists of clips that say nothing of the study's bank: the judge would not be measured."""
        if self.options.clips and not self.pool.known_ids:
            listed, own = next(iter(self.truth), "none"), self.pool.nearest([self.prompts[0].text])[0].id
            raise ConfigError(
                f"clips {', '.join(self.options.clips)}: none of its {len(self.truth)} ids is of a clip of "
                f"{self.options.bank} with a record; ids there are like {own!r}, those of the list like {listed!r}"
            )

    def measure_judge(self) -> JudgeAccuracy:
        """The judge on clips whose attributes are known, drawn with the study's seed; measured once."""
        options, known = self.options, self.pool.known_ids
        rng = np.random.default_rng([options.seed, 7])
        ids = sorted(rng.permutation(known)[: options.judged_clips].tolist())
        if not ids:
            _log.warning(
                "the judge is not measured: nothing is known of the bank's clips (clips), or judged_clips is 0"
            )
            return JudgeAccuracy({})
        known_of = [[id, dict(self.truth[id])] for id in ids]
        what = [self.fingerprint, self.judge_fingerprint, self.pool.snapshot.uuid, known_of]
        key = fingerprint(options.judge, what=what)
        path = f"{PIECES}/judge/{key}.json"
        if (found := self._read(path)) is None:
            clips = read_clips(self.pool.pinned, ids)
            model = self.pool.records().model
            first = (model["shape"][1] - 1) * model["temporal_ratio"] + 1  # (frames that the records are of)
            shown = ((id, self.pool.pinned.clip(id).caption, self.truth[id], frames[:first]) for id, frames in clips)
            steps, adapter = options.num_inference_steps, self._load()
            accuracy = measure_judge(self.judge, shown, options.attributes, adapter, steps, options.seed)
            found = {"counts": [[*key, count] for key, count in sorted(accuracy.counts.items())]}
            self.store.put(path, seal(found))
        return JudgeAccuracy({(look, name, true, read): n for look, name, true, read, n in found["counts"]})

    def generate(self, progress: ReportProgress) -> list[Row]:
        """The rows of all arms: read where they are finished, made where they are not."""
        asked = {plan.name: self.prompts[: plan.options.prompts] for plan in self.plans}
        total, done, rows = sum(map(len, asked.values())) * self.options.seeds, 0, []
        progress(0, total)
        for plan in self.plans:
            for piece in cut(asked[plan.name], self.options.seeds, self.options.batch_size):
                rows += [{"arm": plan.name, **row} for row in self._piece(plan, plan.cells(piece))]
                done += len(piece) * self.options.seeds
                progress(done, total)
        return rows

    def _piece(self, plan: ArmPlan, cells: Sequence[Cell]) -> list[Row]:
        path = f"{PIECES}/{plan.name}/{plan.key(cells, self.fingerprint, self.judge_fingerprint)}.json"
        if (found := self._read(path)) is None:
            adapter = self._load()
            pipe = adapter.pipe.to(adapter.device, adapter.dtype)
            rows = generate_piece(plan, cells, self.options, pipe, self.judge, self._small_clips(plan, cells))
            found = {"rows": rows}
            self.store.put(path, seal(found))
        kept: list[Row] = found["rows"]
        return kept

    def _read(self, path: str) -> dict[str, Any] | None:
        """A finished piece; None where there is none, or a damaged one."""
        try:
            return unseal(self.store.read(path), path)
        except (FileNotFoundError, BankDamaged):
            return None

    def _small_clips(self, plan: ArmPlan, cells: Sequence[Cell]) -> Mapping[str, Small]:
        """The bank's clips that a piece is compared with, by id."""
        wanted = [(self.pool, cell.nearest.id) for cell in cells]
        wanted += [(self._pools[plan.name], cell.hit.id) for cell in cells if cell.hit]
        if len(self._clips) > _REMEMBERED:
            self._clips.clear()
        for pool in {id(pool): pool for pool, _ in wanted}.values():
            missing = {clip for owner, clip in wanted if owner is pool and clip not in self._clips}
            for clip, frames in read_clips(pool.pinned, sorted(missing)) if missing else ():
                self._clips[clip] = shrink(frames)
        return self._clips

    def _load(self) -> ModelAdapter:
        """The model, compared with every noise set when it is loaded."""
        if self._adapter is None:
            options = self.options
            asked = NoiseOptions(
                model=options.model, motion_adapter=options.motion_adapter, precision=options.precision
            )
            adapter = load_for_inversion(asked, self.digest)
            checked = {id(plan.records): plan.records for plan in self.plans}
            for records in [self.pool.records(), *checked.values()]:
                records.check(adapter.pipe, options.num_inference_steps)
            self._adapter = adapter
        return self._adapter

    def summarise(
        self, rows: Sequence[Row], accuracy: JudgeAccuracy, refused: Sequence[Mapping[str, str]]
    ) -> dict[str, Any]:
        """The summary of a study."""
        options, analysis = self.options, Analysis(self.options, rows)
        pairs = self.registered.contrasts if self.registered else []
        registered = {"file": self.registered.name, "sha256": self.registered.sha256} if self.registered else None
        noise_set = self.pool.records().model
        sizes = {plan.name: len(plan.records.nums()) for plan in self.plans}
        nearest = [hit.id for hit in self.pool.nearest([prompt.text for prompt in self.prompts])]
        known = [(p.truth, self.truth[id]) for p, id in zip(self.prompts, nearest, strict=True) if id in self.truth]
        retrieved = {name: [asked[name] == shown[name] for asked, shown in known] for name in options.attributes}
        return {
            "study": {
                "model": options.model.rpartition("/")[2],
                "model_digest": self.digest,
                "precision": self.precision,
                "noisebank": version("noisebank"),
                "bank": options.bank.rstrip("/").rpartition("/")[2],
                "snapshot": self.pool.snapshot.number,
                "noise_set": {key: noise_set[key] for key in ("inverter", "num_inference_steps", "dtype")},
                "prompts_sha256": self.prompts_sha256,
                "judge": options.judge.kind,
                "judge_options": output_options(options.judge),
                "attributes": list(options.attributes),
                "prompts": len(self.prompts),
                "refused": list(refused),
                "seeds": options.seeds,
                "seed": options.seed,
                "num_inference_steps": options.num_inference_steps,
                "guidance_scale": options.guidance_scale,
                "pool": len(self.pool.records().nums()),
                "alpha": options.alpha,
                "resamples": options.resamples,
                "permutations": options.permutations,
            },
            "judge": accuracy.document(options.attributes),
            "retrieval": {name: sum(found) / len(found) if found else None for name, found in retrieved.items()},
            "preregistration": registered,
            "primary": {"outcome": "accuracy", "contrasts": analysis.primary(pairs)},
            "arms": {name: arm | {"pool": sizes[name]} for name, arm in analysis.arms().items()},
            "exploratory": analysis.exploratory(pairs),
            "not_compared": analysis.not_compared(),
            "split": analysis.split(),
            "curves": analysis.curves(sizes),
        }


def _publish(
    store: Store,
    options: EvaluationOptions,
    summary: dict[str, Any],
    rows: Sequence[Row],
    notes: str,
    others: Sequence[Mapping[str, Any]],
) -> None:
    """Writes results; the summary last, so that it stands for all of them."""
    table = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(list(rows), _schema(options.attributes)), table)
    store.put(ROWS, table.getvalue())
    try:
        plots = draw_plots(summary)
    except ModuleNotFoundError as error:
        _log.warning("no pictures are drawn: %s is not installed; with it, the same command draws them", error.name)
        plots = {}
    for name, png in plots.items():
        store.put(name, png)
    summary["files"] = [ROWS, *plots, REPORT, SUMMARY]
    sealed = seal(summary)
    write_report(store, REPORT, options.report, [summary, *others], plots | {SUMMARY: sealed}, notes)
    store.put(SUMMARY, sealed)


def _schema(attributes: Sequence[str]) -> pa.Schema:
    """Of the rows of a study."""
    texts = ("arm", "prompt_id", "prompt")
    said = ("clip", "nearest", "rewritten", "code", "message", "drawn_digest")
    columns = [*((name, pa.string()) for name in texts), ("seed", pa.int32()), ("score", pa.float32())]
    columns += [(name, pa.string()) for name in said]
    columns += [(f"{kind}_{name}", pa.string()) for kind in ("truth", "read") for name in attributes]
    columns += [(f"{kind}_{name}", pa.bool_()) for kind in ("right", "matched") for name in attributes]
    return pa.schema([*columns, *((name, pa.float64()) for name in (OUTCOME, *MEASURES))])
