"""Show what augmentation is good for: a small classifier trained on a biased set, with and without it, judged on balanced test people.

    python jobs/balancing_example.py --output out/balancing

In the biased set those who smile wear glasses and the others do not, but for a few people. A classifier of smiles is trained in three ways:
on this set as it is, on this set with each group shown as often, and, likewise, on what `jobs/augment_dataset.py` makes of it; several
times each. OUT/balancing.json has the accuracy in each group with intervals and paired differences, OUT/balancing.png the plot. The last
line printed is JSON. Exit codes: 0 done, 2 wrong arguments or folders, 130 interrupted, 1 anything else. The same command goes on after the
last classifier that was trained.
"""

from __future__ import annotations

import json
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

import jsonargparse
import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from evaluation.balancing import BalancingError
from evaluation.balancing_result import FEWEST_SEEDS
from evaluation.balancing_run import AugmentationError, Example, augment, run_example
from evaluation.balancing_training import Training
from models.pack import Pack
from models.pack_format import PackError
from pipeline.shard_list import InputError

DONE, FAILED, WRONG, INTERRUPTED = 0, 1, 2, 130


@dataclass(frozen=True, kw_only=True)
class Options:
    """What to show.

    Args:
        output: Folder for everything that is made.
        pack: Folder or URL of the trained networks.
        recipe: YAML file of the augmentation.
        editor: Editor that it edits with.
        common: People of each common group of the biased set: those who smile and wear glasses, those who do neither.
        rare: People of each rare group: those who do one of the two.
        shard_size: People per raw shard.
        test: Test people of each group.
        seeds: Trainings of each way; they differ in their seed.
        steps: Steps of each training.
        threads: CPU threads of torch.
    """

    output: Path
    pack: str = "packs/portraits64"
    recipe: str = "configs/augment/balance.yaml"
    editor: str = "clipinverter"
    common: int = Example.common
    rare: int = Example.rare
    shard_size: int = Example.shard_size
    test: int = Example.test
    seeds: int = Example.seeds
    steps: int = Training.steps
    threads: int = 1


def check(options: Options) -> str | None:
    """Return what is wrong with the options, if anything."""
    for name in ("common", "rare", "shard_size", "test", "steps", "threads"):
        if getattr(options, name) < 1:
            return f"--{name} {getattr(options, name)}: expected 1 or more"
    if options.seeds < FEWEST_SEEDS:
        return f"--seeds {options.seeds}: expected {FEWEST_SEEDS} or more, without which there are no intervals"
    if not Path(options.recipe).is_file():
        return f"--recipe {options.recipe}: no such file; {Options.recipe} is the one that comes with hyperedit"
    return None


def say(text: str) -> None:
    """Report progress."""
    print(f"balancing_example: {text}", file=sys.stderr, flush=True)


def run(options: Options) -> dict[str, object]:
    """Run the example and return its figures."""
    torch.set_num_threads(options.threads)
    example = Example(
        folder=options.output.resolve(), common=options.common, rare=options.rare, shard_size=options.shard_size, test=options.test,
        seeds=options.seeds, training=Training(steps=options.steps),
    )  # fmt: skip
    pack = Pack.load(options.pack)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as progress:

        def watch(words: str, total: int) -> Callable[[], None]:
            bar = progress.add_task(words, total=total)
            return lambda: progress.advance(bar)

        def augmented() -> dict[str, object]:
            progress.stop()  # the augmentation has bars of its own
            summary = augment(example, pack=options.pack, recipe=options.recipe, editor=options.editor)
            progress.start()
            return summary

        return run_example(example, pack, augmented=augmented, say=say, watch=watch)


def main() -> int:
    """Run the job; return its exit code."""
    options = jsonargparse.auto_cli(Options, as_positional=False)
    if wrong := check(options):
        say(wrong)
        return WRONG
    try:
        print(json.dumps(run(options)))
    except (BalancingError, InputError, PackError, OSError) as error:
        say(str(error))
        return WRONG
    except AugmentationError as error:
        say(str(error))
        return error.code if error.code in (WRONG, INTERRUPTED) else FAILED
    except KeyboardInterrupt:
        say("interrupted: the same command goes on from here")
        return INTERRUPTED
    return DONE


def _interrupt(_signal: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    signal.signal(signal.SIGINT, _interrupt)
    signal.signal(signal.SIGTERM, _interrupt)
    sys.exit(main())
