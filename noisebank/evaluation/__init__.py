"""Does a bank's noise help, by how much, and more than its cheap controls? Paired studies of noise arms, and what the
noise of a bank looks like beside white noise.

Arms differ in the record that is mixed in, and in nothing else: prompts, seeds and fresh noise are the same in all.
"""
