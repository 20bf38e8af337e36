"""The steps of the balancing example in its folder, each of which goes on from what an earlier run left there.

OUT/raw.json, raw/        the biased set: what it is, and its raw shards
OUT/augmented/            what `jobs/augment_dataset.py` made of it
OUT/test.safetensors      the aligned test people
OUT/runs/WAY-SEED.json    what each trained classifier is right about
OUT/balancing.json, .png  all figures, and their plot
"""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from evaluation.balancing import (
    COMMON,
    NAMES,
    ORIGINAL,
    RARE,
    TEST_SEED,
    TRAINING_SEED,
    BalancingError,
    LabelledSet,
    aligned_people,
    read_augmented,
    write_biased,
)
from evaluation.balancing_result import INTERVALS, WORST, Accuracy, differences, drawn, estimates, plain
from evaluation.balancing_training import WAYS, Training, accuracies, trained
from models.pack import Pack
from pipeline.align import ImageHWC
from pipeline.storage import Storage

AUGMENT = Path(__file__).resolve().parents[1] / "jobs" / "augment_dataset.py"
RAW, RAW_RECORD, AUGMENTED, TEST, RUNS = "raw", "raw.json", "augmented", "test.safetensors", "runs"
FIGURES, PLOT = "balancing.json", "balancing.png"
FACES = 2
"""People of each group that the plot shows."""
Say = Callable[[str], None]
Watch = Callable[[str, int], Callable[[], object]]
"""Starts a bar of some words and a total; returns what moves it on by one."""


class AugmentationError(RuntimeError):
    """The augmentation ended with `code`, which is not 0."""

    def __init__(self, code: int) -> None:
        super().__init__(f"{AUGMENT.name} ended with exit code {code}, for the reason above; mend that and give the same command again")
        self.code = code


@dataclass(frozen=True, kw_only=True)
class Example:
    """Where an example is, and its settings; the defaults are those of the README."""

    folder: Path
    common: int = 400
    """People of each common group of the biased set."""
    rare: int = 2
    """People of each rare group."""
    shard_size: int = 100
    """People per raw shard."""
    test: int = 300
    """Test people of each group."""
    seeds: int = 5
    """Trainings of each way."""
    training: Training = Training()

    @property
    def storage(self) -> Storage:
        """Return the folder."""
        return Storage(str(self.folder))

    @property
    def counts(self) -> dict[str, int]:
        """Return the people of each group in the biased set."""
        return dict.fromkeys(COMMON, self.common) | dict.fromkeys(RARE, self.rare)


def make_raw(example: Example, *, say: Say, watch: Watch) -> None:
    """Write OUT/raw unless it is whole. Raises BalancingError where it is something else."""
    storage, raw = example.storage, Storage(str(example.folder / RAW))
    wanted = {"counts": example.counts, "shard_size": example.shard_size, "seed": TRAINING_SEED}
    record = json.loads(storage.read(RAW_RECORD)) if storage.exists(RAW_RECORD) else {}
    if not record and raw.files():
        raise BalancingError(f"{raw.url} holds files that this job did not write: name another --output")
    if record and (found := {key: record.get(key) for key in wanted}) != wanted:
        raise BalancingError(f"{raw.url} was made with {found}, not with {wanted}: name another --output, or give these again")
    shards = record.get("shards", {})
    if shards and all(raw.exists(name) and raw.sha256(name) == sha256 for name, sha256 in shards.items()):
        say(f"{raw.url} is there already")
        return
    storage.write(RAW_RECORD, _json(wanted))
    total = sum(example.counts.values())
    made = write_biased(raw, example.counts, seed=TRAINING_SEED, shard_size=example.shard_size, advance=watch("biased portraits", total))
    storage.write(RAW_RECORD, _json({**wanted, "shards": made}))


def make_test(example: Example, pack: Pack, *, say: Say, watch: Watch) -> LabelledSet:
    """Return the test people: those of OUT/test.safetensors where they are the same, else new ones, which it then holds."""
    counts = dict.fromkeys(NAMES, example.test)
    about = json.dumps({"counts": counts, "seed": TEST_SEED, "pack": pack.sha256}, sort_keys=True)
    path = example.folder / TEST
    if (kept := _kept_set(path, about)) is not None:
        say(f"{path} is there already")
        return kept
    found = aligned_people(pack, counts, seed=TEST_SEED, advance=watch("test portraits", sum(counts.values())))
    example.storage.write(TEST, save({"image": found.image_NCHW, "group": found.group_N}, {"about": about}))
    return found


def _kept_set(path: Path, about: str) -> LabelledSet | None:
    """Return a stored set, or None where there is none of these people."""
    try:
        with safe_open(path, "pt") as file:
            if (file.metadata() or {}).get("about") != about:
                return None
            image_NCHW, group_N = file.get_tensor("image"), file.get_tensor("group")
    except (OSError, SafetensorError):
        return None
    return LabelledSet(image_NCHW=image_NCHW, group_N=group_N, kinds=(ORIGINAL,) * len(group_N))


def train_all(example: Example, augmented: LabelledSet, test: LabelledSet, *, say: Say, watch: Watch) -> dict[str, list[Accuracy]]:
    """Return what each way's classifiers are right about, by seed; one that was trained on the same before is not trained again."""
    shown = {name: way.shown(augmented) for name, way in WAYS.items()}
    digests = {(name, seed): _digest(example, name, shown[name], test=test, seed=seed) for name in WAYS for seed in range(example.seeds)}
    found = {key: kept for key, digest in digests.items() if (kept := _kept_run(example, key, digest)) is not None}
    missing = [key for key in digests if key not in found]
    if found:
        say(f"{len(found)} of {len(digests)} classifiers are there already")
    advance = watch("training steps", len(missing) * example.training.steps)
    for name, seed in missing:
        net = trained(shown[name], WAYS[name], training=example.training, seed=seed, advance=advance)
        found[name, seed] = accuracies(net, test)
        example.storage.write(_run_file((name, seed)), _json({"digest": digests[name, seed], "accuracy": found[name, seed]}))
    return {name: [found[name, seed] for seed in range(example.seeds)] for name in WAYS}


def _digest(example: Example, name: str, shown: LabelledSet, *, test: LabelledSet, seed: int) -> str:
    """Return a digest of all that a trained classifier's figures depend on."""
    about = [shown.fingerprint, test.fingerprint, asdict(WAYS[name]), asdict(example.training), seed, torch.__version__]
    return hashlib.sha256(json.dumps(about).encode()).hexdigest()


def _kept_run(example: Example, key: tuple[str, int], digest: str) -> Accuracy | None:
    """Return the figures of a classifier that was trained before, or None where it was another one."""
    storage, file = example.storage, _run_file(key)
    kept = json.loads(storage.read(file)) if storage.exists(file) else {}
    return kept["accuracy"] if kept.get("digest") == digest else None


def _run_file(key: tuple[str, int]) -> str:
    name, seed = key
    return f"{RUNS}/{name}-{seed}.json"


def augment(example: Example, *, pack: str, recipe: str, editor: str) -> dict[str, object]:
    """Run the augmentation as a user would and return its summary; it goes on where it was. Raises AugmentationError."""
    flags = ["--input", str(example.folder / RAW), "--output", str(example.folder / AUGMENTED), "--recipe", recipe, "--pack", pack]
    command = [sys.executable, str(AUGMENT), *flags, "--editor", editor, "--tracking.enabled", "false"]
    # Apart from the terminal, so that Ctrl-C reaches it once: through this process.
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True) as process:
        try:
            out, _ = process.communicate()
        except KeyboardInterrupt:
            process.terminate()
            process.wait()
            raise
    if process.returncode != 0:
        raise AugmentationError(process.returncode)
    summary: dict[str, object] = json.loads(out.strip().splitlines()[-1])
    return summary


def run_example(
    example: Example, pack: Pack, *, augmented: Callable[[], Mapping[str, object]], say: Say, watch: Watch
) -> dict[str, object]:
    """Take all steps, write the figures and the plot, and return the summary; its seconds are those of this run alone.

    `augmented` makes OUT/augmented and returns what it has to say about that.
    """
    seconds: dict[str, float] = {}
    with _clock(seconds, "raw"):
        make_raw(example, say=say, watch=watch)
    with _clock(seconds, "augmentation"):
        summary = augmented()
    with _clock(seconds, "test"):
        test = make_test(example, pack, say=say, watch=watch)
    with _clock(seconds, "training"):
        shown = read_augmented(str(example.folder / AUGMENTED))
        runs = train_all(example, shown, test, say=say, watch=watch)
    found, counts = estimates(runs), {"biased": shown.of_kind(ORIGINAL).counts, "augmented": shown.counts, "test": test.counts}
    figures = {
        "accuracy": plain(found), "differences": plain(differences(found)), "intervals": INTERVALS, "seeds": example.seeds,
        "pictures": counts, "training": asdict(example.training), "pack": pack.sha256, "augmentation": summary, "seconds": seconds,
    }  # fmt: skip
    example.storage.write(FIGURES, _json(figures))
    example.storage.write(PLOT, drawn(found, counts=counts["biased"], pictures={name: _faces(test, name) for name in NAMES}))
    worst = {way: round(of[WORST].mean, 4) for way, of in found.items()}
    places = {"figures": str(example.folder / FIGURES), "plot": str(example.folder / PLOT)}
    return {"worst_group": worst, **places, "seconds": round(sum(seconds.values()), 1)}


@contextmanager
def _clock(seconds: dict[str, float], step: str) -> Iterator[None]:
    start = time.monotonic()
    yield
    seconds[step] = round(time.monotonic() - start, 1)


def _faces(test: LabelledSet, name: str) -> ImageHWC:
    """Return the first people of a group side by side."""
    rows = (test.group_N == NAMES.index(name)).nonzero()[:FACES, 0]
    return np.concatenate([test.image_NCHW[row].permute(1, 2, 0).numpy() for row in rows], axis=1)


def _json(content: Mapping[str, object]) -> bytes:
    return (json.dumps(content, indent=1) + "\n").encode()
