"""Train the whole portraits pack from nothing: generator, CLIP, identity, attributes, landmarks, parser, inverters, HyperEditor.

    python jobs/train_pack.py --output packs/portraits64 --work runs/pack

Where nothing that this needs is left out, the new pack gets strengths of its instructions, chosen on validation people, and is measured
on held-out ones. Stages run side by side (one process of one thread each, `--parallel` at a time); one that is finished for the same
settings is not run again, and one that was stopped goes on from its newest checkpoint. MLflow gets one run for the pack, with the
numbers, times and pack.yaml, and below it one run per stage with its curves and sheets. The last line printed is JSON with the numbers
reached. Exit codes: 0 done, 2 wrong arguments or a folder that cannot be used, 130 stopped at checkpoints after Ctrl-C or SIGTERM, 1
anything else.
"""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
import time
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType

import jsonargparse
import torch

from models.instruction import load_instructions
from models.pack import Pack
from models.pack_format import write_atomically
from pipeline.config import TrackingConfig
from pipeline.lock import OutputError, held
from pipeline.storage import Storage
from pipeline.training_run import CONFIG_TAG, Run, RunWriter, end_run, open_run
from training.pack import Recipe, join, plain_settings, recipe, run_stage
from training.pack_place import output_problem, settle
from training.run import Result

EXPERIMENT = "train_pack"
PARENT_TAG = "mlflow.parentRunId"
SPENT = "seconds.json"
INSTRUCTIONS = "configs/instructions/portraits.yaml"
COMMITTED = Path("packs/portraits64")
FAILED, WRONG, STOPPED = 1, 2, 130
MEASURED = frozenset({"generator", "clip", "identity", "attributes", "landmarks", "e4e", "hypereditor"})
"""Networks without which the figures of a pack cannot be taken."""
POLL_S = 0.5
SAVE_S = 10.0
STOP_TIMEOUT_S = 120.0
"""How long a stage may take to its next checkpoint when it is asked to stop."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """What to train.

    Args:
        output: Folder of the pack; replaced when all stages are done.
        work: Folder for logs, checkpoints and finished stages.
        parallel: How many stages run side by side, one core each.
        scale: Share of every stage's steps, pictures and measured portraits; below 1 to try the command, not to use the pack.
        stage: Run this stage alone and do not write the pack.
        without: Stages to leave out; the pack then lacks their networks, or an ablation.
        tracking: Where the MLflow runs go.
        parent: MLflow run that a stage belongs to.
        driver: Process that a stage belongs to: the stage stops at a checkpoint when that process is gone.
    """

    output: Path = COMMITTED
    work: Path = Path("runs/pack")
    parallel: int = max(1, os.cpu_count() or 1)
    scale: float = 1.0
    stage: str | None = None
    without: list[str] = field(default_factory=list)
    tracking: TrackingConfig = field(default_factory=lambda: TrackingConfig(experiment=EXPERIMENT))
    parent: str | None = None
    driver: int | None = None


class Stop:
    """Whether to stop at a checkpoint: after SIGINT or SIGTERM, in a stage also when its driver is gone.

    The second signal ends the command and its stages at once; a stage leaves that to its driver, because Ctrl-C reaches both.
    """

    def __init__(self, driver: int | None = None) -> None:
        self.asked = False
        self.running: dict[str, subprocess.Popen[bytes]] = {}
        self._driver = driver

    def listen(self) -> None:
        """Take both signals from now on, also where a shell in the background had SIGINT ignored."""
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._hear)

    def is_set(self) -> bool:
        """Say whether to stop."""
        return self.asked or (self._driver is not None and os.getppid() != self._driver)

    def _hear(self, _signal: int, _frame: FrameType | None) -> None:
        if self._driver is None:
            if self.asked:
                for process in self.running.values():
                    process.kill()
                os._exit(STOPPED)
            # Not print: the signal may come in the middle of one.
            os.write(2, b"train_pack: stopping at checkpoints; once more to leave at once\n")
        self.asked = True


class Spent:
    """Count the seconds that all runs of the command on one work folder took; at most SAVE_S of them are lost with the process."""

    def __init__(self, work: Path) -> None:
        self._path = work / SPENT
        self._before = float(json.loads(self._path.read_text())) if self._path.is_file() else 0.0
        self._start, self._saved = time.monotonic(), -math.inf

    @property
    def seconds(self) -> float:
        """Seconds until now."""
        return self._before + time.monotonic() - self._start

    def save(self, *, every_s: float = 0.0) -> None:
        """Write them down, unless that was done less than `every_s` ago."""
        if time.monotonic() - self._saved >= every_s:
            write_atomically(self._path, json.dumps(self.seconds).encode())
            self._saved = time.monotonic()


def check(options: Options) -> str | None:
    """Return what is wrong with the options, if anything."""
    if options.parallel < 1:
        return f"--parallel {options.parallel}: expected 1 or more"
    if not 0 < options.scale <= 1:
        return f"--scale {options.scale}: expected more than 0 and at most 1"
    if options.scale < 1 and options.stage is None and options.output.resolve() == COMMITTED.resolve():
        return f"--scale {options.scale} would replace {COMMITTED} by a pack for trying: name another --output (and --work)"
    wrong = _check_output(options) if options.stage is None else None
    if wrong:
        return wrong
    try:
        plan = recipe(options.scale).without(options.without)
    except ValueError as error:
        return f"--without: {error}"
    if options.stage is not None and options.stage not in plan.stages:
        return f"--stage {options.stage}: expected one of {', '.join(plan.stages)}"
    needs = plan.stages[options.stage].needs.values() if options.stage else ()
    missing = [need for need in needs if not plan.is_done(need, options.work)]
    lacking = sorted(MEASURED - plan.networks())
    if options.stage is None and lacking and options.output.resolve() == COMMITTED.resolve():
        return f"--without: {COMMITTED} would be replaced by a pack without {', '.join(lacking)}: name another --output"
    return f"--stage {options.stage} needs {', '.join(missing)} first: run those stages, or leave out --stage" if missing else None


def _check_output(options: Options) -> str | None:
    output, work = options.output.resolve(), options.work.resolve()
    if work.is_relative_to(output):
        return f"--work {options.work} lies in --output {options.output}, which is replaced at the end: name a folder outside of it"
    if any(output.is_relative_to(work / stage) for stage in recipe().stages):
        return f"--output {options.output} lies in the folder of a stage of --work {options.work}: name a folder outside of it"
    return output_problem(options.output)


def held_work(folder: Path, *, stop: Stop, wait_s: float = 0.0) -> AbstractContextManager[None]:
    """Hold a work folder: two commands never write to one. Raises OutputError where another one still does after `wait_s`."""
    return held(Storage(str(folder)), say=say, flag="--work", wait_s=wait_s, should_stop=stop.is_set)


def say(text: str) -> None:
    """Tell the user something."""
    print(f"train_pack: {text}", file=sys.stderr, flush=True)


def train_stage(plan: Recipe, options: Options, name: str, *, stop: Stop) -> Result:
    """Run one stage in this process, with an MLflow run of its own. Raises OutputError where another process runs it."""
    # The stage of a driver that was killed needs a while to see that and to reach a checkpoint.
    with held_work(options.work / name, stop=stop, wait_s=STOP_TIMEOUT_S if options.driver is not None else 0.0):
        return _train_stage(plan, options, name, stop=stop)


def _train_stage(plan: Recipe, options: Options, name: str, *, stop: Stop) -> Result:
    out = str((options.work / name).resolve())
    parent = {PARENT_TAG: options.parent} if options.parent else {}
    settings = plain_settings(plan.stages[name])
    run = open_run(options.tracking, output=out, name=name, params=settings, tags={CONFIG_TAG: plan.fingerprint(name), **parent})
    try:
        with RunWriter(run) as writer:
            result = run_stage(plan, name, options.work, recorder=writer, should_stop=stop.is_set)
    except BaseException as error:
        end_run(run, status="KILLED" if isinstance(error, KeyboardInterrupt) else "FAILED", metrics={}, artifacts=[])
        raise
    if not result.finished:
        end_run(run, status="KILLED", metrics={"step": result.step}, artifacts=[])
        say(f"stage {name} stopped at step {result.step} of {result.steps}")
        return result
    end_run(run, status="FINISHED", metrics=result.numbers, artifacts=[f"{out}/log.jsonl"])
    return result


def stage_command(options: Options, name: str, run: Run) -> list[str]:
    """Return the command that runs one stage for this process."""
    named = ["--tracking.uri", run.uri, "--tracking.experiment", options.tracking.experiment]
    recorded = ["--parent", run.run_id, *named] if run.run_id else ["--tracking.enabled", "false"]
    own = ["--work", str(options.work), "--stage", name, "--scale", str(options.scale), "--driver", str(os.getpid())]
    return [sys.executable, __file__, *own, *recorded]


def train_all(plan: Recipe, options: Options, run: Run, *, stop: Stop, spent: Spent) -> None:
    """Run every stage whose needs are there, `parallel` at a time.

    Raises RuntimeError when one fails, KeyboardInterrupt when asked to stop; either way the running ones are stopped at a checkpoint.
    """
    waiting = [name for name in plan.stages if not plan.is_done(name, options.work)]
    running = stop.running
    try:
        while waiting or running:
            if stop.is_set():
                raise KeyboardInterrupt
            ready = [name for name in waiting if all(plan.is_done(need, options.work) for need in plan.stages[name].needs.values())]
            for name in ready[: options.parallel - len(running)]:
                waiting.remove(name)
                print(f"==> {name} ({len(waiting)} more to come)", file=sys.stderr, flush=True)
                running[name] = subprocess.Popen(stage_command(options, name, run))
            for name in [name for name, process in running.items() if process.poll() is not None]:
                _check_ended(plan, options, name, code=running.pop(name).returncode, stop=stop)
            spent.save(every_s=SAVE_S)
            time.sleep(POLL_S)
    finally:
        stop_stages(running)


def _check_ended(plan: Recipe, options: Options, name: str, *, code: int, stop: Stop) -> None:
    if code == STOPPED or (code and stop.is_set()):
        raise KeyboardInterrupt
    if code:
        raise RuntimeError(f"stage {name} ended with exit code {code}; its output is above")
    if not plan.is_done(name, options.work):
        raise RuntimeError(f"stage {name} was trained with other settings: the code changed meanwhile; start again")


def stop_stages(running: dict[str, subprocess.Popen[bytes]]) -> None:
    """Ask all to stop at a checkpoint and wait for that; end those that take too long."""
    for process in running.values():
        process.terminate()
    deadline = time.monotonic() + STOP_TIMEOUT_S
    for name, process in running.items():
        try:
            process.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            say(f"stage {name} did not stop within {STOP_TIMEOUT_S:.0f} s and was ended")
            process.kill()
            process.wait()


def train_pack(options: Options, *, stop: Stop) -> dict[str, object]:
    """Run all stages and join them; return the numbers. Raises OutputError where a folder cannot be used."""
    with held_work(options.work, stop=stop):
        settle(options.output)
        return _train_pack(options, stop=stop)


def _train_pack(options: Options, *, stop: Stop) -> dict[str, object]:
    plan, spent = recipe(options.scale).without(options.without), Spent(options.work)
    work = str(options.work.resolve())
    params = {name: plain_settings(stage) for name, stage in plan.stages.items()}
    run = open_run(options.tracking, output=work, name="pack", params=params, tags={CONFIG_TAG: plan.whole_fingerprint()})
    try:
        train_all(plan, options, run, stop=stop, spent=spent)
        seconds = spent.seconds
        # Shortened trainings leave networks that find no face, so there is nothing to measure.
        finish = (lambda folder: complete(folder, stop)) if plan.scale == 1 and plan.networks() >= MEASURED else None
        if finish is None:
            say(
                "the pack is not measured: "
                + ("it is for trying the command" if plan.scale < 1 else "networks that this needs are left out")
            )
        join(plan, options.work, options.output, seconds=seconds, mlflow_run=run.run_id, finish=finish)
    except BaseException as error:
        end_run(run, status="KILLED" if isinstance(error, KeyboardInterrupt) else "FAILED", metrics={}, artifacts=[])
        raise
    finally:
        spent.save()
    numbers = {name: dict(info.numbers) for name, info in Pack.load(options.output).info.networks.items()}
    kept = [str(path.resolve()) for path in sorted(options.output.iterdir()) if path.suffix in (".json", ".yaml")]
    flat = {f"{network}/{name}": value for network, found in numbers.items() for name, value in found.items()}
    end_run(run, status="FINISHED", metrics={**flat, "seconds": seconds}, artifacts=kept)
    return {"pack": str(options.output), "seconds": round(seconds, 1), "mlflow_run_id": run.run_id, "numbers": numbers}


def complete(folder: Path, stop: Stop) -> None:
    """Choose strengths for a new pack and measure it. Raises KeyboardInterrupt when asked to stop."""
    from evaluation import new_pack  # imported here: it loads torchmetrics and torchvision, and every stage is a process of its own

    def report(text: str) -> None:
        if stop.is_set():
            raise KeyboardInterrupt
        say(text)

    new_pack.complete(folder, load_instructions(INSTRUCTIONS), say=report)


def main(arguments: list[str] | None = None) -> int:
    """Run the job; return its exit code."""
    options = jsonargparse.auto_cli(Options, as_positional=False, args=arguments)
    wrong = check(options)
    if wrong:
        say(wrong)
        return WRONG
    stop = Stop(options.driver)
    stop.listen()
    torch.set_num_threads(1)
    try:
        if options.stage is None:
            print(json.dumps(train_pack(options, stop=stop)))
        elif not train_stage(recipe(options.scale), options, options.stage, stop=stop).finished:
            raise KeyboardInterrupt
    except OutputError as error:
        say(str(error))
        return WRONG
    except RuntimeError as error:
        say(str(error))
        return FAILED
    except KeyboardInterrupt:
        if options.driver is None:
            say("interrupted; the same command goes on from the newest checkpoints")
        return STOPPED
    return 0


if __name__ == "__main__":
    sys.exit(main())
