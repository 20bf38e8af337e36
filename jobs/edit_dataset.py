"""Edit a dataset of pictures by text instructions.

    python jobs/edit_dataset.py --input shards --output edited --instructions configs/instructions/portraits.yaml
    ray job submit --working-dir . -- python jobs/edit_dataset.py --input s3://bucket/raw --output s3://bucket/edited --instructions ...

The last line on standard output is JSON: counts, images/s, seconds, where the output and the report are. Exit codes: 0 done (samples in
quarantine included), 2 wrong arguments, settings or input, 130 interrupted, 1 anything else. The same command resumes.
"""

from __future__ import annotations

import json
import signal
import sys
import traceback
from collections.abc import Sequence
from types import FrameType

from models.instruction import InstructionError
from models.pack_format import PackError
from pipeline.config import ConfigError, parse_config
from pipeline.lock import OutputError
from pipeline.plan import make_plan
from pipeline.run import dry_run, run_job, say
from pipeline.shards import InputError

DONE, FAILED, WRONG, INTERRUPTED = 0, 1, 2, 130
USER_ERRORS = (ConfigError, InstructionError, PackError, InputError, OutputError)


def main(argv: Sequence[str]) -> int:
    """Run the job and return its exit code."""
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        plan = make_plan(parse_config(argv))
        summary = dry_run(plan) if plan.config.dry_run else run_job(plan)
    except USER_ERRORS as error:
        return _wrong(error)
    except KeyboardInterrupt:
        say("interrupted: shards that were committed stay; the same command goes on from there")
        return INTERRUPTED
    except Exception as error:
        cause = _cause(error)
        if isinstance(cause, USER_ERRORS):
            return _wrong(cause)
        traceback.print_exception(error)
        say(f"failed: {type(cause).__name__}: {cause}\nShards that were committed stay; the same command goes on from there")
        return FAILED
    print(json.dumps(summary, ensure_ascii=False), flush=True)
    return DONE


def _wrong(error: BaseException) -> int:
    print(f"edit_dataset: {error}", file=sys.stderr, flush=True)
    return WRONG


def _cause(error: BaseException) -> BaseException:
    """Return what a worker raised, without what Ray wraps around it."""
    seen = {id(error)}
    while (inner := getattr(error, "cause", None) or error.__cause__) is not None and id(inner) not in seen:
        seen.add(id(inner))
        error = inner
    return error


def _interrupt(_signal: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
