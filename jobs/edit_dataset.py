"""Edit a dataset of pictures by text instructions.

    python jobs/edit_dataset.py --input shards --output edited --instructions configs/instructions/portraits.yaml
    ray job submit --working-dir . -- python jobs/edit_dataset.py --input s3://bucket/raw --output s3://bucket/edited --instructions ...

The last line on standard output is JSON: counts, images/s, seconds, where the output and the report are. Exit codes: 0 done (samples in
quarantine included), 2 wrong arguments, settings or input, 130 interrupted, 1 anything else. The same command resumes.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator, Sequence
from types import FrameType

from augmentation.recipe import RecipeError
from models.instruction import InstructionError
from models.pack_format import PackError
from pipeline.config import ConfigError, parse_config
from pipeline.lock import OutputError
from pipeline.plan import make_plan
from pipeline.run import dry_run, plan_job, run_job, say
from pipeline.shards import InputError

DONE, FAILED, WRONG, INTERRUPTED = 0, 1, 2, 130
CLEAN_UP_S = 120.0
USER_ERRORS = (ConfigError, InstructionError, RecipeError, PackError, InputError, OutputError)


def run(argv: Sequence[str]) -> dict[str, object]:
    """Do what the arguments say and return the summary."""
    plan = make_plan(parse_config(argv))
    return dry_run(plan) if plan.config.dry_run else plan_job(plan) if plan.config.plan else run_job(plan)


def main(argv: Sequence[str]) -> int:
    """Run the job and return its exit code."""
    return finish("edit_dataset", lambda: run(argv))


def finish(job: str, run: Callable[[], dict[str, object]]) -> int:
    """Run a job, print its summary or say how it ended, and return the exit code."""
    try:
        summary = run()
    except KeyboardInterrupt:
        say("interrupted: shards that were committed stay; the same command goes on from there")
        return INTERRUPTED
    except Exception as error:
        return _failed(job, error)
    print(json.dumps(summary, ensure_ascii=False), flush=True)
    return DONE


def _failed(job: str, error: Exception) -> int:
    """Say what went wrong: in a sentence where the user can mend it, with a traceback otherwise."""
    causes = [cause for cause in _chain(error) if not _is_wrapper(cause)]
    wrong = next((cause for cause in causes if isinstance(cause, USER_ERRORS)), None)
    if wrong is not None:
        print(f"{job}: {wrong}", file=sys.stderr, flush=True)
        return WRONG
    traceback.print_exception(error)
    cause = causes[0] if causes else error
    say(f"failed: {type(cause).__name__}: {cause}")
    say("shards that were committed stay; the same command goes on from there")
    return FAILED


def _chain(error: BaseException) -> Iterator[BaseException]:
    """Yield an error and what caused it, also across processes."""
    inner: BaseException | None = error
    while inner is not None:
        yield inner
        inner = getattr(inner, "cause", None) or inner.__cause__


def _is_wrapper(error: BaseException) -> bool:
    """Say whether this is what Ray wraps around an error of a worker."""
    return hasattr(error, "cause") or type(error).__module__.split(".")[0] == "ray"


def _interrupt(_signal: int, _frame: FrameType | None) -> None:
    """Clean up once, for a bounded time; a second signal ends the process at once, which the next run copes with."""
    signal.signal(signal.SIGINT, _leave)
    signal.signal(signal.SIGTERM, _leave)
    watchdog = threading.Timer(CLEAN_UP_S, os._exit, (INTERRUPTED,))
    watchdog.daemon = True
    watchdog.start()
    raise KeyboardInterrupt


def _leave(_signal: int, _frame: FrameType | None) -> None:
    os._exit(INTERRUPTED)


def stop_on_signals() -> None:
    """Let Ctrl-C and SIGTERM end the job as an interrupt."""
    signal.signal(signal.SIGINT, _interrupt)
    signal.signal(signal.SIGTERM, _interrupt)


if __name__ == "__main__":
    stop_on_signals()
    sys.exit(main(sys.argv[1:]))
