"""Rewriting of prompts in the manner of a bank's captions (ONA, Eq. 6 and 7): by a language model here or behind an
endpoint, its answers checked, and the rewrites of a whole list kept in a folder.

What the model is asked (:mod:`.template`), who asks it (:mod:`.local_model`, :mod:`.endpoint`), which answers are used
(:mod:`.answers`, :mod:`.rewrite`), and the rewrites of a list: cut into shards (:mod:`.planning`), made one by one
(:mod:`.shard`), published and looked up (:mod:`.published`).
"""
