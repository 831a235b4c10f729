"""From a row's uri to a clip: fetch, probe, decode, sample, resize, encode.

:mod:`.clips` is the way in; decoding runs in child processes (:mod:`.sandbox`), which import PyAV and nothing heavier.
"""
