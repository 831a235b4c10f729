"""Rows on their way into the bank: as a list gives them, as a plan hands them out, as a snapshot remembers them."""

from noisebank.format.schemas import LISTED, ROWS, TASK_RECORDS, TASK_ROWS
from noisebank.format.status import Status

__all__ = ["LISTED", "ROWS", "TASK_RECORDS", "TASK_ROWS", "Status"]
