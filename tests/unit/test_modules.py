"""Packages of one's own: imported when a configuration names them, their kinds and options like those built in."""

from __future__ import annotations

import dataclasses
import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from diffusers import DDIMScheduler

from noisebank import options
from noisebank.config import config_from_mapping, load_config, load_document, member_flag, to_mapping
from noisebank.errors import ConfigError
from noisebank.inversion import INVERTERS, invert, levels_from_scheduler
from noisebank.modules import import_modules, module_version
from noisebank.options import (
    OPTION_CLASSES,
    ClipOptions,
    NoiseOptions,
    SourceOptions,
    StageOptions,
    fingerprint,
    option,
    options_class,
    register_options,
)

MOMENTUM = "tests.support.momentum"
MINE: dict[str, Any] = {"modules": [MOMENTUM], "noise": [{"name": "mine", "inverter": "momentum", "momentum": 0.5}]}


@dataclasses.dataclass(frozen=True)
class BlurOptions(StageOptions):
    """Options of a stage of one's own."""

    radius: int = option(2, "pixels", minimum=1, maximum=100)


@dataclasses.dataclass(frozen=True)
class FeedOptions(SourceOptions):
    """Options of a source of one's own."""

    token: str = option("", "what the feed asks for", hashed=False)


@pytest.fixture(autouse=True)
def registries(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What a test registers, or imports from its folder, is forgotten after it."""
    monkeypatch.syspath_prepend(tmp_path)
    registries: list[dict[Any, Any]] = [OPTION_CLASSES, options._REGISTERED_BY, INVERTERS]
    before = [dict(registry) for registry in registries]
    yield
    for registry, entries in zip(registries, before, strict=True):
        registry.clear()
        registry.update(entries)
    for name in (MOMENTUM, "own", "own.inverters"):
        sys.modules.pop(name, None)


def refusal(document: dict[str, Any], flags: dict[str, str] | None = None) -> str:
    with pytest.raises(ConfigError) as error:
        config_from_mapping(document, flags)
    return str(error.value)


def write(path: Path, text: str) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    importlib.invalidate_caches()


def loaded(folder: Path, document: dict[str, Any], flags: dict[str, str] | None = None) -> NoiseOptions:
    """The noise set of a configuration in a file."""
    (folder / "bank.yaml").write_text(yaml.safe_dump(document))
    return load_config(str(folder / "bank.yaml"), flags).noise[0]


def test_an_inverter_of_a_module_has_options_of_its_own(tmp_path: Path) -> None:
    mine: Any = loaded(tmp_path, MINE)
    assert type(mine).__name__ == "MomentumOptions"
    assert (mine.momentum, mine.note, mine.num_inference_steps) == (0.5, None, 50)
    assert loaded(tmp_path, MINE, {"noise.mine.momentum": "0.25", "noise.mine.note": "x"}) == dataclasses.replace(
        mine, momentum=0.25, note="x"
    )
    config = load_config(str(tmp_path / "bank.yaml"))
    assert config.modules == (MOMENTUM,)
    assert config_from_mapping(to_mapping(config)) == config


def test_its_options_are_validated_and_named_beside_the_others(tmp_path: Path) -> None:
    loaded(tmp_path, MINE)
    noise = MINE["noise"][0]
    assert refusal({"noise": [noise | {"momentum": 2}]}) == "noise[0].momentum: 2.0 is not allowed; at most 1"
    unknown = refusal({"noise": [noise | {"momentun": 0}]})
    assert unknown.startswith("noise[0].momentun: unknown key; allowed here: name, model, inverter, ")
    assert unknown.endswith(", max_reconstruction_error, momentum, note")
    assert refusal({"noise": [{"inverter": "ddim", "momentum": 0.5}]}).startswith("noise[0].momentum: unknown key")
    assert refusal({"noise": [{"name": "mine"}]}, {"noise.mine.momentum": "1"}).startswith("noise[0].momentum: unknown")


def test_its_options_are_flags_once_its_module_is_known() -> None:
    assert not member_flag("noise.modelscope.momentum")
    flags = {"modules": f"[{MOMENTUM}]", "noise.modelscope.inverter": "momentum"}
    document = load_document(None, flags)
    assert member_flag("noise.modelscope.momentum") and not member_flag("sources.any.momentum")
    mine: Any = config_from_mapping(document, {**flags, "noise.modelscope.momentum": "0.1"}).noise[0]
    assert (mine.inverter, mine.momentum) == ("momentum", 0.1)
    assert load_config(None, {"modules": MOMENTUM}).modules == (MOMENTUM,)


def test_it_inverts_with_its_options(tmp_path: Path) -> None:
    mine: Any = loaded(tmp_path, MINE)
    scheduler = DDIMScheduler(clip_sample=False)
    scheduler.set_timesteps(5)
    levels, latents = levels_from_scheduler(scheduler), torch.randn(2, 4, 2, 4, 4)

    def noise_of(options: NoiseOptions) -> torch.Tensor:
        return invert(lambda z, t: torch.tanh(z), latents, levels, options).noise

    ddim = noise_of(NoiseOptions(inverter="ddim"))
    assert torch.equal(noise_of(dataclasses.replace(mine, momentum=0.0)), ddim)
    assert not torch.allclose(noise_of(mine), ddim)


def test_a_mapping_alone_imports_nothing() -> None:
    assert refusal(MINE) == (
        "noise[0].inverter: 'momentum' is not allowed; one of ddim, diffuse, fixed-point, or a kind that one of your "
        "modules registers (modules: [my_package])"
    )
    assert MOMENTUM not in sys.modules


def test_the_fingerprint_has_its_options_and_the_version_of_its_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine = loaded(tmp_path, MINE)
    before = fingerprint(mine)
    assert fingerprint(dataclasses.replace(mine, note="x")) == before == fingerprint(mine)
    assert fingerprint(dataclasses.replace(mine, momentum=0.25)) != before
    monkeypatch.setattr(sys.modules["tests"], "__version__", "1.0", raising=False)
    first = fingerprint(mine)
    monkeypatch.setattr(sys.modules["tests"], "__version__", "1.1")
    assert len({before, first, fingerprint(mine)}) == 3
    built_in = NoiseOptions(inverter="ddim")
    assert fingerprint(built_in, model_digest="abc") == "b30d848528e1cf0b"
    assert fingerprint(ClipOptions()) == "56308d90c4008ddb"


def test_an_inverter_without_options_of_its_own_still_counts_with_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = fingerprint(NoiseOptions(inverter="mine"))
    register_options("noise", "mine", NoiseOptions, "tests.support")
    monkeypatch.setattr(sys.modules["tests"], "__version__", "1.0", raising=False)
    first = fingerprint(NoiseOptions(inverter="mine"))
    monkeypatch.setattr(sys.modules["tests"], "__version__", "1.1")
    assert len({plain, first, fingerprint(NoiseOptions(inverter="mine"))}) == 3


def test_stages_and_sources_of_ones_own() -> None:
    stage = {"kind": "blur", "name": "soft", "radius": 3}
    assert "stages[0].kind: 'blur' is not allowed; " in refusal({"stages": [stage]})
    register_options("stages", "blur", BlurOptions)
    register_options("stages", "sharpen", StageOptions, __name__)
    register_options("sources", "feed", FeedOptions)
    assert options_class("stages", "blur") is BlurOptions and options_class("stages", "other") is StageOptions
    config = config_from_mapping({"stages": [stage], "sources": [{"kind": "feed", "path": "x", "token": "t"}]})
    assert config.stages == (BlurOptions("blur", "soft", 3),)
    assert config.sources == (FeedOptions("feed", ("x",), token="t"),)
    assert config_from_mapping({"stages": [stage]}, {"stages.soft.radius": "4"}).stages[0] == BlurOptions(
        "blur", "soft", 4
    )
    assert config_from_mapping({}, {"stages": "[{kind: sharpen, name: x}]"}).stages == (StageOptions("sharpen", "x"),)
    assert "one of blur, sharpen, or a kind that one of your modules" in refusal({"stages": [{"kind": "b"}]})
    assert refusal({"stages": [{"kind": "blur"}]}) == "stages[0].name: missing; name of the stage"
    assert refusal({"stages": [{"name": "x"}]}).startswith("stages[0].kind: missing; ")
    assert "stages[0].kind: 5 is not allowed; wanted: text" in refusal({"stages": [{"kind": 5, "name": "x"}]})
    assert "stages[0].name: 'a-b' is not allowed" in refusal({"stages": [stage | {"name": "a-b"}]})
    assert "stages[1].name: 'soft' is taken" in refusal({"stages": [stage, stage]})
    assert fingerprint(config.stages[0]) != fingerprint(BlurOptions("blur", "soft", 4))


class NotADataclass(NoiseOptions):
    momentum: float = option(0.5)


@dataclasses.dataclass(frozen=True)
class PlainField(NoiseOptions):
    momentum: float = 0.5


@pytest.mark.parametrize(
    ("made", "message"),
    [
        (NotADataclass, "NotADataclass: options of noise are a @dataclass that extends NoiseOptions"),
        (StageOptions, "StageOptions: options of noise are a @dataclass that extends NoiseOptions"),
        (PlainField, r"PlainField.momentum: make it with noisebank.options.option"),
    ],
)
def test_options_that_could_not_be_options_are_refused(made: type, message: str) -> None:
    with pytest.raises(TypeError, match=message):
        register_options("noise", "mine", made)
    assert ("noise", "mine") not in OPTION_CLASSES


def test_an_option_has_both_limits_or_neither() -> None:
    with pytest.raises(TypeError, match="a minimum and a maximum or neither, not 0 and None"):
        option(0.5, "a share", minimum=0)


def test_a_kind_keeps_its_name() -> None:
    with pytest.raises(ValueError, match="'ddim' of own has the name of one of noisebank; give it another"):
        register_options("noise", "ddim", NoiseOptions, "own.inverters")
    register_options("noise", "mine", NoiseOptions, "own.inverters")
    register_options("noise", "mine", NoiseOptions, "own.others")


FAILING = {
    "raise ValueError('no such\\n  weights')": "fails while it is imported: ValueError: no such weights",
    "import sys; sys.exit('bye')": "fails while it is imported: SystemExit: bye",
    "import not_there_at_all": "fails while it is imported: ModuleNotFoundError: No module named 'not_there_at_all'",
    "def f(:": "fails while it is imported: SyntaxError: ",
    "from noisebank.inversion import register_inverter\nregister_inverter('ddim')(lambda *words: None)": (
        "fails while it is imported: ValueError: noise: kind 'ddim' of own has the name of one of noisebank"
    ),
}


@pytest.mark.parametrize("text", FAILING)
def test_a_module_that_fails_is_named_with_the_cause_in_one_line(tmp_path: Path, text: str) -> None:
    write(tmp_path / "own" / "__init__.py", text)
    with pytest.raises(ConfigError) as error:
        load_config(None, {"modules": "own"})
    assert str(error.value).startswith(f"modules: own {FAILING[text]}")
    assert "\n" not in str(error.value) and error.value.exit_code == 2


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("not_there_at_all", "modules: not_there_at_all is not there; install it beside noisebank, or put its folder"),
        ("own.nothing", "modules: own.nothing is not there; "),
        ("not_there.at_all", "modules: not_there is not there; "),
        ("my-package", "modules: 'my-package' is not allowed; a dotted name such as my_package.inverters is wanted"),
        ("./own.py", "modules: './own.py' is not allowed"),
        (".own", "modules: '.own' is not allowed"),
        ("", "modules: '' is not allowed"),
    ],
)
def test_a_module_that_is_not_there_or_none_is_named(tmp_path: Path, name: str, message: str) -> None:
    write(tmp_path / "own" / "__init__.py", "")
    with pytest.raises(ConfigError) as error:
        import_modules([name])
    assert str(error.value).startswith(message)


@pytest.mark.parametrize("given", [5, [5], {"a": 1}])
def test_modules_are_names(given: Any, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"modules\[0\]: .* is not allowed; wanted: text"):
        loaded(tmp_path, {"modules": given})
    assert loaded(tmp_path, {"modules": None}) == NoiseOptions()


def test_a_module_is_imported_once(tmp_path: Path) -> None:
    write(tmp_path / "own" / "__init__.py", "times = []")
    write(tmp_path / "own" / "inverters.py", "import own; own.times.append(1)")
    import_modules(["own.inverters", "own"])
    import_modules(["own.inverters"])
    assert sys.modules["own"].times == [1]


def test_a_version_is_what_the_package_says(tmp_path: Path) -> None:
    write(tmp_path / "own" / "__init__.py", "__version__ = '1.2'")
    assert module_version("own") == module_version("own.inverters") == "1.2"


def test_or_what_its_distribution_says(tmp_path: Path) -> None:
    write(tmp_path / "own" / "__init__.py", "")
    write(tmp_path / "own_things-3.4.dist-info" / "METADATA", "Metadata-Version: 2.1\nName: own-things\nVersion: 3.4\n")
    write(tmp_path / "own_things-3.4.dist-info" / "top_level.txt", "own\n")
    assert module_version("own") == "3.4"


@pytest.mark.parametrize("file", ["own/inverters.py", "own/deeper/more.py", "own.py"])
def test_or_a_digest_of_its_files(tmp_path: Path, file: str) -> None:
    if file != "own.py":
        write(tmp_path / "own" / "__init__.py", "")
    write(tmp_path / file, "x = 1\n")
    before = module_version("own")
    assert before == module_version("own") and len(before) == 16
    (tmp_path / file).write_text("x = 2\n")
    assert module_version("own") != before
