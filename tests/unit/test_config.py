"""Configuration: a file, flags over it, and errors that name the key, the value and what is allowed."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import yaml

from noisebank.config import config_from_mapping, flag_names, load_config, member_flag, to_mapping
from noisebank.errors import ConfigError
from noisebank.options import Config, NoiseOptions, SourceOptions
from noisebank.storage import open_store

TABLE = {"kind": "table", "path": "a.csv", "uri": "u", "caption": "c"}


def written(folder: Path, document: Any) -> str:
    path = folder / "bank.yaml"
    path.write_text(document if isinstance(document, str) else yaml.safe_dump(document))
    return str(path)


def test_the_defaults_are_those_of_the_documentation() -> None:
    config = load_config(None)
    assert config.bank == "./bank" and config.sources == ()
    assert dataclasses.astuple(config.fetch) == (30.0, 4, 16, 500_000_000, False)
    clips = config.clips
    assert (clips.frames, clips.frame_stride, clips.size, clips.maxcount) == (16, 8, 256, 512)
    assert clips.pixel_format == "yuv420p"
    assert config.captions.model == "sentence-transformers/paraphrase-multilingual-MiniLM-L12-v2"
    assert config.index.min_recall == 0.95
    (noise,) = config.noise
    assert (noise.name, noise.model) == ("modelscope", "damo-vilab/text-to-video-ms-1.7b")
    assert (noise.inverter, noise.num_inference_steps, noise.dtype) == ("fixed-point", 50, "float16")
    assert (config.max_failed, config.max_removed, config.max_changed) == (0.05, 0.1, 0.1)


def test_a_key_that_is_there_twice_is_an_error_and_merging_is_not(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="'size' is there twice"):
        load_config(written(tmp_path, "clips: {size: 64, frames: 4, size: 128}"))
    merged = "noise:\n- &a {name: a, num_inference_steps: 9}\n- {<<: *a, name: b}"
    assert [(n.name, n.num_inference_steps) for n in load_config(written(tmp_path, merged)).noise] == [
        ("a", 9),
        ("b", 9),
    ]


def test_a_file_is_read_with_the_types_of_the_options(tmp_path: Path) -> None:
    document = {
        "bank": "gs://me/bank",
        "sources": [
            {"kind": "webvid", "path": "a.csv"},
            {**TABLE, "name": "mine", "path": ["b.csv", "c.csv"], "start": "t0"},
        ],
        "fetch": {"timeout": 5, "max_bytes": "2MB"},
        "clips": {"size": [64, 96], "fps": 8, "frame_stride": None},
        "noise": [{"name": "a", "batch_size": 2}, {"name": "b", "batch_size": "auto", "tolerance": 1e-4}],
        "retry_failures": "http_404",
    }
    config = load_config(written(tmp_path, document))
    assert [source.path for source in config.sources] == [("a.csv",), ("b.csv", "c.csv")]
    assert config.sources[1].start == "t0" and config.sources[0].name == ""
    assert (config.fetch.timeout, config.fetch.max_bytes) == (5.0, 2_000_000)
    assert isinstance(config.fetch.timeout, float)
    assert (config.clips.height_width, config.clips.fps, config.clips.frame_stride) == ((64, 96), 8.0, None)
    assert [noise.batch_size for noise in config.noise] == [2, "auto"]
    assert config.retry_failures == ("http_404",)


def test_flags_beat_the_file(tmp_path: Path) -> None:
    path = written(tmp_path, {"clips": {"size": 128, "frames": 8}, "max_failed": 0.5, "sources": [TABLE]})
    config = load_config(path, {"clips.size": "64", "max_failed": "0", "bank": "s3://b/x", "captions.model": "m"})
    assert (config.clips.size, config.clips.frames, config.max_failed) == (64, 8, 0.0)
    assert (config.bank, config.captions.model) == ("s3://b/x", "m")
    assert load_config(path, {"clips.size": "[64, 80]"}).clips.height_width == (64, 80)


def test_members_of_lists_are_named_in_flags(tmp_path: Path) -> None:
    noise = [{"name": "a"}, {"name": "b", "dtype": "int8"}]
    path = written(tmp_path, {"sources": [{"kind": "webvid", "path": "x.csv"}, TABLE], "noise": noise})
    flags = {"noise.b.num_inference_steps": "25", "sources.webvid.path": "y.csv", "sources.table.caption": "text"}
    config = load_config(path, flags)
    assert [(noise.num_inference_steps, noise.dtype) for noise in config.noise] == [(50, "float16"), (25, "int8")]
    assert config.sources[0].path == ("y.csv",) and config.sources[1].caption == "text"
    assert load_config(None, {"noise.modelscope.batch_size": "4"}).noise[0].batch_size == 4
    whole = load_config(None, {"sources": "[{kind: internvid, path: z.jsonl}]"})
    assert (whole.sources[0].kind, whole.sources[0].path) == ("internvid", ("z.jsonl",))


@pytest.mark.parametrize("written_as", ["1e-4", "1E-4", "1.0e-4", "0.0001", "'1e-4'"])
def test_a_number_may_be_written_as_anywhere_else(tmp_path: Path, written_as: str) -> None:
    path = written(tmp_path, f"noise: [{{name: m, tolerance: {written_as}}}]\nmax_failed: 5e-1")
    assert (load_config(path).noise[0].tolerance, load_config(path).max_failed) == (1e-4, 0.5)


def test_fps_alone_leaves_no_stride_behind() -> None:
    config = config_from_mapping({"clips": {"fps": 8}})
    assert (config.clips.fps, config.clips.frame_stride) == (8.0, None)
    assert config_from_mapping(to_mapping(config)) == config
    assert config_from_mapping({"clips": {"frame_stride": 4}}, {"clips.fps": "8"}) == config
    strided = config_from_mapping({"clips": {"fps": 8}}, {"clips.frame_stride": "4"})
    assert (strided.clips.fps, strided.clips.frame_stride) == (None, 4)
    with pytest.raises(ConfigError, match="are both given"):
        config_from_mapping({}, {"clips.fps": "8", "clips.frame_stride": "4"})


TEXTS = ["/data/run #2", "010", "1_000", "org/model: x", "yes", "~", "1e3", "a dog #1 of two", "[a", " x ", "'q'", "{}"]


@pytest.mark.parametrize("text", TEXTS)
def test_text_in_a_flag_is_taken_as_it_stands(tmp_path: Path, text: str) -> None:
    path = written(tmp_path, {"sources": [TABLE], "noise": [{"name": "m"}]})
    flags = dict.fromkeys(
        ["bank", "captions.model", "noise.m.prompt", "noise.m.accelerator", "sources.table.id", "sources.table.path"],
        text,
    )
    config = load_config(path, flags)
    assert (config.bank, config.captions.model, config.noise[0].prompt) == (text, text, text)
    assert (config.noise[0].accelerator, config.sources[0].id, config.sources[0].path) == (text, text, (text,))


def test_numbers_lists_and_nothing_in_flags(tmp_path: Path) -> None:
    document = {"sources": [{**TABLE, "id": "i"}], "clips": {"fps": 8}, "noise": [{"name": "m", "tolerance": 0.1}]}
    path = written(tmp_path, document)
    flags = {"clips.frames": "010", "noise.m.tolerance": "1e-4", "prune": "true", "index.memory": "2kB"}
    config = load_config(path, flags | {"noise.m.batch_size": "auto", "retry_failures": "[tls, http_404]"})
    assert (config.clips.frames, config.noise[0].tolerance, config.prune) == (10, 1e-4, True)
    assert (config.index.memory, config.noise[0].batch_size) == (2000, "auto")
    assert config.retry_failures == ("tls", "http_404")
    several = load_config(path, {"retry_failures": "tls, http_404"})
    assert (
        several.retry_failures
        == ("tls", "http_404")
        == config_from_mapping({"retry_failures": "tls,http_404"}).retry_failures
    )
    unset = load_config(path, dict.fromkeys(["sources.table.id", "clips.fps", "noise.m.tolerance"], "null"))
    assert (unset.sources[0].id, unset.clips.fps, unset.noise[0].tolerance) == (None, None, None)
    assert load_config(path, {"bank": "null"}).bank == "null"
    assert load_config(path, {"sources.table.path": "[a.csv, 'b #1.csv']"}).sources[0].path == ("a.csv", "b #1.csv")
    assert load_config(path, {"sources.table.path": "[ab].csv"}).sources[0].path == ("[ab].csv",)
    refused = {"clips.frames": "1:30", "prune": "maybe", "fetch.timeout": "30s", "clips.frame_stride": "2.5"}
    for name, text in refused.items():
        with pytest.raises(ConfigError, match=f"{name}: '{text}' is not allowed; wanted: "):
            load_config(path, {name: text})


def test_text_that_yaml_takes_for_a_number_is_refused_in_the_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"bank: 8 is not allowed; wanted: text \(in quotes, if YAML takes it"):
        load_config(written(tmp_path, "bank: 010"))
    assert load_config(written(tmp_path, "bank: '010'")).bank == "010"


@pytest.mark.parametrize("sections", ["clips:", "clips:\nfetch:\nsources:\nnoise:\nindex: ~", "clips: {}"])
def test_a_section_without_content_is_as_good_as_none(tmp_path: Path, sections: str) -> None:
    path = written(tmp_path, sections)
    assert load_config(path) == load_config(None)
    config = load_config(path, {"clips.size": "128", "fetch.timeout": "5", "noise.modelscope.batch_size": "4"})
    assert (config.clips.size, config.fetch.timeout, config.noise[0].batch_size) == (128, 5.0, 4)
    assert config_from_mapping(yaml.safe_load(sections)) == load_config(None)


def test_what_can_be_written_in_two_ways_is_kept_in_one() -> None:
    long = {"clips": {"frames": 8, "size": [64, 64]}, "noise": [{"frames": 8}]}
    short = {"clips": {"frames": 8, "size": 64}, "noise": [{}]}
    assert config_from_mapping(long) == config_from_mapping(short)
    assert config_from_mapping({"noise": [{"frames": 8}]}).noise[0].frames == 8


def test_every_option_is_a_flag() -> None:
    flags = flag_names()
    for section in dataclasses.fields(Config):
        if dataclasses.is_dataclass(section.default):
            for member in dataclasses.fields(section.default):
                assert f"{section.name}.{member.name}" in flags
        else:
            assert section.name in flags
    for field in dataclasses.fields(SourceOptions):
        assert member_flag(f"sources.any.{field.name}")
    for field in dataclasses.fields(NoiseOptions):
        assert member_flag(f"noise.any.{field.name}")
    assert not member_flag("noise.any.nothing") and not member_flag("clips.any.size")


def test_a_configuration_survives_as_plain_values(tmp_path: Path) -> None:
    document = {
        "sources": [TABLE, {"kind": "webvid", "path": ["x", "y"]}],
        "clips": {"size": [64, 96]},
        "noise": [{"name": "a", "tolerance": 0.001}],
        "retry_failures": ["all"],
    }
    config = load_config(written(tmp_path, document))
    plain = to_mapping(config)
    assert config_from_mapping(yaml.safe_load(yaml.safe_dump(plain))) == config


WRONG: list[tuple[Any, str]] = [
    ({"clip": {}}, r"clip: unknown key; allowed here: bank, sources, fetch, clips"),
    ({"clips": {"sizes": 64}}, r"clips.sizes: unknown key; allowed here: frames, frame_stride, fps, size"),
    ({"sources": [{**TABLE, "colour": "x"}]}, r"sources\[0\].colour: unknown key"),
    ({"noise": [{"name": "a"}, {"steps": 5}]}, r"noise\[1\].steps: unknown key"),
    ({"clips": {"frames": "many"}}, r"clips.frames: 'many' is not allowed; wanted: a whole number"),
    ({"clips": {"frames": 2.5}}, r"clips.frames: 2.5 is not allowed; wanted: a whole number"),
    ({"clips": {"frames": True}}, r"clips.frames: True is not allowed; wanted: a whole number"),
    ({"fetch": {"allow_private_hosts": 1}}, r"fetch.allow_private_hosts: 1 is not allowed; wanted: true or false"),
    ({"fetch": {"concurrency": 0}}, r"fetch.concurrency: 0 is not allowed; at least 1"),
    ({"fetch": {"max_bytes": "lots"}}, r"fetch.max_bytes: 'lots' is not allowed; wanted: a size such as 500MB"),
    ({"fetch": {"timeout": float("nan")}}, r"fetch.timeout: nan is not allowed; at least"),
    ({"max_failed": 1.5}, r"max_failed: 1.5 is not allowed; at most 1"),
    ({"max_failed": -0.1}, r"max_failed: -0.1 is not allowed; at least 0"),
    ({"clips": {"pixel_format": "rgb24"}}, r"clips.pixel_format: 'rgb24' is not allowed; one of yuv420p, yuv444p"),
    ({"clips": {"size": 100}}, r"clips.size: 100 is not allowed; sides are multiples of 16"),
    ({"clips": {"size": [64]}}, r"clips.size: \[64\] is not allowed; wanted: a whole number or \[height, width\]"),
    ({"clips": {"size": [64, 16]}}, r"clips.size: 16 is not allowed; at least 64"),
    ({"clips": {"frame_stride": None}}, r"clips.frame_stride: one of frame_stride and fps is wanted"),
    ({"clips": 5}, r"clips: a mapping with keys from frames, .* is wanted, not 5"),
    ({"sources": TABLE}, r"sources: a list is wanted"),
    ({"sources": [{"path": "a.csv"}]}, r"sources\[0\].kind: missing; layout of the list"),
    ({"sources": [{"kind": "webvid"}]}, r"sources\[0\].path: missing"),
    ({"sources": [{"kind": "webvid", "path": []}]}, r"sources\[0\].path: at least one file is wanted"),
    ({"sources": [{"kind": "csv", "path": "a"}]}, r"sources\[0\].kind: 'csv' is not allowed; one of webvid, internvid"),
    ({"sources": [{"kind": "table", "path": "a", "uri": "u"}]}, r"sources\[0\]: a table needs the columns uri and cap"),
    ({"sources": [{"kind": "webvid", "path": "a", "id": "i"}]}, r"sources\[0\].id: only a table names its columns"),
    ({"sources": [TABLE, TABLE]}, r"sources\[1\].name: 'table' is taken"),
    ({"sources": [{**TABLE, "name": "a-b"}]}, r"sources\[0\].name: 'a-b' is not allowed; letters, digits and _"),
    ({"sources": [{**TABLE, "name": "../x"}]}, r"sources\[0\].name: '../x' is not allowed"),
    ({"noise": [{"name": "a"}, {"name": "a"}]}, r"noise\[1\].name: 'a' is taken"),
    ({"noise": [{"name": "a/b"}]}, r"noise\[0\].name: 'a/b' is not allowed"),
    ({"noise": [{"dtype": "int4"}]}, r"noise\[0\].dtype: 'int4' is not allowed; one of float16, int8"),
    ({"noise": [{"frames": 20}]}, r"noise.modelscope.frames: 20 is not allowed; a clip has 16"),
    ({"noise": [{"batch_size": "big"}]}, r"noise.modelscope.batch_size: 'big': a whole number or auto"),
    ({"noise": [{"batch_size": 0}]}, r"noise\[0\].batch_size: 0 is not allowed; at least 1"),
    ({"clips": {"fps": float("inf")}}, r"clips.fps: inf is not allowed; at most 1000"),
    ({"clips": {"size": [64, 8208]}}, r"clips.size: 8208 is not allowed; at most 8192"),
    ({"clips": {"fps": 8, "frame_stride": 4}}, r"clips.fps: 8 and clips.frame_stride: 4 are both given; leave one out"),
    ({"noise": [{"tolerance": "small"}]}, r"noise\[0\].tolerance: 'small' is not allowed; wanted: a number or nothing"),
    ("noise: [{tolerance: 1e+400}]", r"noise\[0\].tolerance: inf is not allowed; at most 1"),
    ("bank: " + "[" * 5000, r"not valid YAML: nested too deeply"),
    ("bank: 2026-13-45", r"not valid YAML: month must be in 1..12"),
    ("clips: [", r"not valid YAML"),
    ("just text", r"a mapping of options is wanted, not 'just text'"),
]


@pytest.mark.parametrize(("document", "message"), WRONG, ids=[message[:40] for _, message in WRONG])
def test_what_is_wrong_is_named_with_its_value_and_what_is_allowed(tmp_path: Path, document: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        load_config(written(tmp_path, document))
    assert caught.value.exit_code == 2


def test_a_file_that_is_missing_or_not_text_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"configuration .*nothing.yaml: No such file"):
        load_config(str(tmp_path / "nothing.yaml"))
    (tmp_path / "b.yaml").write_bytes(b"bank: \xff\xfe")
    with pytest.raises(ConfigError, match=r"b.yaml: not valid YAML"):
        load_config(str(tmp_path / "b.yaml"))


def test_yaml_makes_no_objects(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="not valid YAML"):
        load_config(written(tmp_path, f"bank: !!python/object/apply:pathlib.Path.touch [{tmp_path / 'pwned'}]"))
    assert not (tmp_path / "pwned").exists()


def test_flags_that_fit_nothing_are_errors() -> None:
    with pytest.raises(ConfigError, match=r"--noise.other.dtype: noise has no member named 'other'"):
        load_config(None, {"noise.other.dtype": "int8"})
    with pytest.raises(ConfigError, match=r"--clips.size '\[}\]': not valid YAML: "):
        load_config(None, {"clips.size": "[}]"})
    with pytest.raises(ConfigError, match=r"--noise .*: not valid YAML: .*'name' is there twice"):
        load_config(None, {"noise": "[{name: a, name: b}]"})
    with pytest.raises(ConfigError, match=r"noise.a: unknown key|noise: a list is wanted, not 'a'"):
        load_config(None, {"noise": "a"})
    with pytest.raises(ConfigError, match=r"clip.size: unknown key|clip: unknown key"):
        load_config(None, {"clip.size": "64"})
    with pytest.raises(ConfigError, match=r"clips.frames: 'x' is not allowed"):
        load_config(None, {"clips.frames": "x"})


def test_a_configuration_may_lie_in_a_bucket() -> None:
    open_store("memory://configurations/mine").put("bank.yaml", b"bank: ./elsewhere\n")
    assert load_config("memory://configurations/mine/bank.yaml").bank == "./elsewhere"
    with pytest.raises(ConfigError, match=r"configuration memory://configurations/mine/none\.yaml: "):
        load_config("memory://configurations/mine/none.yaml")
    for path in ("gs://bank.yaml", "https://host.example/bank.yaml"):
        with pytest.raises(ConfigError, match=f"configuration {path}: a local path, or a file of a bucket"):
            load_config(path)
