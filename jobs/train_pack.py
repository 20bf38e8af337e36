"""Train the whole portraits pack from nothing: generator, CLIP, identity, attributes, landmarks, encoders, HyperEditor.

    python jobs/train_pack.py --output packs/portraits64 --work runs/pack

Stages run side by side (one process of one thread each, `--parallel` at a time); one that is finished for the same settings is not
run again, so an interrupted training goes on where it was. The last line printed is JSON with the numbers reached.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import jsonargparse
import torch

from models.pack import Pack
from training.pack import is_done, join, run_stage, stages


@dataclass(frozen=True, kw_only=True)
class Options:
    """What to train.

    Args:
        output: Folder of the pack; replaced when all stages are done.
        work: Folder for logs and finished stages.
        parallel: How many stages run side by side, one core each.
        stage: Run this stage alone and do not write the pack.
    """

    output: Path = Path("packs/portraits64")
    work: Path = Path("runs/pack")
    parallel: int = max(1, os.cpu_count() or 1)
    stage: str | None = None


def check(options: Options) -> str | None:
    """Return what is wrong with the options, if anything."""
    if options.parallel < 1:
        return f"--parallel {options.parallel}: expected 1 or more"
    if options.stage is not None and options.stage not in stages():
        return f"--stage {options.stage}: expected one of {', '.join(stages())}"
    missing = [need for need in stages()[options.stage].needs if not is_done(need, options.work)] if options.stage else []
    return f"--stage {options.stage} needs {', '.join(missing)} first: run those stages, or leave out --stage" if missing else None


def train_all(options: Options) -> None:
    """Run every stage whose needs are there, `parallel` at a time. Raises RuntimeError when one fails."""
    waiting = [name for name in stages() if not is_done(name, options.work)]
    running: dict[str, subprocess.Popen[bytes]] = {}
    try:
        while waiting or running:
            ready = [name for name in waiting if all(is_done(need, options.work) for need in stages()[name].needs)]
            for name in ready[: options.parallel - len(running)]:
                waiting.remove(name)
                print(f"==> {name}", flush=True)
                running[name] = subprocess.Popen([sys.executable, __file__, "--work", str(options.work), "--stage", name])
            for name, process in list(running.items()):
                if process.poll() is not None:
                    del running[name]
                    if process.returncode:
                        raise RuntimeError(f"stage {name} ended with exit code {process.returncode}; its output is above")
            time.sleep(0.5)
    finally:
        for process in running.values():
            process.terminate()
            process.wait()


def main() -> int:
    """Run the job; return its exit code."""
    options = jsonargparse.auto_cli(Options, as_positional=False)
    wrong = check(options)
    if wrong:
        print(f"train_pack: {wrong}", file=sys.stderr)
        return 2
    torch.set_num_threads(1)
    if options.stage is not None:
        run_stage(options.stage, options.work)
        return 0
    start = time.monotonic()
    try:
        train_all(options)
    except RuntimeError as error:
        print(f"train_pack: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("train_pack: interrupted; the same command goes on after the last finished stage", file=sys.stderr)
        return 130
    join(options.work, options.output)
    numbers = {name: dict(info.numbers) for name, info in Pack.load(options.output).info.networks.items()}
    print(json.dumps({"pack": str(options.output), "seconds": round(time.monotonic() - start, 1), "numbers": numbers}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
