"""Planning: what a build has to do, from what the lists say and what the bank holds.

Lists are read in ranges (:mod:`noisebank.sources`), spilled by ranges of numbers (:mod:`.spill`), compared with the
snapshot and with finished work (:mod:`.claims`, :mod:`.diff`, :mod:`.changes`, :mod:`.reduce`), cut into shards
(:mod:`.cut`) and written as one plan (:mod:`.plan`). All of it is columnar; the Beam steps around it are in
``transforms/plan.py``.
"""
