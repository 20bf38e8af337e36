"""Seconds by stage: every second of a shard belongs to one."""

from __future__ import annotations

import pytest

from pipeline import stage_clock
from pipeline.stage_clock import STAGES, StageClock, StageError, added, with_rest


def test_times_of_a_stage_add_up_and_a_failure_keeps_its_stage(monkeypatch: pytest.MonkeyPatch) -> None:
    now = iter([0.0, 2.0, 2.0, 5.0, 10.0, 11.0])
    monkeypatch.setattr(stage_clock.time, "monotonic", lambda: next(now))
    clock = StageClock()
    with clock.at("edit"):
        pass
    with clock.at("edit"):
        pass
    with pytest.raises(StageError) as caught, clock.at("score"):
        raise ValueError("too dark")
    assert caught.value.stage == "score" and str(caught.value.cause) == "too dark"
    assert clock.seconds == {"edit": 5.0, "score": 1.0}


def test_what_no_stage_has_is_writing() -> None:
    stages = with_rest(added({"edit": 2.0, "write": 0.25}, {"edit": 1.0, "encode": 0.5}), waited_s=1.0, total_s=6.0)
    assert list(stages) == list(STAGES)
    assert stages == {"wait": 1.0, "invert": 0.0, "edit": 3.0, "score": 0.0, "encode": 0.5, "write": 1.5}
