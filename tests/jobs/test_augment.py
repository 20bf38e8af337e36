"""Augmented datasets as a user makes them: through Ray, by number and by balance, interrupted, previewed, and with mistakes."""

from __future__ import annotations

import io
import json
import signal
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import webdataset
from PIL import Image

from jobs.local_ray import LocalRay
from pipeline.shard_writer import ShardWriter
from pipeline.storage import Storage
from portraits.dataset import RawSample, raw_samples
from tests.commands import Ended
from tests.jobs.test_chaos import committed, until
from tests.jobs.world import members, run, start, submit, tree, wait

pytestmark = [pytest.mark.ray("train"), pytest.mark.timeout(900)]

JOB = "jobs/augment_dataset.py"
EDITS = """
instructions: configs/instructions/portraits.yaml
edits:
  - {instruction: smile, strength: auto}
  - {instruction: glasses, strength: [0.8, 1.0]}
  - {instruction: beard, strength: auto}
  - {instruction: [old, glasses], strength: auto}
words: configs/augment/portraits_words.yaml
gates: {success: 0.9}
"""
NUMBER = f"{EDITS}accepted: {{per_sample: 2}}\nattempts: 3\ndrawn: {{count: 6, truncation: 0.6, seed: 5}}\n"
BALANCE = f"{EDITS}accepted: {{balance: [glasses]}}\nlabels: json:attributes\nkeep_rejected: 2\n"
Outcome = tuple[Path, Ended]


def shards(folder: Path, samples: list[RawSample], *, size: int) -> Path:
    """Write raw portraits as shards of a size."""
    for number, first in enumerate(range(0, len(samples), size)):
        with ShardWriter(Storage(str(folder)), f"raw-{number}.tar") as writer:
            for sample in samples[first : first + size]:
                writer.write(sample.key, sample.members)
    return folder


def flags_of(raw: Path, out: Path, recipe: Path, *more: str) -> list[str]:
    common = ["--input", str(raw), "--output", str(out), "--recipe", str(recipe), "--editor", "clipinverter", "--batch_size", "4"]
    return [*common, "--workers.threads", "1", "--workers.max", "1", *more]


@pytest.fixture(scope="session")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return two shards of nine portraits, one of which is no picture."""
    found = list(raw_samples(18, seed=600_000))
    found[4].members["jpg"] = b"this is no picture"
    return shards(tmp_path_factory.mktemp("augment") / "raw", found, size=9)


@pytest.fixture(scope="session")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a recipe of two edits per sample."""
    path = tmp_path_factory.mktemp("recipes") / "number.yaml"
    path.write_text(NUMBER)
    return path


@pytest.fixture(scope="session")
def augmented(raw: Path, recipe: Path, ray_head: LocalRay, tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    """Return the output of an augmentation that was submitted to the shared Ray, and how it ended."""
    out = tmp_path_factory.mktemp("augmented") / "out"
    return out, submit(flags_of(raw, out, recipe), ray=ray_head, job=JOB)


def rows_of(out: Path) -> list[dict[str, object]]:
    return [row for path in sorted((out / "manifests").iterdir()) for row in pq.read_table(path).to_pylist()]


def everything(out: Path, folder: str = "shards") -> dict[str, bytes]:
    """Return the members of all tars of a folder."""
    return {name: data for tar in sorted((out / folder).glob("*.tar")) for name, data in members(tar).items()}


def test_a_submitted_augmentation_keeps_originals_edits_and_drawn_pictures(augmented: Outcome) -> None:
    out, ended = augmented
    assert ended.code == 0, ended.err[-3000:]
    rows = rows_of(out)
    kinds = Counter((row["kind"], row["status"]) for row in rows)
    assert kinds["original", "ok"] == 17 == ended.result["originals"] and kinds[None, "quarantined"] == 1 == ended.result["quarantined"]
    assert kinds["edit", "ok"] == ended.result["accepted"] and kinds["edit", "rejected"] == ended.result.get("rejected", 0)
    per_sample = Counter(row["key"] for row in rows if (row["kind"], row["status"]) == ("edit", "ok"))
    assert set(per_sample.values()) <= {1, 2} and sum(per_sample.values()) >= 17
    assert kinds["drawn", "ok"] + kinds["drawn", "rejected"] == 6
    found = everything(out)
    assert {name.split(".")[0] for name in found} == {row["made"] for row in rows if row["status"] == "ok"}
    assert members(out / "quarantine" / "raw-0.tar")["000004.jpg"] == b"this is no picture"
    assert (out / "report.html").is_file() and (out / "README.md").is_file() and (out / "croissant.json").is_file()


def test_every_kept_edit_passes_the_gates_and_says_how_it_was_made(augmented: Outcome) -> None:
    out, _ = augmented
    found = everything(out)
    kept = [row for row in rows_of(out) if (row["kind"], row["status"]) == ("edit", "ok")]
    for row in kept:
        assert row["certainty"] >= 0.9 and row["same_person"] and row["collateral"] <= 2 and row["realism"] <= 1, row  # type: ignore[operator]
        record = json.loads(found[f"{row['made']}.json"])
        assert record["kind"] == "edit" and record["synthetic"] is True and record["editor"] == "clipinverter"
        assert record["source"] == {"key": row["key"], "shard": row["shard"], "index": row["index"]}
        assert record["edit"]["name"] == row["instruction"] and record["edit"]["factor"] == row["factor"] and len(record["pack"]) == 64
        assert sorted(name for name, holds in record["labels"].items() if holds) == sorted(row["labels"])  # type: ignore[type-var, arg-type]
        picture = Image.open(io.BytesIO(found[f"{row['made']}.png"]))
        assert picture.size == (64, 64) and picture.text["synthetic"] == "true"  # type: ignore[attr-defined]
        assert json.loads(picture.text["hyperedit"])["edit"] == record["edit"]  # type: ignore[attr-defined]
    assert {row["instruction"] for row in kept} >= {"smile", "glasses", "beard"}
    ranged = {row["factor"] for row in kept if row["instruction"] == "glasses"}
    assert ranged and all(0.8 <= factor <= 1 for factor in ranged)  # type: ignore[operator]


def test_captions_and_labels_follow_the_edit(augmented: Outcome) -> None:
    found = everything(augmented[0])
    smiles = [name.removesuffix(".txt") for name in found if name.endswith("~smile.txt")]
    assert smiles
    for key in smiles:
        before, after = found[f"{key.split('~')[0]}.txt"].decode(), found[f"{key}.txt"].decode()
        assert after.endswith("smiling") and "no smile" not in after and "sad" not in after and before != after
        assert json.loads(found[f"{key}.json"])["labels"]["smile"] is True


def test_drawn_samples_come_from_their_seeds(augmented: Outcome) -> None:
    out, _ = augmented
    found = everything(out)
    drawn = [name.removesuffix(".json") for name in found if name.startswith("drawn-") and name.endswith(".json")]
    assert {json.loads(found[f"{key}.json"])["seed"] for key in drawn} <= set(range(5, 11)) and drawn
    for key in drawn:
        record = json.loads(found[f"{key}.json"])
        assert record["kind"] == "drawn" and record["synthetic"] is True and record["truncation"] == 0.6 and "source" not in record


def test_webdataset_reads_the_output(augmented: Outcome) -> None:
    urls = [str(path) for path in sorted((augmented[0] / "shards").glob("*.tar"))]
    samples = list(webdataset.WebDataset(urls, shardshuffle=False, empty_check=False).decode("rgb8"))
    assert len(samples) >= 40
    assert all({"png", "txt", "json"} <= sample.keys() and sample["png"].shape == (64, 64, 3) for sample in samples)


def test_the_report_shows_yields_and_rejected_pictures(augmented: Outcome) -> None:
    out, ended = augmented
    page = (out / "report.html").read_text()
    made = json.loads((out / "run.json").read_text())["augmentation"]["yields"]
    for name in ("smile", "glasses", "beard", "old-glasses"):
        assert f'id="e-{name}"' in page
    assert sum(one["accepted"] for name, one in made.items() if name != "drawn") == ended.result["accepted"]
    assert all(one["tried"] == one["accepted"] + sum(one["rejected"].values()) for one in made.values())
    rejected = {row["made"] for row in rows_of(out) if row["status"] == "rejected" and row["made"] and row["kind"] == "edit"}
    if rejected:
        assert {name.split(".")[0] for name in everything(out, "rejected")} == rejected and "Rejected, with the gate" in page


@pytest.fixture(scope="session")
def biased(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Return three shards of people of whom few wear glasses, and a recipe that makes it half."""
    people = [sample for sample in raw_samples(60, seed=600_001) if not attributes(sample)["sunglasses"]]
    plain, wearing = ([one for one in people if attributes(one)["glasses"] is with_glasses] for with_glasses in (False, True))
    folder = tmp_path_factory.mktemp("biased")
    (folder / "balance.yaml").write_text(BALANCE)
    return shards(folder / "raw", sorted(plain[:14] + wearing[:3], key=lambda one: one.key), size=6), folder / "balance.yaml"


def attributes(sample: RawSample) -> Mapping[str, bool]:
    found: Mapping[str, bool] = json.loads(sample.members["json"])["attributes"]
    return found


@pytest.fixture(scope="session")
def balanced(biased: tuple[Path, Path], joined: Mapping[str, str], tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    """Return the output of an undisturbed balanced augmentation, and how it ended."""
    out = tmp_path_factory.mktemp("balanced") / "out"
    return out, run(flags_of(biased[0], out, biased[1], "--tracking.enabled", "false"), env=joined, job=JOB)


def test_a_balance_is_met_exactly_or_explained(balanced: Outcome) -> None:
    out, ended = balanced
    assert ended.code == 0, ended.err[-3000:]
    targets = {one["target"]: one for one in json.loads((out / "run.json").read_text())["augmentation"]["targets"]}
    assert targets["glasses"]["wanted"] == targets["no glasses"]["wanted"] == 14 and targets["no glasses"]["edits"] == 0
    short = targets["glasses"]
    assert short["originals"] + short["edits"] + short["missing"] == 14 and short["edits"] >= 7
    assert bool(short["missing"]) == bool(short["why"]) == ("are missing" in ended.err) != ("met exactly" in ended.err)
    labels = Counter(
        json.loads(data)["labels"]["glasses"] for name, data in everything(out).items() if name.endswith(".json") and "input" not in name
    )
    assert labels[False] == 14 and labels[True] == 14 - short["missing"]


@pytest.mark.chaos
def test_a_killed_augmentation_ends_with_the_same_bytes(
    balanced: Outcome, biased: tuple[Path, Path], joined: Mapping[str, str], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    flags = flags_of(biased[0], out, biased[1], "--tracking.enabled", "false")
    first = start(flags, env=joined, job=JOB)
    until(lambda: committed(out) >= 1, first)
    first.send_signal(signal.SIGKILL)
    wait(first)
    second = start(flags, env=joined, job=JOB)
    until(lambda: any("edits-1" in path.name for path in (out / "plans").glob("*.json")), second)
    second.send_signal(signal.SIGKILL)
    wait(second)
    last = run(flags, env=joined, job=JOB)
    assert last.code == 0, last.err[-3000:]
    assert tree(out) == tree(balanced[0])
    again = run(flags, env=joined, job=JOB)
    assert again.code == 0 and "nothing to do" in again.err and tree(out) == tree(balanced[0])


@pytest.mark.long
def test_a_preview_makes_the_first_samples_only(raw: Path, recipe: Path, joined: Mapping[str, str], tmp_path: Path) -> None:
    out = tmp_path / "out"
    flags = flags_of(raw, out, recipe, "--tracking.enabled", "false")
    checked = run([*flags, "--dry_run"], job=JOB)
    assert checked.code == 0 and checked.result["todo"] == 3 and not out.exists()
    seen = run([*flags, "--preview", "3"], env=joined, job=JOB)
    assert seen.code == 0, seen.err[-3000:]
    assert seen.result["originals"] == 3 and (out / "preview" / "sheet.png").is_file()
    assert {path.name for path in out.iterdir()} == {"preview"}


@pytest.mark.long
@pytest.mark.parametrize("given", ["both", "only drawn"])
def test_a_plan_says_what_would_be_made(raw: Path, recipe: Path, joined: Mapping[str, str], tmp_path: Path, given: str) -> None:
    out, only = tmp_path / "out", tmp_path / "drawn.yaml"
    only.write_text("drawn: {count: 40, seed: 3}\n")
    flags = [*flags_of(raw, out, recipe if given == "both" else only, "--tracking.enabled", "false"), "--plan"]
    planned = run(flags if given == "both" else [*flags, "--input", ""], env=joined, job=JOB)
    assert planned.code == 0, planned.err[-3000:]
    assert not out.exists() and float(planned.result["output_bytes"]) > 0  # type: ignore[arg-type]
    low, high = (10, 60) if given == "both" else (40, 40)
    assert low <= int(planned.result["images"]) <= high  # type: ignore[call-overload]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (("instruction: smile", "instruction: smlie"), "did you mean 'smile'?"),
        (("{instruction: smile, ", "{instruction: smile, weight: 0, "), "weight: expected a number above 0, found 0"),
        (("per_sample: 2", "per_sample: 9"), "accepted.per_sample: 9 edits of every sample, but the recipe has 4"),
        (("accepted: {per_sample: 2}", "accepted: {balance: [lipstick]}"), "impossible, no edit of the recipe changes 'lipstick'"),
        (("gates: {success: 0.9}", "gates: {sucess: 0.9}"), "gates: unknown 'sucess': did you mean 'success'?"),
    ],
)  # fmt: skip
def test_a_recipe_with_a_mistake_is_refused_before_anything_starts(raw: Path, tmp_path: Path, change: tuple[str, str], said: str) -> None:
    wrong = tmp_path / "wrong.yaml"
    assert change[0] in NUMBER
    wrong.write_text(NUMBER.replace(*change))
    ended = run(flags_of(raw, tmp_path / "out", wrong), job=JOB)
    assert ended.code == 2 and said in ended.err and "Traceback" not in ended.err and not ended.out
    assert str(wrong) in ended.err and not (tmp_path / "out").exists()


def test_an_evaluation_is_submitted_as_documented(ray_head: LocalRay, tmp_path: Path) -> None:
    flags = ["--suite", "editing", "--methods", "configs/evaluate/nightly.yaml", "--pictures", "4", "--output", str(tmp_path / "nightly")]
    ended = submit([*flags, "--tracking_uri", f"sqlite:///{tmp_path}/mlruns.db"], ray=ray_head, job="jobs/evaluate.py")
    assert ended.code == 0, ended.err[-3000:]
    assert (tmp_path / "nightly" / "index.html").is_file()
