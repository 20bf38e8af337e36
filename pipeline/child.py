"""A process of its own for a library that takes seconds to import and may hang: both sides exchange lines of JSON.

The owner's side is `Child` (a conversation) and `ask` or `Question` (one question), the child's side is `serve`.
"""

from __future__ import annotations

import atexit
import json
import os
import queue
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path

NICENESS = 10
KEEP_S = 60.0
"""How long a child waits for the next question."""
SETTINGS = {  # where the user chose otherwise, that holds
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",  # by default it tries for four minutes
    "MLFLOW_DISABLE_TELEMETRY": "true",
}

Message = Mapping[str, object]


class ChildError(RuntimeError):
    """The child did not do what it was asked to; `kind` is the type of its error, empty where it fell silent or ended."""

    def __init__(self, text: str, kind: str = "") -> None:
        super().__init__(f"{kind}: {text}" if kind else text)
        self.text, self.kind = text, kind


class Child:
    """Start `python -m MODULE` and talk to it."""

    def __init__(self, module: str) -> None:
        self._answers: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._process = subprocess.Popen(
            [sys.executable, "-m", module],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env={**SETTINGS, **os.environ, "PYTHONPATH": os.pathsep.join([_root(), os.environ.get("PYTHONPATH", "")])},
            start_new_session=True,  # Ctrl-C is for the owner, who then says how the work ended
        )
        threading.Thread(target=self._read, daemon=True).start()

    @property
    def pid(self) -> int:
        """Return the id of the process."""
        return self._process.pid

    @property
    def is_alive(self) -> bool:
        """Say whether the process runs."""
        return self._process.poll() is None

    def send(self, message: Message) -> bool:
        """Hand over a message; blocks while the pipe is full. Return False where the child is gone."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(message) + "\n")
            self._process.stdin.flush()
        except (OSError, ValueError):
            return False
        return True

    def answer(self, timeout_s: float) -> dict[str, object]:
        """Return the next answer. Raises ChildError where the child names an error, ends, or stays silent."""
        try:
            line = self._answers.get(timeout=timeout_s)
        except queue.Empty:
            raise ChildError(f"no answer within {timeout_s:g} s") from None
        if not line:
            self._answers.put(line)  # the next who asks shall hear it too
            raise ChildError("its process ended without an answer")
        answer: dict[str, object] = json.loads(line)
        if "error" in answer:
            raise ChildError(str(answer["error"]), str(answer["kind"]))
        return answer

    def close(self, timeout_s: float = 10.0) -> None:
        """Say that nothing more comes, and end the child where it does not end by itself."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.close()
            self._process.wait(timeout=timeout_s)
        except (OSError, subprocess.TimeoutExpired):
            self.kill()

    def kill(self) -> None:
        """End the child at once."""
        assert self._process.stdin is not None
        self._process.kill()
        self._process.wait()
        with suppress(OSError):
            self._process.stdin.close()

    def _read(self) -> None:
        assert self._process.stdout is not None
        with self._process.stdout as lines:
            for line in lines:
                self._answers.put(line)
        self._answers.put("")


class Question:
    """One thing that a child is asked now and answers later."""

    def __init__(self, module: str, request: Message) -> None:
        self._key, self._child = _key(module), take(module)
        if not self._child.send(request):  # it died while it waited
            self._child.close(timeout_s=2.0)
            self._child = Child(module)
            self._child.send(request)

    def answer(self, *, timeout_s: float, keep_s: float = KEEP_S) -> dict[str, object]:
        """Wait for the answer; the child then waits for the next question for `keep_s`. Raises ChildError."""
        try:
            answer = self._child.answer(timeout_s)
        except ChildError as error:
            if error.kind and self._child.is_alive:  # it answered, if with an error
                _keep(self._key, self._child, keep_s)
            else:
                self._child.close(timeout_s=2.0)
            raise
        except BaseException:
            self._child.close(timeout_s=2.0)
            raise
        _keep(self._key, self._child, keep_s)
        return answer


def ask(module: str, request: Message, *, timeout_s: float) -> dict[str, object]:
    """Ask a child one thing and return its answer. Raises ChildError."""
    return Question(module, request).answer(timeout_s=timeout_s)


def take(module: str) -> Child:
    """Return a child that waits for the next question, or else a new one; it belongs to the caller from now on."""
    with _lock:
        child, timer = _kept.pop(_key(module), (None, None))
    if timer is not None:
        timer.cancel()
    if child is not None and not child.is_alive:
        child.close()
        child = None
    return child or Child(module)


def _keep(key: Key, child: Child, for_s: float) -> None:
    timer = threading.Timer(min(for_s, threading.TIMEOUT_MAX), _expire, (key, child))
    timer.daemon = True
    with _lock:
        replaced, _ = _kept.get(key, (None, None))
        _kept[key] = child, timer
    timer.start()
    if replaced is not None:  # another thread asked at the same time
        replaced.close(timeout_s=2.0)


def _expire(key: Key, child: Child) -> None:
    with _lock:
        waits = _kept.get(key, (None, None))[0] is child
        if waits:
            del _kept[key]
    if waits:
        child.close(timeout_s=2.0)


def _key(module: str) -> Key:
    """Name what a child stands for: a fork shares the pipes of its parent, and a child knows the settings that it was started with."""
    return os.getpid(), module, tuple(sorted((name, value) for name, value in os.environ.items() if name.startswith("MLFLOW_")))


Key = tuple[int, str, tuple[tuple[str, str], ...]]
_kept: dict[Key, tuple[Child, threading.Timer]] = {}
_lock = threading.Lock()


@atexit.register
def _release_all() -> None:
    for key, (child, _) in list(_kept.items()):
        if key[0] == os.getpid():
            _expire(key, child)


def serve(handler: Callable[[Iterator[Message]], Iterator[Message]]) -> int:
    """Let `handler` turn messages into answers, report its error as the last answer, and return the exit code."""
    os.nice(NICENESS)  # the owner's work comes first
    answers, sys.stdout = sys.stdout, sys.stderr  # MLflow prints
    try:
        for answer in handler(_messages()):
            print(json.dumps(answer), file=answers, flush=True)
    except BrokenPipeError:
        return 1
    except Exception as error:  # whatever a server or database does, the owner is told and goes on
        with suppress(BrokenPipeError):
            print(json.dumps(failure(error)), file=answers, flush=True)
        return 1
    return 0


def failure(error: Exception) -> Message:
    """Return the answer that says what went wrong."""
    return {"error": str(error), "kind": type(error).__name__}


def _messages() -> Iterator[Message]:
    for line in iter(sys.stdin.readline, ""):
        yield json.loads(line)


def _root() -> str:
    return str(Path(__file__).parents[1])
