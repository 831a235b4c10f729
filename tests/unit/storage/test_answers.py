"""What a store answers, in words."""

from __future__ import annotations

import pytest

from noisebank.storage.answers import describe_answer


@pytest.mark.parametrize("host", ["http://169.254.169.254", "http://metadata.google.internal"])
def test_a_machine_that_is_asked_for_credentials_which_nobody_gave(host: str) -> None:
    error = ValueError(
        f"Error performing GET {host}/v1/token in 2ms - Server returned non-2xx status code: 403 Forbidden: "
    )
    said = describe_answer(error)
    assert said.startswith(f"GET at {host}: 403 Forbidden, 1 try; no credentials were given")
    elsewhere = describe_answer(ValueError(str(error).replace(host, "http://store.example")))
    assert elsewhere == "GET at http://store.example: 403 Forbidden, 1 try"
