"""Stages of a user's own: which kinds there may be."""

from __future__ import annotations

import pytest

from noisebank import options
from noisebank.errors import ConfigError
from noisebank.format.layout import is_ours
from noisebank.options import OPTION_CLASSES, StageOptions
from noisebank.stages.over_clips import STAGES, StageOverClips, register_stage


@pytest.mark.parametrize("kind", ["noise", "clips", "records", "plans", "my-kind", "a/b", "", "naïve", "flow\n"])
def test_a_kind_whose_files_would_not_be_told_apart_is_refused(kind: str) -> None:
    with pytest.raises(
        ConfigError, match="is not allowed: letters, digits and _ are, and no name of a folder of banks"
    ):
        register_stage(kind, StageOptions)
    assert kind not in STAGES


def test_files_of_a_kind_that_is_registered_are_those_of_the_bank(monkeypatch: pytest.MonkeyPatch) -> None:
    for registry, key, before in (
        (STAGES, "flow_2", StageOverClips),
        (OPTION_CLASSES, ("stages", "flow_2"), StageOptions),
        (options._REGISTERED_BY, ("stages", "flow_2"), __name__.partition(".")[0]),
    ):
        monkeypatch.setitem(registry, key, before)  # (so that it is as before after the test)

    @register_stage("flow_2", StageOptions)
    class Flow(StageOverClips):
        def write(self, *arguments: object) -> None: ...

    assert STAGES["flow_2"] is Flow and Flow.kind == "flow_2"
    assert Flow(StageOptions("flow_2", "near")).name.name == "flow_2/near"
    digest = "ab" * 16
    assert is_ours(f"flow_2/near/{digest}.parquet") and is_ours(f"flow_2/near/{digest}.json")
    assert is_ours(f"records/flow_2/near/{digest}.arrow") and not is_ours(f"flow_2/{digest}.parquet")
