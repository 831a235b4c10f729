"""From a row's uri to a clip: fetch, probe, decode, sample, resize, encode.

:mod:`.clips` is the way in; decoding runs in child processes (:mod:`.sandbox`), which import PyAV and nothing heavier.

A row that gives no clip has one of these codes; those with * may heal and are retryable:

- address: ``bad_uri``, ``missing_file``, ``forbidden``, ``private_address``, ``redirects``, ``tls``
- transfer: ``http_<status>`` (* 408, 425, 429, 5xx), ``timeout``*, ``connection``*, ``short_body``*, ``too_large``
- YouTube: ``youtube_missing`` (yt-dlp is not installed), ``youtube_unavailable``, ``youtube_error``*
- content: ``not_video``, ``no_video_stream``, ``bad_dimensions``, ``bad_duration``, ``too_short``, ``too_small``,
  ``decode_error``
- decoder: ``decoder_crashed`` (* when it was killed from outside), ``decoder_hung``
"""
