"""Make a better dataset out of one: edits by a recipe, of which only those are kept that pass its gates.

    python jobs/augment_dataset.py --input shards --output augmented --recipe configs/augment/portraits.yaml
    ray job submit --working-dir . -- python jobs/augment_dataset.py --input s3://bucket/raw --output s3://bucket/augmented --recipe ...

The last line on standard output is JSON: counts, images/s, seconds, where the output and the report are. Exit codes: 0 done (targets that
could not be met are explained on standard error and in the report), 2 wrong arguments, recipe or input, 130 interrupted, 1 anything else.
The same command resumes.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from augmentation.config import parse_augment_config
from augmentation.course import AugmentCourse
from augmentation.plan import make_augment_plan
from jobs.edit_dataset import finish, stop_on_signals
from pipeline.run import dry_run, plan_job, run_job


def run(argv: Sequence[str]) -> dict[str, object]:
    """Do what the arguments say and return the summary."""
    plan = make_augment_plan(parse_augment_config(argv))
    course = AugmentCourse(plan)
    return dry_run(plan) if plan.config.dry_run else plan_job(plan, course) if plan.config.plan else run_job(plan, course)


def main(argv: Sequence[str]) -> int:
    """Run the job and return its exit code."""
    return finish("augment_dataset", lambda: run(argv))


if __name__ == "__main__":
    stop_on_signals()
    sys.exit(main(sys.argv[1:]))
