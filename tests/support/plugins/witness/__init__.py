"""Notes which process made which shard: imported by every worker of a job, it appends a line a shard, with the number
of the process, to the file that WITNESS names."""

from __future__ import annotations

import logging
import os

_handler = logging.FileHandler(os.environ["WITNESS"])
_handler.setFormatter(logging.Formatter("%(process)d %(message)s"))
logging.getLogger("transforms.shards").addHandler(_handler)
