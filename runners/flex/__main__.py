"""``python -m runners.flex`` writes the template's metadata beside this file; with ``--image IMAGE`` it prints the
template, for a file in a bucket."""

from __future__ import annotations

import argparse

from runners.flex import METADATA, describe_template, image_spec, to_text

DESCRIPTION = "Writes the template's metadata beside this file; with --image it prints the template, for a bucket."

if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m runners.flex", description=DESCRIPTION)
    parser.add_argument("--image", help="address of the image that runners/containers/Dockerfile makes")
    if image := parser.parse_args().image:
        print(to_text(image_spec(image)), end="")
    else:
        METADATA.write_text(to_text(describe_template()), encoding="utf-8")
