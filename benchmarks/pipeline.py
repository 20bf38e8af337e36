"""Measure the pipeline against a bare loop over the same networks, where its time goes, and whether its memory grows. Prints JSON.

python -m benchmarks.pipeline [--count 320] [--rounds 5] [--memory '[1000, 10000]'] [--device cuda]

`throughput` is the pipeline's images/s over those of a loop in one process that reads, aligns, inverts, edits and scores the same portraits
in the same batches and writes nothing; medians of runs that take turns, networks loaded before either clock starts. `stage_*` are shares of
the workers' time. `memory_growth` is the most memory that all processes of a job take together (shared memory counted once) with the last
number of samples over that with the first. Exit code 1 beyond a floor of benchmarks/floors.yaml.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import jsonargparse
import psutil

from benchmarks.measure import conclude, say
from jobs.local_ray import MARK, processes_of

if TYPE_CHECKING:
    from pipeline.align import Aligner
    from pipeline.images import ImageHWC

INSTRUCTIONS = "configs/instructions/portraits.yaml"
SHARD = 40
"""Portraits of a shard, as in the demo."""
LARGE_SHARD = 250
SMILE = "smile: a photo of a face -> a photo of a smiling face"
LOOK_EVERY_S = 0.5


@dataclass(frozen=True, kw_only=True)
class Options:
    """How to measure.

    Args:
        count: Portraits of the throughput.
        rounds: Runs of each form.
        instructions: Instructions of the throughput, a YAML file.
        memory: Numbers of portraits whose peaks are compared; none leaves that out.
        batch: Pictures in one forward pass.
        threads: Threads of the loop: as many as there are cores. The pipeline shares them out by itself.
        device: cpu or cuda, of the loop and of the workers.
        pack: Pack whose networks run.
    """

    count: int = 320
    rounds: int = 5
    instructions: str = INSTRUCTIONS
    memory: tuple[int, ...] = (1000, 10_000)
    batch: int = 16
    threads: int = 2
    device: str = "cpu"
    pack: str = "packs/portraits64"


def portraits(folder: Path, count: int, *, shard: int) -> Path:
    """Write shards of raw portraits and return where."""
    command = [sys.executable, "jobs/make_portraits.py", "--output", str(folder), "--count", str(count), "--shard_size", str(shard)]
    subprocess.run(command, check=True, capture_output=True)
    return folder


def loop_rate(raw: Path, options: Options) -> float:
    """Return the images/s of the bare loop, in a new process."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(_loop_rate, (str(raw), options))


def _loop_rate(raw: str, options: Options) -> float:
    import torch

    from models.instruction import load_instructions
    from models.pack import Pack
    from pipeline.align import Aligner
    from pipeline.edit import edit
    from pipeline.invert import invert, to_tensor
    from pipeline.methods import load_methods

    torch.set_num_threads(options.threads)
    pack, instructions = Pack.load(options.pack, device=options.device), load_instructions(options.instructions)
    methods = load_methods(pack, inverter="e4e", editor="hypereditor", device=options.device)
    aligner = Aligner(pack.landmarks(), size=pack.size)
    assert methods.editor is not None
    images, start = 0, time.perf_counter()
    with torch.no_grad():
        for batch in _batches(raw, aligner, options.batch):
            aligned_BCHW = to_tensor(batch, device=options.device)
            inversion = invert(methods.inverter, pack.generator(), aligned_BCHW)
            source = methods.scorer.source(aligned_BCHW, inversion.made_BCHW)
            for instruction in instructions:
                edited_BCHW = edit(methods.editor, pack.generator(), inversion, instruction=instruction)
                methods.scorer.edit(source, edited_BCHW.clamp(-1, 1), instruction)
                images += len(batch)
    return images / (time.perf_counter() - start)


def _batches(raw: str, aligner: Aligner, size: int) -> Iterator[Sequence[ImageHWC]]:
    """Yield the aligned pictures of all shards in batches, none across two shards."""
    from pipeline.feed import Ready, read_shard
    from pipeline.settings import ShardTask
    from pipeline.shards import list_shards

    for shard in list_shards(raw):
        chunks = read_shard(ShardTask(url=shard.url, name=shard.name), aligner)
        ready = [entry.aligned_HWC for chunk in chunks if isinstance(chunk, list) for entry in chunk if isinstance(entry, Ready)]
        yield from (ready[first : first + size] for first in range(0, len(ready), size))


def run_job(raw: Path, output: Path, options: Options, *instructions: str) -> dict[str, object]:
    """Run the edit job on a Ray of its own and return its run.json, with `peak_bytes` of all its processes."""
    command = [sys.executable, "jobs/edit_dataset.py", "--input", str(raw), "--output", str(output), "--pack", options.pack]
    command += ["--instructions", *instructions, "--batch_size", str(options.batch)]
    command += ["--tracking.enabled", "false", "--device", options.device]
    mark = str(output)
    env = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")} | {MARK: mark}
    with _Peak(mark) as peak:
        done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"the job ended with exit code {done.returncode}:\n{done.stderr[-3000:]}")
    record: dict[str, object] = json.loads((output / "run.json").read_text())
    return record | {"peak_bytes": peak.bytes}


class _Peak:
    """Look every half second at what all processes with a mark in their environment take together."""

    def __init__(self, mark: str) -> None:
        self.bytes = 0
        self._mark, self._done = mark, threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> _Peak:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._done.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._done.wait(LOOK_EVERY_S):
            self.bytes = max(self.bytes, sum(_proportional(process) for process in processes_of(self._mark)))


def _proportional(process: psutil.Process) -> int:
    """Return what a process takes, its part of shared memory included."""
    try:
        return int(process.memory_full_info().pss)
    except (psutil.NoSuchProcess, psutil.AccessDenied):
        return 0


def throughput(folder: Path, options: Options) -> dict[str, float]:
    """Return the ratio, both rates, and the shares of the stages."""
    raw = portraits(folder / "raw", options.count, shard=SHARD)
    bare, piped, stages = list[float](), list[float](), list[dict[str, float]]()
    for turn in range(options.rounds):
        bare.append(loop_rate(raw, options))
        record = run_job(raw, folder / f"edited-{turn}", options, options.instructions)
        piped.append(float(record["images_per_s"]))  # type: ignore[arg-type]
        stages.append(record["this_run"]["stage_seconds"])  # type: ignore[index]
        say(f"turn {turn + 1} of {options.rounds}: pipeline {piped[-1]:.1f} images/s, bare loop {bare[-1]:.1f}")
    total = sum(sum(one.values()) for one in stages)
    shares = {f"stage_{name}": sum(one[name] for one in stages) / total for name in stages[0]}
    rates = {"images_per_s": statistics.median(piped), "images_per_s_bare": statistics.median(bare)}
    return {"throughput": rates["images_per_s"] / rates["images_per_s_bare"], **rates, **shares}


def memory(folder: Path, options: Options) -> dict[str, float]:
    """Return the peaks of jobs over more and more samples, in GiB, and their growth."""
    peaks = []
    for count in options.memory:
        raw = portraits(folder / f"raw-{count}", count, shard=LARGE_SHARD)
        peaks.append(float(run_job(raw, folder / f"edited-{count}", options, SMILE)["peak_bytes"]))  # type: ignore[arg-type]
        say(f"{count} samples: {peaks[-1] / 2**30:.2f} GiB at most")
    found = {f"memory_gib_{count}": peak / 2**30 for count, peak in zip(options.memory, peaks, strict=True)}
    return found | {"memory_growth": peaks[-1] / peaks[0]}


def main() -> int:
    """Measure; return 1 when a figure misses its floor."""
    options = jsonargparse.auto_cli(Options, as_positional=False)
    with tempfile.TemporaryDirectory(prefix="pipeline-") as folder:
        found = throughput(Path(folder), options) if options.rounds else {}
        found |= memory(Path(folder), options) if options.memory else {}
    return conclude("pipeline", found, about={"device": options.device}, at_most=["memory_growth"], judged=options.device == "cpu")


if __name__ == "__main__":
    sys.exit(main())
