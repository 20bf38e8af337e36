"""A child answers one question after the other, waits a while for the next, and is gone with its owner."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from pipeline.child import ChildError, Question, ask, take

ROOT = Path(__file__).parents[2]
ECHO = "tests.pipeline.echo_process"
TIMEOUT_S = 60.0


def pid() -> int:
    return int(str(ask(ECHO, {}, timeout_s=TIMEOUT_S)["pid"]))


def gone(number: int) -> bool:
    deadline = time.monotonic() + TIMEOUT_S
    while time.monotonic() < deadline:
        try:
            if psutil.Process(number).status() == psutil.STATUS_ZOMBIE:
                return True
        except psutil.NoSuchProcess:
            return True
        time.sleep(0.05)
    return False


def test_the_next_question_goes_to_the_same_child_also_after_an_error() -> None:
    first = pid()
    with pytest.raises(ChildError, match="ValueError: no such thing") as caught:
        ask(ECHO, {"fail": "no such thing"}, timeout_s=TIMEOUT_S)
    assert caught.value.kind == "ValueError" and pid() == first
    child = take(ECHO)
    assert child.pid == first, "it belongs to whoever takes it"
    assert pid() != first
    child.close()
    take(ECHO).close()


def test_a_child_that_is_not_asked_again_ends() -> None:
    asked = Question(ECHO, {})
    number = int(str(asked.answer(timeout_s=TIMEOUT_S, keep_s=0.2)["pid"]))
    assert gone(number) and pid() != number
    take(ECHO).close()


def test_one_that_died_is_replaced() -> None:
    number = pid()
    psutil.Process(number).kill()
    assert gone(number) and pid() != number
    take(ECHO).close()


def test_other_settings_are_for_another_child(monkeypatch: pytest.MonkeyPatch) -> None:
    number = pid()
    with monkeypatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_USERNAME", "somebody")
        assert pid() != number
        take(ECHO).close()
    assert pid() == number
    take(ECHO).close()


def test_two_questions_at_once_have_two_children() -> None:
    questions = [Question(ECHO, {}) for _ in range(2)]
    numbers = {int(str(question.answer(timeout_s=TIMEOUT_S)["pid"])) for question in questions}
    assert len(numbers) == 2 and pid() in numbers
    take(ECHO).close()


def test_it_ends_with_its_owner() -> None:
    code = f"from pipeline.child import ask; print(ask({ECHO!r}, {{}}, timeout_s={TIMEOUT_S})['pid'])"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert gone(int(done.stdout))
