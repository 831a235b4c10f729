"""Where a job runs: an engine a file, each with its defaults, its checks and its workers."""
