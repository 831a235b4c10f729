"""Where a job runs: Beam's own options, checked, for the local runner, Flink and Dataflow."""
