"""The stages of a build, and what a worker does for one shard of them: rows in, data files out. No Beam."""
