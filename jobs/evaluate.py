"""Measure a pack on held-out data and print the figures as JSON.

    python jobs/evaluate.py --suite pack --pack packs/portraits64
    python jobs/evaluate.py --suite inversion --output out/inversion
    python jobs/evaluate.py --suite editing --methods configs/evaluate/editing.yaml --output out/editing
    python jobs/evaluate.py --suite editing --methods configs/evaluate/nightly.yaml --champion auto --output out/nightly
    python jobs/evaluate.py --suite gates --recipe configs/augment/portraits.yaml --judge packs/judges64 --output out/gates
    python jobs/evaluate.py --suite strengths --instructions configs/instructions/portraits.yaml

`pack`: landmarks, attribute classifier, inversion and editing on raw portraits of people that no network was trained on. `inversion`: all
inverters of the pack on such portraits, with times, plots and what can be edited after, as a page in `--output` and an MLflow run.
`editing`: the rows of `--methods`, an editor on an inverter each, in the layout of the papers' tables, as such a page and run.
`gates`: what the gates of a recipe keep, judged by another pack's classifiers, and searched against fixed strengths, as a page.
`strengths`: how strongly each instruction should be applied, chosen on people that no other suite measures on. The last thing printed is
the JSON; `--output FILE.json` also writes it, `--output FOLDER` beside the page. With `--champion` suite editing compares itself with an
earlier run (docs/scheduling.md), and the same command goes on after the last row where it was stopped. Exit codes: 0 done, 2 wrong
arguments, 3 done and worse than the champion, 130 stopped by Ctrl-C.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping

import jsonargparse
import torch

from augmentation.recipe import RecipeError
from evaluation import editing_suite
from evaluation.options import SUITES, WITH_PAGE, WITH_SEED, Options
from evaluation.past_runs import NONE
from evaluation.standing import judged_in
from evaluation.suites import run_suite
from models.instruction import InstructionError
from models.pack import PackError
from pipeline.config import ConfigError, with_values

REGRESSION = 3
INTERRUPTED = 130


def say(text: str) -> None:
    """Report progress."""
    print(text, file=sys.stderr, flush=True)


def exit_code(result: Mapping[str, object]) -> int:
    """Say how the run stands to the champion, and return 3 where it is worse, else 0."""
    judged = judged_in(result)
    if judged is not None:
        say(f"evaluate: {judged['explanation']}")
    return REGRESSION if judged is not None and judged["regressions"] else 0


def main() -> int:
    """Run the job; return its exit code."""
    options = jsonargparse.auto_cli(Options, args=with_values(sys.argv[1:], {"--promote"}), as_positional=False)
    if options.suite not in SUITES:
        print(f"evaluate: --suite {options.suite}: expected one of {', '.join(SUITES)}", file=sys.stderr)
        return 2
    if options.suite != editing_suite.NAME and (options.champion != NONE or options.promote or options.tolerances):
        print(f"evaluate: --champion, --promote and --tolerances are for suite editing, not {options.suite}", file=sys.stderr)
        return 2
    if options.seed and options.suite not in WITH_SEED:
        print(f"evaluate: --seed is for suites {' and '.join(WITH_SEED)}, not {options.suite}", file=sys.stderr)
        return 2
    torch.set_num_threads(options.threads)
    try:
        result = run_suite(options, say=say)
    except (PackError, InstructionError, RecipeError, ConfigError) as error:
        print(f"evaluate: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        then = "; the same command goes on after the last row that was measured" if options.suite == editing_suite.NAME else ""
        print(f"evaluate: stopped{then}", file=sys.stderr)
        return INTERRUPTED
    text = json.dumps(result, indent=1)
    if options.output is not None and options.suite not in WITH_PAGE:
        options.output.write_text(text + "\n")
    print(text, flush=True)
    return exit_code(result)


if __name__ == "__main__":
    sys.exit(main())
