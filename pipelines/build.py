"""``python -m pipelines.build -c bank.yaml --runner ...``: the same job as ``noisebank build``."""

import sys

from pipelines.cli import main

if __name__ == "__main__":
    sys.argv.insert(1, "build")
    sys.exit(main())
