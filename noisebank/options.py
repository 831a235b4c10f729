"""Every option of a build, defined once.

The dataclasses below are what the YAML file, the command line, validation, ``--help`` and the stage fingerprints are
all made from. A field marked ``hashed=False`` changes how the work is done but not its output (concurrency, retries,
batch size), so it is left out of the fingerprint and changing it redoes nothing. Where ``hashed`` is a function of the
options, it says whether the field has an effect beside the others; without one it counts as its default.

Members of the lists ``sources``, ``noise`` and ``stages`` are of a kind; a kind may have options of its own
(:func:`register_options`), in a dataclass that extends its section's.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

from noisebank.devices import parse_device
from noisebank.errors import FAILURE_CODES
from noisebank.hub import refer
from noisebank.modules import module_version
from noisebank.option_fields import is_unsaid
from noisebank.option_fields import option as option
from noisebank.source_options import FolderOptions, TableOptions, TarOptions
from noisebank.source_options import SourceOptions as SourceOptions

INVERTER_KINDS = ("ddim", "diffuse", "fixed-point")
PIXEL_FORMATS = ("yuv420p", "yuv444p")
STORAGE_DTYPES = ("float16", "int8")
PRECISIONS = ("auto", "float32", "float16", "bfloat16")
VAE_PRECISIONS = ("float32", "tf32", "bfloat16")
SMALLEST_SEED, LARGEST_SEED = -(2**63), 2**64 - 1
"""What ``torch.Generator.manual_seed`` takes."""
MAX_FRAMES = 10_000
"""Longest clip."""
MAX_SHARD_ROWS = 512
"""Most rows in a shard where the configuration does not say."""
FORMAT_VERSION = 1
"""Version of what the stages write; raising it redoes every stage."""
MODEL_PATHS = ("model", "motion_adapter", "processor")
"""Options that say where a model is; it counts by its content."""

_ONE_CALL_A_STEP = ("ddim", "diffuse")
"""Inverters that do not iterate."""

_UNITS = {"": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "kib": 2**10, "mib": 2**20, "gib": 2**30}


def parse_bytes(value: int | str) -> int:
    """A number of bytes from ``500MB``, ``2GiB`` or a plain integer."""
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([kmg]?i?b?)\s*", str(value).lower())
    unit = match.group(2) if match else None
    if match is None or unit not in _UNITS:
        raise ValueError("a size such as 500MB, 2GiB or a number of bytes")
    return int(float(match.group(1)) * _UNITS[unit])


def parse_failure_codes(value: Any) -> tuple[str, ...]:
    """Codes of failures from texts such as ``http_404,too_short``, one or a list of them."""
    texts = value if isinstance(value, list) else [value]
    codes = tuple(code.strip() for text in texts for code in str(text).split(","))
    for code in codes:
        if code not in ("all", *FAILURE_CODES) and not re.fullmatch(r"http_\d{3}", code):
            raise ValueError(f"codes, which {code!r} is not: all, http_404 and the like, {', '.join(FAILURE_CODES)}")
    return codes


_unhashed = partial(option, hashed=False)
"""An :func:`option` that changes how the work is done, or what is accepted, but no output."""
_share = partial(_unhashed, minimum=0, maximum=1)
"""One that is a share, from 0 to 1, of something."""


def _memory(default: str) -> Any:
    """A stage's ``min_ram``."""
    help = f"memory of a machine that does this, where the engine has machines to choose from (default: {default})"
    return _unhashed(parse_bytes(default), help, parse=parse_bytes, minimum=1, maximum=10**15)


@dataclass(frozen=True)
class FetchOptions:
    """How videos are fetched; none of it changes what a clip is made of."""

    timeout: float = _unhashed(30.0, "seconds without a byte before a fetch fails", minimum=0.01, maximum=86_400)
    retries: int = _unhashed(4, "tries after the first on time-outs, 429 and 5xx", minimum=0, maximum=10_000)
    concurrency: int = _unhashed(16, "videos fetched at once by one worker", minimum=1, maximum=10_000)
    max_bytes: int = _unhashed(500 * 10**6, "largest video accepted", parse=parse_bytes, minimum=1, maximum=10**12)
    allow_private_hosts: bool = _unhashed(False, "fetch from private, loopback and link-local addresses too")


class Size(NamedTuple):
    """Height and width in pixels."""

    height: int
    width: int


@dataclass(frozen=True)
class ClipOptions:
    """What a clip is: which frames of the video, at which size, encoded how."""

    frames: int = option(16, "frames in a clip", minimum=1, maximum=MAX_FRAMES)
    frame_stride: int | None = option(
        8, "take every n-th frame of the video", minimum=1, maximum=100_000, hashed=lambda clips: clips.fps is None
    )
    fps: float | None = option(None, "take frames at this rate instead of frame_stride", minimum=0.001, maximum=1000)
    size: int | Size = option(
        256, "short side and crop, or [height, width]; multiples of 16, from 64 on", minimum=64, maximum=8192
    )
    upscale: bool = option(
        True, "scale pictures up that are smaller than size; without it they fail as too_small", since_first=False
    )
    maxcount: int = _unhashed(
        MAX_SHARD_ROWS,
        "clips in a shard; at 512 a 64th of the rows to do, if that is less, but 16 at least",
        minimum=1,
        maximum=1_000_000,
    )
    pixel_format: str = option("yuv420p", "chroma of the stored mp4", choices=PIXEL_FORMATS)
    min_ram: int = _memory("8GB")

    @property
    def height_width(self) -> Size:
        """Of a clip."""
        return Size(self.size, self.size) if isinstance(self.size, int) else self.size

    def of_source(self, source: SourceOptions) -> ClipOptions:
        """What a clip of a source is, which may have a rhythm of its own."""
        if not source.rhythm:
            return self
        return dataclasses.replace(self, frame_stride=source.frame_stride, fps=source.fps)


@dataclass(frozen=True)
class CaptionOptions:
    """Which Sentence-BERT embeds the captions."""

    model: str = option(
        "sentence-transformers/paraphrase-multilingual-MiniLM-L12-v2", "hub id or local folder of the model"
    )
    revision: str | None = _unhashed(
        None, "branch, tag or commit of a model that is a hub id (default: the one that its repository shows)"
    )
    batch_size: int = _unhashed(64, "captions in a batch", minimum=1, maximum=65_536)
    min_ram: int = _memory("8GB")

    @property
    def reference(self) -> str:
        """The model, and the revision of it if one is given."""
        return refer(self.model, self.revision)


@dataclass(frozen=True)
class IndexOptions:
    """How good the search index must be, and what it may cost. Counts for the segments that are built from then on."""

    min_recall: float = _share(0.95, "smallest recall@1 and recall@5 against exact search")
    memory: int | None = _unhashed(
        None,
        "bytes that a segment may take in memory (2GB); one that would take more holds 8 bits a dimension",
        parse=parse_bytes,
        minimum=1,
        maximum=10**15,
    )
    final: bool = _unhashed(
        False,
        "searched much, updated seldom: above 50,000 captions a graph (HNSW), which answers sooner and is built slower",
    )
    min_ram: int = _memory("8GB")


def _iterates(noise: NoiseOptions) -> bool:
    return noise.inverter not in _ONE_CALL_A_STEP


@dataclass(frozen=True)
class NoiseOptions:
    """One noise set: the model whose noise is stored, and how it is inverted."""

    name: str = option("modelscope", "name of the set")
    model: str = option("damo-vilab/text-to-video-ms-1.7b", "hub id or local folder of a diffusers pipeline")
    inverter: str = option("fixed-point", "how a clip is inverted: fixed-point, ddim, diffuse, or one of your own")
    num_inference_steps: int = option(50, "steps of the generator (and of the inversion)", minimum=1, maximum=10_000)
    revision: str | None = _unhashed(
        None, "branch, tag or commit of a model that is a hub id (default: the one that its repository shows)"
    )
    dtype: str = option("float16", "how a record is stored", choices=STORAGE_DTYPES)
    frames: int | None = option(None, "use the first n frames of a clip (default: all)", minimum=1, maximum=MAX_FRAMES)
    batch_size: int | str = _unhashed("auto", "clips in a batch, or auto", minimum=1, maximum=65_536)
    device: str = _unhashed(
        "auto", "where it is inverted: auto, cpu, cuda (a GPU for every process) or cuda:N", parse=parse_device
    )
    precision: str = option("auto", "dtype of the network, auto being bfloat16 on a GPU", choices=PRECISIONS)
    vae_precision: str = option(
        "float32", "dtype of the VAE, or tf32 for its products on a GPU", since_first=False, choices=VAE_PRECISIONS
    )
    tolerance: float | None = option(
        None, "fixed-point stops a clip here (default: by precision)", minimum=0, maximum=1, hashed=_iterates
    )
    max_iterations: int = option(
        10,
        "most network calls a step of fixed-point, thrice as many where it stalls",
        minimum=1,
        maximum=1000,
        hashed=_iterates,
    )
    prompt: str = option("", "condition of the inversion, the same for all clips; empty, as in the paper")
    guidance_scale: float = option(1.0, "guidance towards prompt; 1 is none, as in the paper", minimum=1, maximum=1000)
    accelerator: str | None = _unhashed(
        None, "Beam's accelerator hint for these workers, e.g. type:nvidia-l4;count:1;install-nvidia-driver"
    )
    min_ram: int = _memory("16GB")
    compile: bool = _unhashed(False, "torch.compile the network: minutes at the start, then faster")
    motion_adapter: str | None = option(None, "AnimateDiff: hub id (or id@revision) or folder of the motion adapter")
    measured: float = _share(
        0.05,
        "share of the clips that are sampled again from their records, at num_inference_steps network calls each, and "
        "with them those with the largest residuals; 0 is none, 1 all",
    )
    max_reconstruction_error: float = _unhashed(
        0.5, "a record that is measured to give its clip back worse than this is a failure", minimum=0, maximum=10**6
    )

    @property
    def reference(self) -> str:
        """The model, and the revision of it if one is given."""
        return refer(self.model, self.revision)


@dataclass(frozen=True)
class StageOptions:
    """One stage of your own over the clips; its kind says what it does and which options it has besides these."""

    kind: str = option(help="what the stage does: a kind that one of your modules registers")
    name: str = option(help="name of the stage")


SECTIONS: dict[str, tuple[type[Any], str]] = {
    "sources": (SourceOptions, "kind"),
    "noise": (NoiseOptions, "inverter"),
    "stages": (StageOptions, "kind"),
}
"""Lists whose members are of a kind: the options that all of them have, and which of these names the kind."""

OPTION_CLASSES: dict[tuple[str, str], type[Any]] = {}
"""By section and kind, the options of that kind: a dataclass that extends the section's."""

_REGISTERED_BY: dict[tuple[str, str], str] = {}
"""By section and kind, the top-level package of the code that registered it."""


def register_options(section: str, kind: str, options: type[Any], module: str | None = None) -> None:
    """Makes a kind of members of a section known, with its options.

    Args:
        section: one of :data:`SECTIONS`.
        kind: its name in configurations.
        options: the section's own dataclass, or one that extends it with more fields made by :func:`option`.
        module: of the code behind the kind; by default that of ``options``.

    Raises:
        TypeError: ``options`` is no such dataclass.
        ValueError: another package has registered the kind.
    """
    base, _ = SECTIONS[section]
    if not (issubclass(options, base) and "__dataclass_fields__" in vars(options)):
        raise TypeError(f"{options.__name__}: options of {section} are a @dataclass that extends {base.__name__}")
    plain = next((field.name for field in dataclasses.fields(options) if "hashed" not in field.metadata), None)
    if plain:
        raise TypeError(f"{options.__name__}.{plain}: make it with noisebank.options.option(...)")
    package = (module or options.__module__).partition(".")[0]
    if (taken_by := _REGISTERED_BY.setdefault((section, kind), package)) != package:
        raise ValueError(f"{section}: kind {kind!r} of {package} has the name of one of {taken_by}; give it another")
    OPTION_CLASSES[section, kind] = options


def options_class(section: str, kind: str) -> type[Any]:
    """The options dataclass of a kind; of one that is not registered, the section's own."""
    return OPTION_CLASSES.get((section, kind), SECTIONS[section][0])


_SOURCES = {
    "webvid": SourceOptions,
    "internvid": SourceOptions,
    "table": TableOptions,
    "webdataset": TarOptions,
    "folder": FolderOptions,
}
for _kind, _options in _SOURCES.items():
    register_options("sources", _kind, _options)
for _kind in INVERTER_KINDS:
    register_options("noise", _kind, NoiseOptions)


@dataclass(frozen=True)
class Config:
    """A whole build."""

    bank: str = _unhashed("./bank", "the bank: a local path or gs://, s3://, az://")
    sources: tuple[SourceOptions, ...] = option((), "lists of captioned videos")
    fetch: FetchOptions = option(FetchOptions())
    clips: ClipOptions = option(ClipOptions())
    captions: CaptionOptions = option(CaptionOptions())
    index: IndexOptions = option(IndexOptions())
    noise: tuple[NoiseOptions, ...] = option((NoiseOptions(),), "noise sets")
    stages: tuple[StageOptions, ...] = option((), "stages of your own modules over the clips")
    modules: tuple[str, ...] = _unhashed(
        (), "your own packages, imported before all else: inverters, kinds of source and stages"
    )
    threads: int | None = _unhashed(
        None,
        "threads of torch in a worker process, on which the last bits of noise depend (default: torch's own choice)",
        minimum=1,
        maximum=1024,
    )
    max_failed: float = _share(0.05, "largest share of new, changed and newly invalid rows that may fail")
    max_removed: float = _share(0.1, "largest share of a source's rows that may disappear")
    max_changed: float = _share(0.1, "largest share of a source's rows that may change")
    max_redone: float = _share(
        0.1, "largest share of a stage's records that a changed option or model may make again; 1: all"
    )
    early_stop: bool = _unhashed(
        True, "stop before the rest is fetched when 1,024 rows are done and more than half of them failed"
    )
    prune: bool = _unhashed(False, "remove the rows of sources that are not in the configuration")
    retry_failures: tuple[str, ...] = _unhashed(
        (),
        "failure codes, with commas between them, to try again although they are permanent, or all",
        parse=parse_failure_codes,
    )


def output_options(options: Any) -> dict[str, Any]:
    """The options of one of the dataclasses that change a stage's output; one without effect has its default."""
    values = {}
    for f in dataclasses.fields(options):
        hashed = f.metadata["hashed"]
        if hashed:
            has_effect = hashed is True or hashed(options)
            values[f.name] = getattr(options, f.name) if has_effect else f.default
    return values


def fingerprint(options: Any, **also: Any) -> str:
    """Hash of everything that changes a stage's output: its hashed options, the format version and ``also``; of a kind
    that another package registered, also its name and version.

    Args:
        options: one of the option dataclasses.
        also: what else counts, such as ``model_digest="..."``, which stands for the models wherever they are.

    Returns:
        16 hexadecimal digits.
    """
    fields = {field.name: field for field in dataclasses.fields(options)}
    chosen = output_options(options).items()
    content = {name: value for name, value in chosen if not is_unsaid(fields[name], value)} | also
    if "model_digest" in also:
        for path in MODEL_PATHS:
            content.pop(path, None)
    document = json.dumps([FORMAT_VERSION, type(options).__name__, content, *_own_code(options)], sort_keys=True)
    return hashlib.sha256(document.encode()).hexdigest()[:16]


def _own_code(options: Any) -> list[dict[str, str]]:
    package = module_of(options)
    return [{"module": package}] if package else []


def module_of(options: Any) -> str | None:
    """The package that registered the kind of ``options``, with its version; None if it is this one."""
    for section, (base, kind) in SECTIONS.items():
        package = _REGISTERED_BY.get((section, getattr(options, kind))) if isinstance(options, base) else None
        if package and package != __package__:
            return f"{package} {module_version(package)}"
    return None
