"""Planning: what a build has to do, from what the lists say and what the bank holds.

Lists are read in ranges (:mod:`noisebank.sources`), spilled by ranges of numbers (:mod:`.spill`), compared with the
snapshot and with finished work (:mod:`.claims`, :mod:`.diff`, :mod:`.changes`, :mod:`.reduce`), cut into shards
(:mod:`.cut`) and written as one plan (:mod:`.plan`). All of it is columnar; the Beam steps around it are in
``transforms/plan.py``.
"""

from noisebank.planning.cut import Task
from noisebank.planning.plan import (
    Plan,
    drop_damaged,
    open_plans,
    plan_path,
    read_plan,
    read_task,
    refuse,
    removal_problems,
)

__all__ = [
    "Plan",
    "Task",
    "drop_damaged",
    "open_plans",
    "plan_path",
    "read_plan",
    "read_task",
    "refuse",
    "removal_problems",
]
