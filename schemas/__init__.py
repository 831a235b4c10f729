"""The Arrow schema of every table that a job reads or writes; a table is cast to it just before it is written."""
