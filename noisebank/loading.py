"""Models are loaded one at a time in a process.

diffusers and transformers build a model while torch's own functions are replaced for the whole process, and their first
imports are as delicate: of two threads that load at once one gets a model without weights ("Cannot copy out of meta
tensor").
"""

from __future__ import annotations

import threading

loading_a_model = threading.RLock()
"""Held around the imports and the loading of a model; a thread that holds it may take it again."""
