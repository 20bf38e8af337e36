"""Measure what hosting a training in Ray Train costs per step, and how closely two workers follow one. Prints JSON; exit 1 beyond a limit.

python -m benchmarks.train_workers [--steps 50] [--turns 12] [--only overhead]

`curve_*`: the largest relative difference of the loss between one and two workers with the same global batch and seed, in float32.
`control_*`: the same between one thread and two of one worker, which only changes the order of sums. A training that amplifies rounding
differs by that much whatever the workers do, so a curve is beyond its limit where it is also beyond twice its control.
`float64_*`: the difference between one and two workers with all arithmetic in float64, where only another algorithm could differ.
`overhead`: mean time of a step of two workers under Ray Train over that under torchrun, from turns in which one training runs and the
other is frozen (benchmarks/turns.py): the median of the turns' ratios; `overhead_low` and `overhead_high` are the quartiles.
`ray_share`: what Ray's own processes took of all CPU time while Ray's training ran, which neighbours on the machine do not change.
"""

from __future__ import annotations

import json
import signal
import statistics
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import jsonargparse
import yaml

from benchmarks.measure import FLOORS
from benchmarks.turns import Training, take_turns, turns_of

ROOT = Path(__file__).parents[1]
JOB = str(ROOT / "jobs" / "train.py")
IN_FLOAT64 = str(ROOT / "benchmarks" / "in_float64.py")
QUIET = ["--tracking.enabled", "false", "--loop.log_every", "1", "--loop.sheet_every", "0", "--loop.checkpoint_every", "100000"]
SETTINGS = {
    "hypereditor": ["--settings.pictures", "200", "--settings.measured", "4", "--settings.phases"],
    "e4e": ["--settings.pictures", "400", "--settings.measured", "20", "--settings.steps"],
}
AMPLIFIES = ("e4e",)  # trainings whose curves are also compared in float64
WARM_UP = 20
TURN_S = 20.0
THAWED = 8  # first steps of a turn that do not count: caches are cold, and what was due meanwhile is caught up
ENDLESS = 1_000_000
WORKERS = {"plain": " -u ", "ray": "ray::RayTrainWorker"}  # what the command lines of processes that train have in common


@dataclass(frozen=True, kw_only=True)
class Options:
    """How to measure.

    Args:
        steps: Steps of every training whose curve is compared.
        turns: Turns of each host for the overhead.
        only: Measure this alone.
    """

    steps: int = 50
    turns: int = 12
    only: Literal["curves", "overhead"] | None = None


def command(
    network: str, folder: Path, *, steps: int, workers: int, ray: bool, precision: str, threads: int = 1, float64: bool = False
) -> list[str]:
    """Return the command of a training into a folder."""
    job = [IN_FLOAT64, JOB] if float64 else [JOB]
    launcher = [sys.executable, *job]
    hosted = ["--workers.threads", str(threads), *(["--workers.count", str(workers)] if ray else ["--plain"])]
    if not ray and workers > 1:
        launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(workers), *job]
    value = f"[[{steps}, 1.0]]" if network == "hypereditor" else str(steps)
    return [
        *launcher, "--network", network, "--output", str(folder), "--precision", precision, *QUIET, *hosted, *SETTINGS[network], value
    ]  # fmt: skip


def train(
    network: str, folder: Path, *, steps: int, workers: int, precision: str, threads: int = 1, float64: bool = False
) -> list[dict[str, float]]:
    """Run a training without Ray and return its log, a line per step."""
    asked = command(network, folder, steps=steps, workers=workers, ray=False, precision=precision, threads=threads, float64=float64)
    done = subprocess.run(asked, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{network} with {workers} worker(s) ended with exit code {done.returncode}:\n{done.stderr[-2000:]}")
    return log(folder)


def log(folder: Path) -> list[dict[str, float]]:
    """Return the log of a training."""
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


def curve(network: str, folder: Path, *, steps: int) -> dict[str, float]:
    """Return the largest relative difference of the losses of one and two workers, and of one and two threads of one worker."""
    alone, together, threaded = (
        train(network, folder / name, steps=steps, workers=workers, precision="float32", threads=threads)
        for name, workers, threads in ((f"{network}-1", 1, 1), (f"{network}-2", 2, 1), (f"{network}-threads", 1, 2))
    )
    return {f"curve_{network}": _difference(alone, together), f"control_{network}": _difference(alone, threaded)}


def exact_curve(network: str, folder: Path, *, steps: int) -> dict[str, float]:
    """Return the largest relative difference of the losses of one and two workers in float64."""
    alone, together = (
        train(network, folder / f"{network}-{workers}-float64", steps=steps, workers=workers, precision="float32", float64=True)
        for workers in (1, 2)
    )
    return {f"float64_{network}": _difference(alone, together)}


def _difference(one: list[dict[str, float]], other: list[dict[str, float]]) -> float:
    return max(abs(a["loss"] - b["loss"]) / abs(a["loss"]) for a, b in zip(one, other, strict=True))


def _control(figure: str, found: dict[str, float]) -> float:
    """Return the control of a curve; other figures have none."""
    return found[figure.replace("curve_", "control_")] if figure.startswith("curve_") else 0.0


def overhead(folder: Path, *, turns: int) -> dict[str, float]:
    """Return what a step takes under torchrun and under Ray Train, their ratio, and Ray's own share of the processors."""
    folders = {host: folder / f"overhead-{host}" for host in WORKERS}
    plain, ray = (
        Training(
            command("hypereditor", where, steps=ENDLESS, workers=2, ray=host == "ray", precision="bf16"), output=where, cwd=ROOT,
            worker=WORKERS[host],
        )
        for host, where in folders.items()
    )  # fmt: skip
    with plain, ray:
        take_turns(plain, ray, turns=turns, seconds=TURN_S, warm=WARM_UP)
    one, other = ([statistics.mean(turn) for turn in counted(where, turns=turns)] for where in folders.values())
    ratios = [slow / fast for fast, slow in zip(one, other, strict=True)]
    low, middle, high = statistics.quantiles(ratios)
    return {
        "plain_step_s": round(statistics.median(one), 4), "ray_step_s": round(statistics.median(other), 4), "overhead": round(middle, 4),
        "overhead_low": round(low, 4), "overhead_high": round(high, 4),
        "ray_share": round(ray.hosted_s / (ray.hosted_s + ray.trained_s), 4),
    }  # fmt: skip


def counted(folder: Path, *, turns: int) -> list[list[float]]:
    """Return the durations of the steps that count, by turn. Raises ValueError where a turn has none."""
    found = [turn[THAWED:] for turn in turns_of([line["s"] for line in log(folder)], turns=turns, frozen_s=TURN_S / 2)]
    if not all(found):
        raise ValueError(f"no step counts: turns of {TURN_S:g} s are too short for {THAWED} steps and one more")
    return found


def told(figures: dict[str, float]) -> dict[str, float]:
    """Print figures as soon as they are there, since the next may take minutes or fail."""
    print(f"train_workers: {figures}", file=sys.stderr, flush=True)
    return figures


def main() -> int:
    """Measure; return 1 when a figure is beyond its limit."""
    options = jsonargparse.auto_cli(Options, as_positional=False)
    if options.turns < 2 or options.steps < 1:
        print(f"--turns {options.turns} --steps {options.steps}: expected 2 turns or more and 1 step or more", file=sys.stderr)
        return 2
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # or trainings would be left behind
    limits: dict[str, float] = yaml.safe_load(FLOORS.read_text())["train_workers"]
    found: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if options.only != "overhead":
            for network in SETTINGS:
                found |= told(curve(network, folder, steps=options.steps))
                found |= told(exact_curve(network, folder, steps=options.steps)) if network in AMPLIFIES else {}
        if options.only != "curves":
            found |= told(overhead(folder, turns=options.turns))
    beyond = [name for name, limit in limits.items() if name in found and found[name] > max(limit, 2 * _control(name, found))]
    print(json.dumps({"benchmark": "train_workers", **found, "limits": limits, "beyond_limit": beyond}))
    return 1 if beyond else 0


if __name__ == "__main__":
    sys.exit(main())
