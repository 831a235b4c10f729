"""The command that runs a worker pool: ``python -m runners.worker_pool``."""

from __future__ import annotations

import argparse
import logging
import signal
import sys
from collections.abc import Sequence
from functools import partial

from noisebank.errors import NoiseBankError
from runners.logs import set_up_logging
from runners.scratch import use_scratch_folder

PORT = 50_000
DESCRIPTION = """\
Starts noisebank's workers on this machine for Flink TaskManagers: one pool for all that run here. Start it from the
environment that the job is launched from (the same noisebank, libraries and PYTHONPATH), then launch with
    --environment_type=EXTERNAL --environment_config=HOST:PORT
where HOST:PORT is what every TaskManager reaches its own pool by: localhost:50000, wherever a pool runs beside each."""
EPILOG = """\
Workers are started as TaskManagers ask for them, log to stderr, are started again if they die before they work, and
end when nobody is at their control endpoint any more or the pool ends (Ctrl-C, SIGTERM).

Whoever reaches the port can have code run here, as by any worker of Beam's: keep to localhost, or to the network of
one pod. A pool takes no job's packages (--setup_file, --extra_package): install them beside it."""
_log = logging.getLogger("runners.worker_pool")


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a pool until it is interrupted or terminated; returns its exit code."""
    known = _parse(argv)
    set_up_logging(known.verbose)
    from runners.pool import list_places, running_pool  # (Beam, which logs while it is imported)

    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    try:
        use_scratch_folder()
        places = list_places(known.max_workers, known.workers_per_gpu)
        with running_pool(f"{known.host}:{known.port}", places) as address:
            limit = f"{len(places)} workers at once" if places else "as many workers as are asked for"
            _log.info("--environment_type=EXTERNAL --environment_config=%s: %s", address, limit)
            while True:
                signal.pause()
    except KeyboardInterrupt:
        return 130
    except (NoiseBankError, OSError) as error:
        print(f"worker_pool: {error}", file=sys.stderr)
        return error.exit_code if isinstance(error, NoiseBankError) else 1


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m runners.worker_pool",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    number = partial(_number, most=100_000)
    parser.add_argument("--host", default="localhost", help="where to listen (default: localhost, and see below)")
    parser.add_argument("--port", type=partial(_number, most=65_535), default=PORT, help=f"(default: {PORT})")
    parser.add_argument(
        "--max_workers", type=number, default=0, metavar="N", help="most workers at once; one more waits for a place"
    )
    parser.add_argument(
        "--workers_per_gpu",
        type=number,
        default=0,
        metavar="N",
        help="no more than N workers for each GPU, each of which sees one GPU alone; those of CUDA_VISIBLE_DEVICES, or "
        "else all of this machine",
    )
    parser.add_argument("-v", "--verbose", action="store_true", help="log more")
    return parser.parse_args(argv)


def _number(text: str, most: int) -> int:
    if not (text.isdecimal() and int(text) <= most):
        raise argparse.ArgumentTypeError(f"{text!r} is not allowed; a number from 0 to {most} is")
    return int(text)


if __name__ == "__main__":
    sys.exit(main())
