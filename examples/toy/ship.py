"""Puts a trained pipeline into the package: ``python -m examples.toy.ship --from FOLDER/best``.

``FOLDER`` is what ``examples.toy.train`` wrote. The pipeline is loaded once before it takes the place of the old one.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from diffusers import TextToVideoSDPipeline

from examples.toy.export import MOST_BYTES
from noisebank.world.shipped import SHIPPED

SUFFIXES = (".json", ".safetensors", ".txt")


def ship(source: Path, target: Path = SHIPPED) -> int:
    """Copies a pipeline in place of what ``target`` held; returns its bytes.

    Raises:
        ValueError: it is too large to be shipped, or has files that a pipeline in diffusers' format has not.
    """
    files = sorted(path for path in source.rglob("*") if path.is_file())
    if strange := [str(path) for path in files if path.suffix not in SUFFIXES]:
        raise ValueError(f"{source}: {', '.join(strange)} is no part of a pipeline in diffusers' format")
    size = sum(path.stat().st_size for path in files)
    if size > MOST_BYTES:
        raise ValueError(f"{source} takes {size} bytes, more than {MOST_BYTES}")
    TextToVideoSDPipeline.from_pretrained(source, use_safetensors=True)
    part = target.with_name(f"{target.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    shutil.copytree(source, part)
    shutil.rmtree(target, ignore_errors=True)
    part.rename(target)
    return size


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; 0 where the pipeline is in its place."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--from", dest="source", type=Path, required=True, help="pipeline in diffusers' format")
    source = parser.parse_args(arguments).source
    try:
        size = ship(source)
    except (OSError, ValueError) as error:
        print(error, file=sys.stderr)
        return 1
    print(f"{SHIPPED}: {size / 1e6:.1f} MB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
