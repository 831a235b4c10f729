"""The ``noisebank`` command: one JSON object on stdout, exit codes, usage errors, and no import that is not needed."""

from __future__ import annotations

import json
import os
import re
import stat
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version
from itertools import groupby
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load, load_file

from noisebank import LowPass, NoiseBank, mixed
from noisebank.describe import KINDS
from noisebank.synthesis.options import STAGE
from pipelines.cli import main, parse_arguments
from pipelines.job_commands import read_config
from tests.support.projects import CAPTIONS, Project, Ran, noisebank

ROOT = Path(__file__).parents[3]
JOBS = ("plan", "build", "clips", "captions", "index", "noise", "commit")


def python(code: str) -> str:
    """What a program prints, in a process of its own."""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, timeout=600)
    assert done.returncode == 0, done.stderr
    return done.stdout


def usage_error(ran: Ran, *said: str) -> None:
    assert ran.exit_code == 2, ran.stderr
    for text in said:
        assert text in ran.stderr
    if ran.document:
        assert ran.document["error"]["exit_code"] == 2
        assert ran.document["error"]["message"] in ran.stderr


@pytest.mark.parametrize(
    ("words", "keys"),
    [
        (["show"], {"snapshot", "parent", "created", "rows", "noise", "index", "embedding", "failures", "bytes"}),
        (["failures"], {"failures"}),
        (["files"], {"files"}),
        (["verify"], {"ok", "files", "bytes", "damaged"}),
        (["search", "a dog"], {"hits"}),
        (["vacuum", "--dry-run"], {"snapshot", "expired", "removed", "bytes", "dry_run"}),
    ],
    ids=lambda words: words[0] if isinstance(words, list) else "",
)
def test_read_side_commands_print_one_json_object(bank_folder: Path, words: list[str], keys: set[str]) -> None:
    ran = noisebank(words[0], bank_folder, *words[1:])
    assert ran.exit_code == 0, ran.stderr
    assert ran.document.keys() >= keys


def test_show_is_as_documented(bank_folder: Path, small_model: Path) -> None:
    shown = noisebank("show", bank_folder).document
    assert (shown["snapshot"], shown["parent"], shown["rows"]) == (1, None, 6)
    replay_error = shown["noise"]["small"].pop("replay_error")
    assert 0 < replay_error < 1
    assert shown["noise"] == {
        "small": {
            "records": 6,
            "shape": [4, 4, 8, 8],
            "dtype": "float16",
            "model": str(small_model),
            "inverter": "ddim",
            "num_inference_steps": 4,
        }
    }
    assert shown["index"] == {"kind": "Flat", "size": 6, "recall": 1.0}
    assert shown["embedding"]["dim"] == 384
    assert shown["failures"] == {"missing_file": 1, "empty_caption": 1}


def test_failures_are_as_documented(bank_folder: Path) -> None:
    failures = noisebank("failures", bank_folder).document["failures"]
    assert [(f["id"], f["source"], f["stage"], f["code"], f["retryable"], f["attempts"]) for f in failures] == [
        ("mine-gone", "mine", "clips", "missing_file", False, 1),
        ("mine-mute", "mine", "plan", "empty_caption", False, 1),
    ]
    assert all({"uri", "message"} <= failure.keys() for failure in failures)


def test_files_of_one_kind_are_addresses_that_open(bank_folder: Path) -> None:
    tars = noisebank("files", bank_folder, "--kind", "clips").document["files"]
    assert len(tars) == 2 and all(Path(tar).is_file() and tar.endswith(".tar") for tar in tars)
    usage_error(noisebank("files", bank_folder, "--kind", "videos"), "'videos'", "clips, sidecars, captions")
    usage_error(noisebank("files", bank_folder, "--kind", "noise/other"), "'noise/other'", "noise/small, records/small")
    usage_error(noisebank("files", bank_folder, "--kind", "clips/small"), "'clips/small'")
    assert noisebank("files", bank_folder, "--kind", "noise/small").document["files"]


def test_help_of_files_lists_every_kind(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["files", "--help"])
    said = capsys.readouterr().out.split("--kind KIND", 2)[2].replace(",", " ").split()
    assert {*KINDS, "noise/NAME", "records/NAME"} <= {*said}


def test_bytes_are_those_of_all_files_wherever_they_are_said(bank_folder: Path) -> None:
    bytes = sum(Path(path).stat().st_size for path in noisebank("files", bank_folder).document["files"])
    assert noisebank("show", bank_folder).document["bytes"] == bytes
    assert noisebank("show", bank_folder, "--diff", 1, 1).document["bytes"] == {"before": bytes, "after": bytes}
    assert noisebank("verify", bank_folder).document["bytes"] == bytes


def test_search_ranks_and_takes_k(bank_folder: Path) -> None:
    hits = noisebank("search", bank_folder, "a puppy at the seaside", "-k", 2).document["hits"]
    assert len(hits) == 2 and hits[0]["score"] > hits[1]["score"]
    assert hits[0] | {"score": 0} == {"id": "mine-clip00", "caption": CAPTIONS[0], "score": 0, "source": "mine"}
    assert len(noisebank("search", bank_folder, "a puppy", "-k", 10**12).document["hits"]) == 6


def test_sample_depends_on_prompt_eta_and_seed_alone(bank_folder: Path, tmp_path: Path) -> None:
    def latents(*words: object) -> list[float]:
        said = noisebank("sample", bank_folder, "a dog", "-o", tmp_path / "x.safetensors", *words)
        assert said.exit_code == 0, said.stderr
        assert said.document["id"] == "mine-clip00" and said.document["shape"] == [1, 4, 4, 8, 8]
        values: list[float] = load_file(tmp_path / "x.safetensors")["latents"].flatten().tolist()
        return values

    first = latents()
    assert first == latents("--seed", 0, "--eta", 0.2, "--set", "small")
    assert first != latents("--seed", 1)
    assert first != latents("--eta", 0.3)


def test_sample_says_in_the_file_what_it_is_and_writes_the_same_bytes_again(bank_folder: Path, tmp_path: Path) -> None:
    files = [tmp_path / f"{i}.safetensors" for i in range(8)]
    for file in files:
        assert noisebank("sample", bank_folder, "a dog", "--eta", "inf", "--seed", 7, "-o", file).exit_code == 0
    with safe_open(files[0], "pt") as file:
        assert file.metadata() == {
            "id": "mine-clip00", "eta": "inf", "seed": "7", "set": "small", "snapshot": "1", "fresh": "false",
        }  # fmt: skip
    assert len({file.read_bytes() for file in files}) == 1


def test_sample_takes_a_prior_and_a_low_pass_and_says_them(bank_folder: Path, tmp_path: Path) -> None:
    file = tmp_path / "x.safetensors"
    words = ["--prior", "mixed", "--alpha", 3, "--lowpass", "gaussian", "--spatial", 0.5, "--eta", 0.5]
    ran = noisebank("sample", bank_folder, "a dog", "-o", file, *words)
    assert ran.exit_code == 0, ran.stderr
    said = {"prior": "mixed", "alpha": 3.0, "lowpass": "gaussian", "spatial": 0.5, "temporal": 0.25}
    assert {name: ran.document[name] for name in said} == said
    with safe_open(file, "pt") as opened:
        assert {name: opened.metadata()[name] for name in said} == {name: str(value) for name, value in said.items()}
    options = {"prior": mixed(3.0), "lowpass": LowPass("gaussian", spatial=0.5), "eta": 0.5}
    expected = NoiseBank.open(bank_folder).sample("a dog", generator=torch.Generator().manual_seed(0), **options)
    assert torch.equal(load_file(file)["latents"], expected.latents)
    assert ran.document["marginal_variance"] == list(expected.marginal_variance)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--prior", "pink"], "prior 'pink' is not allowed; one of iid, mixed, progressive"),
        (["--alpha", "2"], "alpha 2.0 is not allowed with prior 'iid'; with mixed, progressive"),
        (["--prior", "mixed", "--alpha", "-1"], "--alpha: '-1' is not allowed"),
        (["--lowpass", "low"], "lowpass 'low' is not allowed; one of gaussian, butterworth, ideal, box"),
        (["--lowpass", "box", "--spatial", "0"], "spatial cut-off 0.0 is not allowed; at least 1e-06, at most 1"),
        (["--temporal", "0.1"], "--temporal is a cut-off of a filter; name one with --lowpass"),
    ],
)
def test_sample_names_what_is_wrong_with_a_mix(
    bank_folder: Path, tmp_path: Path, words: list[str], message: str
) -> None:
    usage_error(noisebank("sample", bank_folder, "a dog", "-o", tmp_path / "x.safetensors", *words), message)


def test_a_bank_of_several_sets_asks_for_the_flag(project: Project, tmp_path: Path) -> None:
    project.write_list(project.rows(1))
    (noise,) = project.config["noise"]
    project.configure(noise=[noise, {**noise, "name": "other"}])
    project.build()
    ran = noisebank("sample", project.bank, "a dog", "-o", tmp_path / "x.safetensors")
    usage_error(ran, "name a noise_set; it has other, small (--set NAME)")
    assert ran.document["error"]["type"] == "UnknownNoiseSet"


def test_sample_writes_a_whole_file_that_others_may_read(bank_folder: Path, tmp_path: Path) -> None:
    latents, kept = tmp_path / "x.safetensors", tmp_path / "kept"
    latents.write_bytes(b"an earlier file")
    kept.hardlink_to(latents)
    before = os.umask(0o027)
    try:
        assert noisebank("sample", bank_folder, "a dog", "-o", latents).exit_code == 0
    finally:
        os.umask(before)
    assert kept.read_bytes() == b"an earlier file"
    assert load_file(latents)["latents"].shape == (1, 4, 4, 8, 8)
    assert stat.S_IMODE(latents.stat().st_mode) == 0o640
    assert {path.name for path in tmp_path.iterdir()} == {"x.safetensors", "kept"}


def test_sample_writes_into_a_pipe(bank_folder: Path, tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with ThreadPoolExecutor(1) as reader:
        read = reader.submit(pipe.read_bytes)
        assert noisebank("sample", bank_folder, "a dog", "-o", pipe).exit_code == 0
        assert load(read.result())["latents"].shape == (1, 4, 4, 8, 8)
    assert pipe.is_fifo()


def test_without_json_people_read_lines(bank_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["failures", str(bank_folder)]) == 0
    first, second = capsys.readouterr().out.splitlines()
    assert first.startswith("mine-gone  clips  missing_file  ")
    assert "list.csv, row 8" in second
    assert main(["files", str(bank_folder), "--kind", "index"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 3


@pytest.mark.parametrize(
    "words",
    [
        ["show"],
        ["failures"],
        ["files"],
        ["verify"],
        ["search", "a dog"],
        ["sample", "a dog", "-o", "x"],
        ["vacuum"],
    ],
    ids=lambda words: words[0],
)
def test_a_bank_that_is_not_there_is_said_so_in_json_too(tmp_path: Path, words: list[str]) -> None:
    ran = noisebank(words[0], tmp_path / "nothing", *words[1:])
    assert ran.exit_code == 1
    assert ran.document["error"]["type"] == "BankNotFound"
    assert str(tmp_path / "nothing") in ran.document["error"]["message"]
    assert not (tmp_path / "nothing").exists()


def test_wrong_values_of_read_side_commands_are_usage_errors(bank_folder: Path, tmp_path: Path) -> None:
    usage_error(
        noisebank("search", bank_folder, "a dog", "-k", 0), "-k: '0' is not allowed; a whole number, at least 1"
    )
    usage_error(noisebank("search", bank_folder, "a dog", "-k", "few"), "-k: 'few' is not allowed")
    latents = tmp_path / "x.safetensors"
    usage_error(noisebank("sample", bank_folder, "a dog", "--eta=-1", "-o", latents), "--eta: '-1' is not allowed")
    usage_error(noisebank("sample", bank_folder, "a dog", "--eta", "1e300", "-o", latents), "eta 1e+300 is not allowed")
    usage_error(noisebank("search", bank_folder, "a \udcff"), r"'a \udcff' is not UTF-8")
    usage_error(noisebank("show", bank_folder, "--snapshot", 1, "--diff", 1, 1), "not allowed with argument --snapshot")
    usage_error(noisebank("show", ""), "bank address '' is empty")
    usage_error(noisebank("show", bank_folder, "--no-such-flag"), "unrecognized arguments: --no-such-flag")
    usage_error(noisebank("show", "ftp://host/bank"), "ftp")
    nowhere = tmp_path / "no" / "where"
    usage_error(noisebank("sample", bank_folder, "a dog", "-o", nowhere), f"--output: {nowhere}: its folder")
    usage_error(noisebank("sample", bank_folder, "a dog", "--seed", 2**64, "-o", latents), "--seed: '18446744073709")
    usage_error(noisebank("compact", bank_folder, "--maxcount", 0), "--maxcount: '0' is not allowed")
    unknown = noisebank("sample", bank_folder, "a dog", "--set", "other", "-o", latents)
    usage_error(unknown, "no noise set 'other'; it has small")
    assert not latents.exists()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["no-such-command"], "invalid choice: 'no-such-command'"),
        (["show"], "the following arguments are required: BANK"),
        (["show", "bank", "--no-such-flag"], "unrecognized arguments: --no-such-flag"),
        (["vacuum", "bank", "--keep", "few"], "argument --keep: invalid int value: 'few'"),
        (["build", "--config"], "argument -c/--config: expected one argument"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, list) else "",
)
def test_a_command_line_that_cannot_be_read_is_said_in_json_too(words: list[str], said: str) -> None:
    ran = noisebank(*words)
    usage_error(ran, said)
    assert ran.document["error"]["type"] == "ConfigError" and said in ran.document["error"]["message"]


def test_a_missing_snapshot_is_named(bank_folder: Path) -> None:
    ran = noisebank("show", bank_folder, "--snapshot", 7)
    assert ran.exit_code == 1 and "7" in ran.document["error"]["message"]


def test_a_damaged_file_is_found(project: Project) -> None:
    project.write_list(project.rows(2))
    project.build()
    path = Path(project.look("files", "--kind", "noise")["files"][0])
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    ran = noisebank("verify", project.bank)
    assert ran.exit_code == 1 and not ran.document["ok"]
    assert [damage["path"] for damage in ran.document["damaged"]] == [str(path.relative_to(project.bank))]


def test_repair_of_foreign_files_alone_repairs_nothing(project: Project, capsys: pytest.CaptureFixture[str]) -> None:
    project.write_list(project.rows(2))
    project.build()
    foreign = project.bank / "clips" / "holiday\n\x1b[2J.tar"
    foreign.touch()
    ran = noisebank("verify", project.bank, "--repair")
    assert ran.exit_code == 1 and not ran.document["ok"] and "repaired_in" not in ran.document
    Path(project.look("files", "--kind", "noise")["files"][0]).unlink()
    ran = noisebank("verify", project.bank, "--repair")
    assert (ran.exit_code, ran.document["repaired_in"]) == (1, 2)
    capsys.readouterr()
    assert main(["verify", str(project.bank), "--repair"]) == 1
    assert capsys.readouterr().out.splitlines() == [
        "clips/holiday  [2J.tar: foreign: not a file of a bank; move it elsewhere",
        "1 foreign files stay; move them elsewhere and verify again",
    ]
    foreign.unlink()
    assert noisebank("verify", project.bank, "--repair").exit_code == 0


@pytest.mark.parametrize("command", ["plan", "build", "noise"])
def test_an_install_without_the_jobs_says_what_to_install(project: Project, command: str) -> None:
    code = f"""
import sys
sys.modules["apache_beam"] = None
from pipelines.cli import main
sys.exit(main([{command!r}, "--json", "-c", {str(project.config_file)!r}]))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, timeout=600)
    message = "apache_beam is not installed; pip install 'noisebank[jobs]'"
    assert (done.returncode, done.stderr) == (2, f"noisebank {command}: {message}\n")
    assert json.loads(done.stdout)["error"] == {"type": "ConfigError", "message": message, "exit_code": 2}


def test_the_example_ends_with_the_message(tmp_path: Path) -> None:
    words = [sys.executable, "examples/generate.py", str(tmp_path / "none"), "model", "a dog", str(tmp_path / "x.gif")]
    done = subprocess.run(words, capture_output=True, text=True, cwd=ROOT, timeout=600)
    assert done.returncode == 1
    assert re.fullmatch(rf"generate\.py: {tmp_path}/none: .*\n", done.stderr), done.stderr


@pytest.mark.parametrize("command", ["build", "plan", "clips"])
@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--bank", ""], ["bank address '' is empty"]),
        (["--bank", __file__], [f"bank address {__file__!r}: a file is there, not a folder"]),
        (["--clips.fps", "8", "--clips.frame_stride", "2"], ["clips.fps: 8 and clips.frame_stride: 2 are both given"]),
        (["--clips.size", "100"], ["clips.size: 100 is not allowed", "multiples of 16"]),
        (["--clips.sise", "64"], ["--clips.sise: neither an option of noisebank nor of Beam"]),
        (["--retry-failures", "http_404,too_shrt"], ["retry_failures: ", "'too_shrt'", "too_short"]),
        (["--max_failed", "2"], ["max_failed: 2.0 is not allowed; at most 1"]),
        (["--runer", "FlinkRunner"], ["--runer"]),
        (["--direct_num_workers=two"], ["direct_num_workers", "'two'"]),
        (["--direct_running_mode=quickly"], ["direct_running_mode", "'quickly'"]),
        (["--runner=NoSuchRunner"], ["NoSuchRunner", "FlinkRunner"]),
        (["--noise.small.dtype", "int4"], ["noise[0].dtype: 'int4' is not allowed; one of float16, int8"]),
        (["--noise.other.dtype", "int8"], ["noise has no member named 'other'"]),
        (["--noise.small.dtype"], ["--noise.small.dtype: a value is wanted"]),
        (["--noise.small.batch-size", "0"], ["noise[0].batch_size: 0 is not allowed; at least 1"]),
        (["--sources.mine.no-such"], ["--sources.mine.no-such: neither an option of noisebank nor of Beam"]),
        (["--captions.model", "/no/such/model"], ["/no/such/model"]),
        (["--noise.small.model", "/no/such/model"], ["/no/such/model"]),
        (["stray"], ["stray"]),
    ],
    ids=lambda value: value[0] if isinstance(value, list) and value[0].startswith(("--", "stray")) else "",
)
def test_wrong_options_of_jobs_are_usage_errors_and_nothing_is_done(
    project: Project, command: str, flags: list[str], said: list[str]
) -> None:
    project.write_list(project.rows(1))
    usage_error(project.run(command, *flags), *said)
    assert not project.bank.exists()


def test_wrong_files_are_usage_errors_and_nothing_is_done(project: Project, tmp_path: Path) -> None:
    missing = project.folder / "list.csv"
    usage_error(project.run("build"), f"source mine: path {str(missing)!r}: no such file\n")
    missing.write_text("id,uri,text\n1,a.mp4,words\n")
    usage_error(project.run("build"), str(missing), "caption", "id, uri, text")
    missing.write_text("")
    usage_error(project.run("build"), str(missing))
    missing.write_bytes(b"PAR1 and then nothing")
    (project.folder / "list.parquet").write_bytes(b"PAR1 and then nothing")
    project.configure(sources=[project.source("mine", "list.parquet")])
    usage_error(project.run("build"), "list.parquet")
    usage_error(noisebank("build", "-c", tmp_path / "none.yaml"), "none.yaml: No such file")
    project.config_file.write_text("sources: [{kind: webvid, path: x.csv}]\nclip: {}\n")
    usage_error(project.run("build"), "clip: unknown key; allowed here: bank, sources")
    project.config_file.write_text(f"bank: {project.bank}\n")
    usage_error(project.run("build"), "sources: at least one list is wanted")
    assert not project.bank.exists()


def test_a_noise_set_that_cannot_take_the_clips_is_a_usage_error(project: Project, tmp_path: Path) -> None:
    from noisebank.fixtures.small_models import make_small_model

    project.write_list(project.rows(1))
    model = make_small_model("cogvideox", tmp_path / "cogvideox")
    ran = project.run("plan", "--noise.small.model", model)
    usage_error(ran, "noise.small: clips of 4 x 64 x 64", "4 does not fit, 1, 5, 9 would", "change clips.size, or")
    assert not project.bank.exists()


def test_flags_beat_the_file(project: Project) -> None:
    project.write_list(project.rows(2))
    elsewhere = project.folder / "elsewhere"
    summary = project.build("--bank", elsewhere, "--clips.frames", 2, "--noise.small.num_inference_steps=3")
    assert summary["rows"]["in_bank"] == 2 and not project.bank.exists()
    shown = noisebank("show", elsewhere).document
    assert shown["noise"]["small"]["shape"] == [4, 2, 8, 8] and shown["noise"]["small"]["num_inference_steps"] == 3


@pytest.mark.parametrize("flag", ["--noise.small.num-inference-steps=7", "--noise.small.num_inference_steps=7"])
def test_members_of_lists_take_hyphens_and_underscores(project: Project, flag: str) -> None:
    arguments = parse_arguments(["build", "-c", str(project.config_file), flag, "--sources.mine.caption", "other-text"])
    config, beam = read_config(arguments)
    assert config.noise[0].num_inference_steps == 7 and config.sources[0].caption == "other-text"
    assert not beam


@pytest.mark.parametrize(
    "flags",
    [["--runner=DirectRunner"], ["--direct_running_mode=multi_processing", "--direct_num_workers=2"]],
    ids=["one process", "worker processes"],
)
def test_job_commands_run_as_a_module_too_and_log_our_lines_alone(project: Project, flags: list[str]) -> None:
    project.write_list(project.rows(1))
    words = [sys.executable, "-m", "pipelines.build", "--json", "-c", str(project.config_file), *flags]
    done = subprocess.run(words, capture_output=True, text=True, cwd=ROOT, timeout=600)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["rows"]["in_bank"] == 1
    assert done.stdout.count("\n") == 1
    lines = [line for line in done.stderr.splitlines() if not re.search(r" I (planning|clips \d/\d.*)$", line)]
    ours = [re.fullmatch(r"\d\d:\d\d:\d\d I (\w+).*", line) for line in lines]
    told = [word for word, _ in groupby(line and line[1] for line in ours)]  # (another worker tells of its own model)
    assert told == ["noise", "clips", "captions", "noise", "index"], done.stderr  # (models are tried before all else)


def test_long_commands_say_on_stderr_how_far_they_came(project: Project) -> None:
    project.write_list(project.rows(6))
    for words, said in (
        (
            ["build", "-c", project.config_file, "--clips.maxcount", 2],
            r"clips (\d)/\1, captions (\d)/\2, noise/small (\d)/\3: (\d+) of \4 shards",
        ),
        (["verify", project.bank], r"verify: (\d+) of \1 bytes"),
        (["compact", project.bank, "--maxcount", 6], r"compact: 3 shards"),
        (["vacuum", project.bank], r"vacuum: (\d+) of \1 files"),
    ):
        ran = noisebank(*words)
        assert ran.exit_code == 0, ran.stderr
        assert re.fullmatch(rf"\d\d:\d\d:\d\d I {said}", ran.stderr.splitlines()[-1]), ran.stderr


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        main(["--version"])
    assert capsys.readouterr().out == f"noisebank {version('noisebank')}\n"


def test_help_lists_the_commands_without_importing_what_they_need() -> None:
    code = """
import sys
from pipelines.cli import main
try:
    main(["--help"])
except SystemExit as stop:
    assert stop.code == 0
print(*sorted(set(sys.modules) & {"apache_beam", "torch", "faiss", "diffusers", "sentence_transformers", "decord"}))
"""
    *text, heavy = python(code).splitlines()
    assert heavy == ""
    commands = {line.split()[0] for line in text if line.startswith("    ") and line.split()}
    assert {*JOBS, "demo", "search", "sample", "show", "failures", "files", "verify", "vacuum"} <= commands


def test_help_of_a_job_says_every_option_with_its_default(capsys: pytest.CaptureFixture[str]) -> None:
    from noisebank.config import flag_names

    with pytest.raises(SystemExit) as stop:
        main(["build", "--help"])
    assert stop.value.code == 0
    text = capsys.readouterr().out
    for name in flag_names():
        assert f"--{name}" in text
    words = " ".join(text.split())
    assert "short side and crop, or [height, width]; multiples of 16, from 64 on (default: 256)" in words
    assert "--reward." not in text
    assert "--stages.NAME.kind what the stage does" in words and "--stages.NAME.name name of the stage" in words
    options = [line for line in text.replace("(default: ", "").splitlines() if line.startswith("  --")]
    assert [line for line in options if line.count(": ") > 1] == []


def test_help_of_synthesize_says_where_the_tars_are(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["synthesize", "--help"])
    assert f"path: OUT/{STAGE}/*.tar," in capsys.readouterr().out


def test_counts_are_in_the_right_number(project: Project, capsys: pytest.CaptureFixture[str]) -> None:
    project.write_list(project.rows(1))
    assert main(["plan", "-c", str(project.config_file)]) == 0
    assert "\nclips: 1 row, 1 shard\n" in capsys.readouterr().out


@pytest.mark.parametrize("words", [["show"], ["search", "a dog"], ["verify"]], ids=lambda words: words[0])
def test_read_side_commands_import_no_beam(bank_folder: Path, words: list[str]) -> None:
    arguments = [words[0], str(bank_folder), *words[1:]]
    code = f"""
import sys
from pipelines.cli import main
assert main({arguments!r}) == 0
print(*sorted(set(sys.modules) & {{"apache_beam", "diffusers", "decord"}}))
"""
    assert python(code).splitlines()[-1] == ""


def test_importing_the_library_imports_nothing_heavy() -> None:
    code = "import sys, noisebank; print(*sorted(set(sys.modules) & {'apache_beam', 'torch', 'faiss', 'diffusers'}))"
    assert python(code).strip() == ""


def test_what_people_read_has_no_line_breaks_or_control_characters(
    project: Project, capsys: pytest.CaptureFixture[str]
) -> None:
    row = project.rows(1)[0]._replace(caption="a dog\n\x1b[2Jon the beach")
    project.write_list([row, row._replace(id="gone", uri="gone\x1b[2J\x07\nfake-id  clips  ok")])
    project.build("--max_failed", 1)
    assert main(["search", str(project.bank), "a dog"]) == 0
    assert capsys.readouterr().out.endswith("  mine-clip00  a dog  [2Jon the beach\n")
    assert main(["failures", str(project.bank)]) == 0
    said = capsys.readouterr().out
    assert said.startswith("mine-gone  clips  missing_file  gone [2J  fake-id  clips  ok  ")
    assert said.count("\n") == 1 and said.rstrip("\n").isprintable()


def test_an_error_of_a_job_is_one_line(project: Project) -> None:
    command = [sys.executable, "-m", "pipelines.cli", "plan", "-c", str(project.config_file)]
    ran = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=600)
    missing = project.folder / "list.csv"
    assert ran.returncode == 2 and ran.stdout == ""
    assert ran.stderr == f"noisebank plan: source mine: path {str(missing)!r}: no such file\n"


def test_an_object_store_that_does_not_answer_is_said_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    for key in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_REGION"):
        monkeypatch.setenv(key, "test")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    ran = noisebank("show", "s3://bucket/bank")
    assert ran.exit_code == 1 and ran.stderr.count("\n") == 1
    said = "s3://bucket: HEAD at http://127.0.0.1:1: no connection (tcp connect error), 2 tries"
    assert ran.document["error"] == {"type": "StoreError", "message": said, "exit_code": 1}


def test_a_file_that_cannot_be_written_is_named(bank_folder: Path, tmp_path: Path) -> None:
    ran = noisebank("sample", bank_folder, "a dog", "-o", tmp_path)
    assert ran.exit_code == 1 and str(tmp_path) in ran.document["error"]["message"]
