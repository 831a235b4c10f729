"""Clips for prompts that no video is near to, by I4VGen (arXiv 2406.02230): candidate images, an anchor, its animation.

Everything here works without Beam: :mod:`.entry` makes the clip of one prompt, :mod:`.job` a shard of them.
"""
