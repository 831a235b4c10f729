"""One shard of a stage: rows in, data files and a receipt out. What a worker does, without Beam.

Every function looks for its receipt first: a shard that is finished is never made twice, whoever made it.
"""
