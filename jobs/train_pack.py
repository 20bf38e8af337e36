"""Train the whole portraits pack from nothing: generator, CLIP, identity, attributes, landmarks, encoders, HyperEditor.

    python jobs/train_pack.py --output packs/portraits64 --work runs/pack

Stages run side by side (one process of one thread each, `--parallel` at a time); one that is finished for the same settings is not
run again, and one that was stopped goes on from its newest checkpoint. MLflow gets one run for the pack, with the numbers, times and
pack.yaml, and below it one run per stage with its curves and sheets. The last line printed is JSON with the numbers reached.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

import jsonargparse
import torch

from models.pack import Pack
from pipeline.config import TrackingConfig
from pipeline.training_run import CONFIG_TAG, Run, RunWriter, end_run, open_run
from training.pack import Recipe, join, plain_settings, recipe, run_stage
from training.run import Result

EXPERIMENT = "train_pack"
PARENT_TAG = "mlflow.parentRunId"
SPENT = "seconds.json"
COMMITTED = Path("packs/portraits64")


@dataclass(frozen=True, kw_only=True)
class Options:
    """What to train.

    Args:
        output: Folder of the pack; replaced when all stages are done.
        work: Folder for logs, checkpoints and finished stages.
        parallel: How many stages run side by side, one core each.
        scale: Share of every stage's steps, pictures and measured portraits; below 1 to try the command, not to use the pack.
        stage: Run this stage alone and do not write the pack.
        tracking: Where the MLflow runs go.
        parent: MLflow run that a stage belongs to.
    """

    output: Path = COMMITTED
    work: Path = Path("runs/pack")
    parallel: int = max(1, os.cpu_count() or 1)
    scale: float = 1.0
    stage: str | None = None
    tracking: TrackingConfig = field(default_factory=lambda: TrackingConfig(experiment=EXPERIMENT))
    parent: str | None = None


def check(options: Options) -> str | None:
    """Return what is wrong with the options, if anything."""
    if options.parallel < 1:
        return f"--parallel {options.parallel}: expected 1 or more"
    if not 0 < options.scale <= 1:
        return f"--scale {options.scale}: expected more than 0 and at most 1"
    if options.scale < 1 and options.stage is None and options.output.resolve() == COMMITTED.resolve():
        return f"--scale {options.scale} would replace {COMMITTED} by a pack for trying: name another --output (and --work)"
    plan = recipe(options.scale)
    if options.stage is not None and options.stage not in plan.stages:
        return f"--stage {options.stage}: expected one of {', '.join(plan.stages)}"
    needs = plan.stages[options.stage].needs.values() if options.stage else ()
    missing = [need for need in needs if not plan.is_done(need, options.work)]
    return f"--stage {options.stage} needs {', '.join(missing)} first: run those stages, or leave out --stage" if missing else None


def train_stage(plan: Recipe, options: Options, name: str) -> Result:
    """Run one stage in this process, with an MLflow run of its own."""
    out = str((options.work / name).resolve())
    parent = {PARENT_TAG: options.parent} if options.parent else {}
    settings = plain_settings(plan.stages[name])
    run = open_run(options.tracking, output=out, name=name, params=settings, tags={CONFIG_TAG: plan.fingerprint(name), **parent})
    try:
        with RunWriter(run) as writer:
            result = run_stage(plan, name, options.work, recorder=writer)
    except BaseException as error:
        end_run(run, status="KILLED" if isinstance(error, KeyboardInterrupt) else "FAILED", metrics={}, artifacts=[])
        raise
    end_run(run, status="FINISHED", metrics=result.numbers, artifacts=[f"{out}/log.jsonl"])
    return result


def train_all(plan: Recipe, options: Options, run: Run) -> None:
    """Run every stage whose needs are there, `parallel` at a time. Raises RuntimeError when one fails."""
    waiting = [name for name in plan.stages if not plan.is_done(name, options.work)]
    running: dict[str, subprocess.Popen[bytes]] = {}
    named = ["--tracking.uri", run.uri, "--tracking.experiment", options.tracking.experiment]
    recorded = ["--parent", run.run_id, *named] if run.run_id else ["--tracking.enabled", "false"]
    more = [*recorded, "--scale", str(options.scale)]
    try:
        while waiting or running:
            ready = [name for name in waiting if all(plan.is_done(need, options.work) for need in plan.stages[name].needs.values())]
            for name in ready[: options.parallel - len(running)]:
                waiting.remove(name)
                print(f"==> {name} ({len(waiting)} more to come)", file=sys.stderr, flush=True)
                running[name] = subprocess.Popen([sys.executable, __file__, "--work", str(options.work), "--stage", name, *more])
            for name, process in list(running.items()):
                if process.poll() is not None:
                    del running[name]
                    if process.returncode:
                        raise RuntimeError(f"stage {name} ended with exit code {process.returncode}; its output is above")
                    if not plan.is_done(name, options.work):
                        raise RuntimeError(f"stage {name} was trained with other settings: the code changed meanwhile; start again")
            time.sleep(0.5)
    finally:
        for process in running.values():
            process.terminate()
            process.wait()


def train_pack(options: Options) -> dict[str, object]:
    """Run all stages and join them; return the numbers."""
    start = time.monotonic()
    options.work.mkdir(parents=True, exist_ok=True)
    spent = options.work / SPENT
    before = float(json.loads(spent.read_text())) if spent.is_file() else 0.0
    plan = recipe(options.scale)
    work = str(options.work.resolve())
    params = {name: plain_settings(stage) for name, stage in plan.stages.items()}
    run = open_run(options.tracking, output=work, name="pack", params=params, tags={CONFIG_TAG: plan.whole_fingerprint()})
    try:
        train_all(plan, options, run)
    except BaseException as error:
        end_run(run, status="KILLED" if isinstance(error, KeyboardInterrupt) else "FAILED", metrics={}, artifacts=[])
        raise
    finally:
        spent.write_text(json.dumps(before + time.monotonic() - start))
    seconds = before + time.monotonic() - start
    join(plan, options.work, options.output, seconds=seconds, mlflow_run=run.run_id)
    numbers = {name: dict(info.numbers) for name, info in Pack.load(options.output).info.networks.items()}
    flat = {f"{network}/{name}": value for network, found in numbers.items() for name, value in found.items()}
    end_run(run, status="FINISHED", metrics={**flat, "seconds": seconds}, artifacts=[str((options.output / "pack.yaml").resolve())])
    return {"pack": str(options.output), "seconds": round(seconds, 1), "mlflow_run_id": run.run_id, "numbers": numbers}


def main() -> int:
    """Run the job; return its exit code."""
    options = jsonargparse.auto_cli(Options, as_positional=False)
    wrong = check(options)
    if wrong:
        print(f"train_pack: {wrong}", file=sys.stderr)
        return 2
    torch.set_num_threads(1)
    try:
        if options.stage is not None:
            train_stage(recipe(options.scale), options, options.stage)
        else:
            print(json.dumps(train_pack(options)))
    except RuntimeError as error:
        print(f"train_pack: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("train_pack: interrupted; the same command goes on from the newest checkpoints", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
