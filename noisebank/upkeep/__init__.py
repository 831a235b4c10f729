"""Keeping a bank well: verify, repair, vacuum and compact."""
