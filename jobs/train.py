"""Train one network: generator, inverters, CLIP, identity, attributes, landmarks, parser or HyperEditor, on any number of workers.

    python jobs/train.py --network hypereditor --output runs/smile --settings.only '[smile]'
    python -m torch.distributed.run --nproc-per-node 2 jobs/train.py --plain --network e4e --output runs/e4e
    ray job submit --working-dir . -- python jobs/train.py --config configs/train/smoke.yaml --output /shared/smoke --workers.count 8

The output holds checkpoints, log, sample sheets and, at the end, a pack: the one that the training leaned on, with the new network. The
last line on standard output is JSON: steps, seconds, the numbers reached on held-out data, where the pack is. Exit codes: 0 done,
2 wrong arguments, settings or data, 130 stopped at a checkpoint after Ctrl-C or SIGTERM, 1 anything else. The same command goes on.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import traceback
from collections.abc import Sequence
from types import FrameType

from hosting.config import parse_train_config
from hosting.job import run_train_job, say
from hosting.ray_train import StopMark, TrainingError
from models.instruction import InstructionError
from models.pack_format import PackError
from pipeline.config import ConfigError
from pipeline.lock import OutputError
from pipeline.shards import InputError
from pipeline.tracking import TrackingError
from training.checkpoint import CheckpointError
from training.objective import SettingError
from training.shards import DataError

DONE, FAILED, WRONG, STOPPED = 0, 1, 2, 130
USER_ERRORS = (ConfigError, InstructionError, PackError, InputError, OutputError, CheckpointError, SettingError, DataError)


def main(argv: Sequence[str]) -> int:
    """Run the job and return its exit code."""
    try:
        config, settings = parse_train_config(argv)
        summary = run_train_job(config, settings, started=lambda: stop_at_checkpoint(config.output))
    except USER_ERRORS as error:
        print(f"train: {error}", file=sys.stderr, flush=True)
        return WRONG
    except KeyboardInterrupt:
        say("interrupted; the same command goes on from the newest checkpoint")
        return STOPPED
    except TrackingError as error:
        say(str(error))
        return FAILED
    except TrainingError as error:
        say(f"failed: {error}")
        say("the same command goes on from the newest checkpoint")
        return FAILED
    except Exception:
        traceback.print_exc()
        return FAILED
    if summary is None:
        return DONE
    print(json.dumps(summary, ensure_ascii=False), flush=True)
    if not summary.get("dry_run") and not summary["finished"]:
        say(f"stopped at step {summary['step']} of {summary['steps']}; the same command goes on from there")
        return STOPPED
    return DONE


def stop_at_checkpoint(output: str) -> None:
    """From now on, let a signal ask the workers to stop at a checkpoint, the first time, and leave at once, the second."""

    def handle(_signal: int, _frame: FrameType | None) -> None:
        signal.signal(signal.SIGINT, _leave)
        signal.signal(signal.SIGTERM, _leave)
        say("stopping at a checkpoint; once more to leave at once")
        StopMark(output).set()

    signal.signal(signal.SIGINT, handle)
    signal.signal(signal.SIGTERM, handle)


def _leave(_signal: int, _frame: FrameType | None) -> None:
    os._exit(STOPPED)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
