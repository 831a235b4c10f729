"""The Arrow schema of every table that a job reads or writes; a table is cast to its schema just before it is written."""
