"""The balancing example: biased shards, what is read of an augmentation, the classifier, its figures, and the folder that goes on."""

from __future__ import annotations

import io
import json
import os
import signal
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from evaluation import balancing_run
from evaluation.balancing import GROUPS, NAMES, BalancingError, LabelledSet, aligned_people, people_of, read_augmented, write_biased
from evaluation.balancing_result import MEAN, WORST, differences, estimate, estimates
from evaluation.balancing_run import AugmentationError, Example, augment, run_example
from evaluation.balancing_training import WAYS, Training, accuracies, moved, trained
from models.pack import Pack
from pipeline.align import Aligner
from pipeline.images import decode_image
from pipeline.sample import Sample, SampleFailure
from pipeline.shard_list import list_shards
from pipeline.shard_reader import ShardReader
from pipeline.shard_writer import ShardWriter
from pipeline.storage import Storage
from portraits.parameters import ATTRIBUTE_NAMES
from tests.commands import Command

PACK = Path(__file__).resolve().parents[2] / "packs" / "portraits64"
JOB = "jobs/balancing_example.py"
COUNTS = {"neither": 5, "smile and glasses": 4, "smile only": 1, "glasses only": 2}


def samples_of(folder: Path) -> list[Sample]:
    """Return the samples of all shards of a folder."""
    found = []
    for shard in list_shards(str(folder)):
        with ShardReader(shard.url) as reader:
            found += [sample for sample in reader if isinstance(sample, Sample)]
    return found


def attributes_of(sample: Sample) -> dict[str, bool]:
    """Return what is true of a raw sample."""
    found = json.loads(sample.members["json"])["attributes"]
    assert isinstance(found, dict)
    return found


def write_augmented(folder: Path, rows: Mapping[str, Mapping[str, object]], picture: np.ndarray | None = None) -> None:
    """Write one shard as the augmentation does: KEY.json by key."""
    buffer = io.BytesIO()
    Image.fromarray(np.zeros((64, 64, 3), np.uint8) if picture is None else picture).save(buffer, "PNG")
    with ShardWriter(Storage(str(folder)), "shards/portraits-00000.tar") as shard:
        for key, about in rows.items():
            shard.write(key, {"png": buffer.getvalue(), "txt": b"a face", "json": json.dumps(about).encode()})


def about(kind: str, group: str, *, synthetic: bool | None = None) -> dict[str, object]:
    """Return the KEY.json of a sample."""
    labels = dict(zip(("smile", "glasses"), GROUPS[group], strict=True))
    return {"kind": kind, "synthetic": kind != "original" if synthetic is None else synthetic, "labels": labels | {"beard": True}}


def originals() -> dict[str, dict[str, object]]:
    """Return an original of each group."""
    return {f"p{number}": about("original", name) for number, name in enumerate(NAMES)}


def test_biased_shards_hold_the_people_that_were_asked_for_and_the_same_ones_each_time(tmp_path: Path) -> None:
    written = [write_biased(Storage(str(tmp_path / name)), COUNTS, seed=7, shard_size=5) for name in ("one", "again")]
    assert written[0] == written[1] and list(written[0]) == [f"portraits-0000{number}.tar" for number in range(3)]
    assert write_biased(Storage(str(tmp_path / "others")), COUNTS, seed=8, shard_size=5) != written[0]
    found = samples_of(tmp_path / "one")
    truth = [attributes_of(sample) for sample in found]
    assert Counter((one["smile"], one["glasses"]) for one in truth) == {GROUPS[name]: count for name, count in COUNTS.items()}
    assert [sample.key for sample in found] == [f"{number:06d}" for number in range(12)]
    assert all(set(sample.members) == {"jpg", "json", "txt"} for sample in found)
    assert [one["smile"] for one in truth] != sorted(one["smile"] for one in truth), "groups come in random order"


def test_nobody_of_a_group_wears_sunglasses_and_all_else_is_as_it_falls() -> None:
    holds = people_of(dict.fromkeys(NAMES, 50), seed=3).attributes().float().mean(0)
    share = dict(zip(ATTRIBUTE_NAMES, holds.tolist(), strict=True))
    assert (share["smile"], share["glasses"], share["sunglasses"]) == (0.5, 0.5, 0.0)
    assert 0.1 < share["beard"] < 0.35 and 0.1 < share["hair_blond"] < 0.35 and share["sad"] > 0.02


def test_an_augmentation_is_read_with_its_labels_and_kinds(tmp_path: Path) -> None:
    picture = np.arange(64 * 64 * 3, dtype=np.uint32).astype(np.uint8).reshape(64, 64, 3)
    rows = originals() | {"p0~smile": about("edit", "smile only"), "drawn-0": about("drawn", "glasses only")}
    write_augmented(tmp_path, rows, picture)
    found = read_augmented(str(tmp_path))
    seen = {
        (NAMES[group], kind): smile for group, kind, smile in zip(found.group_N.tolist(), found.kinds, found.smiles.tolist(), strict=True)
    }
    assert seen == {
        ("neither", "original"): 0, ("smile and glasses", "original"): 1, ("smile only", "original"): 1, ("glasses only", "original"): 0,
        ("smile only", "edit"): 1, ("glasses only", "drawn"): 0,
    }  # fmt: skip
    assert torch.equal(found.image_NCHW[0], torch.from_numpy(picture).permute(2, 0, 1))
    assert {name: len(way.shown(found)) for name, way in WAYS.items()} == {"biased": 4, "oversampled": 4, "augmented": 6}


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        (originals() | {"p9": {"kind": "edit", "synthetic": True, "labels": {"smile": True}}}, r"sample p9: .*glasses.*recipe"),
        (originals() | {"p9": {"labels": {"smile": True, "glasses": True}}}, r"sample p9: .*kind"),
        ({key: {**row, "synthetic": True} for key, row in originals().items()}, "no aligned original of neither, .*originals: aligned"),
        ({"p0": about("original", "neither"), "p1": about("edit", "smile only")}, "no aligned original of smile and glasses, smile only"),
    ],
)
def test_what_is_no_augmentation_with_originals_and_labels_is_refused(
    tmp_path: Path, rows: dict[str, dict[str, object]], said: str
) -> None:
    write_augmented(tmp_path, rows)
    with pytest.raises(BalancingError, match=said):
        read_augmented(str(tmp_path))


def toy(counts: Mapping[str, int], *, seed: int) -> LabelledSet:
    """Return noise in which smiles are a bright lower half and glasses a bright upper edge."""
    stream = torch.Generator().manual_seed(seed)
    group_N = torch.cat([torch.full((count,), NAMES.index(name)) for name, count in counts.items()])
    image_NCHW = torch.randint(0, 120, (len(group_N), 3, 32, 32), generator=stream)
    for row, group in enumerate(group_N.tolist()):
        smile, glasses = GROUPS[NAMES[group]]
        image_NCHW[row, :, 20:] += 100 * smile
        image_NCHW[row, :, :4] += 100 * glasses
    return LabelledSet(image_NCHW=image_NCHW.byte(), group_N=group_N, kinds=("original",) * len(group_N))


QUICK = Training(steps=40, batch=16, widths=(4, 8, 8, 8))


def test_a_classifier_learns_what_is_plain_to_see_and_the_same_each_time() -> None:
    data, test = toy(dict.fromkeys(NAMES, 20), seed=0), toy(dict.fromkeys(NAMES, 25), seed=1)
    steps: list[int] = []
    net, again, other = (trained(data, WAYS["augmented"], training=QUICK, seed=seed, advance=lambda: steps.append(1)) for seed in (0, 0, 1))
    assert min(accuracies(net, test).values()) > 0.95
    assert len(steps) == 3 * QUICK.steps
    weights = [next(one.parameters()) for one in (net, again, other)]
    assert torch.equal(weights[0], weights[1]) and not torch.equal(weights[0], weights[2])


def test_accuracy_is_counted_in_each_group_by_itself() -> None:
    class SaysNo(torch.nn.Module):
        def forward(self, image_BCHW: torch.Tensor) -> torch.Tensor:
            return torch.tensor([1.0, 0.0]).repeat(len(image_BCHW), 1)

    test = toy({"neither": 300, "smile and glasses": 5, "smile only": 2, "glasses only": 3}, seed=1)
    assert accuracies(SaysNo(), test) == {"neither": 1.0, "smile and glasses": 0.0, "smile only": 0.0, "glasses only": 1.0}


def test_oversampling_shows_each_group_as_often_and_the_biased_way_each_picture() -> None:
    data = toy({"neither": 40, "smile and glasses": 40, "smile only": 2, "glasses only": 1}, seed=0)
    weight_N = WAYS["oversampled"].weights(data)
    shares = [float(weight_N[data.group_N == number].sum() / weight_N.sum()) for number in range(len(NAMES))]
    assert shares == pytest.approx([0.25] * 4)
    assert WAYS["biased"].weights(data).unique().numel() == 1


def test_pictures_are_moved_by_whole_pixels_and_mirrored() -> None:
    image_BCHW = torch.rand(32, 3, 16, 16)
    still = moved(image_BCHW, shift=0, stream=torch.Generator().manual_seed(0))
    mirrored = [torch.allclose(a, b.flip(2), atol=1e-5) for a, b in zip(still, image_BCHW, strict=True)]
    same = [torch.allclose(a, b, atol=1e-5) for a, b in zip(still, image_BCHW, strict=True)]
    assert all(a != b for a, b in zip(mirrored, same, strict=True)) and 5 < sum(mirrored) < 27
    inner = moved(image_BCHW, shift=2, stream=torch.Generator().manual_seed(0))[:, :, 4:12, 4:12]
    for one, source in zip(inner, image_BCHW, strict=True):
        shifts = [way[:, 4 + y : 12 + y, 4 + x : 12 + x] for way in (source, source.flip(2)) for y in range(-2, 3) for x in range(-2, 3)]
        assert any(torch.allclose(one, cut, atol=1e-5) for cut in shifts)


def test_intervals_are_those_of_students_t() -> None:
    found = estimate([0.8, 0.9, 1.0])
    reach = 4.302653 * 0.1 / 3**0.5  # t(0.975, 2 degrees of freedom) times the standard error
    assert (found.mean, found.low, found.high) == pytest.approx((0.9, 0.9 - reach, 0.9 + reach), abs=1e-6)
    with pytest.raises(ValueError, match="2 or more"):
        estimate([0.8])


def test_measures_and_paired_differences_of_known_runs() -> None:
    def run(*shares: float) -> dict[str, float]:
        return dict(zip(NAMES, shares, strict=True))

    biased = [run(1.0, 0.9, 0.3, 0.6), run(1.0, 0.9, 0.7, 0.4)]
    found = estimates({"biased": biased, "oversampled": biased, "augmented": [run(1.0, 1.0, 0.8, 0.9), run(1.0, 1.0, 0.9, 0.9)]})
    assert found["biased"][WORST].of_seeds == pytest.approx((0.3, 0.4)), "the worst group may be another one with each seed"
    assert found["biased"][MEAN].mean == pytest.approx((0.7 + 0.75) / 2)
    gained = differences(found)
    assert gained["augmented - biased"][WORST].of_seeds == pytest.approx((0.5, 0.5))
    assert gained["augmented - biased"][WORST].low == pytest.approx(0.5), "what is gained with every seed alike has no spread"
    assert gained["oversampled - biased"][MEAN].mean == 0


@pytest.fixture(scope="module")
def pack() -> Pack:
    return Pack.load(PACK)


@pytest.fixture
def example(tmp_path: Path) -> Example:
    return Example(folder=tmp_path / "out", common=4, rare=2, shard_size=5, test=3, seeds=2, training=replace(QUICK, steps=2))


def stand_in(example: Example, pack: Pack, *, edits: int) -> dict[str, object]:
    """Write OUT/augmented in place of the augmentation: aligned originals, and the first of them again as edits."""
    samples = samples_of(example.folder / "raw")
    aligned = Aligner(pack.landmarks(), size=pack.size).align_all([decode_image(sample.image) for sample in samples])
    with ShardWriter(Storage(str(example.folder / "augmented")), "shards/all.tar") as shard:
        for copy, kind in enumerate(["original"] + ["edit"] * edits):
            for sample, picture in zip(samples, aligned, strict=True):
                assert not isinstance(picture, SampleFailure)
                buffer = io.BytesIO()
                Image.fromarray(picture).save(buffer, "PNG")
                told = {"kind": kind, "synthetic": kind != "original", "labels": attributes_of(sample)}
                shard.write(f"{sample.key}-{copy}", {"png": buffer.getvalue(), "json": json.dumps(told).encode(), "txt": b"a face"})
    return {"edits": edits}


def run_once(example: Example, pack: Pack, *, edits: int = 1) -> tuple[dict[str, object], list[str], dict[str, int]]:
    """Run the example; return its figures, what it said, and the totals of its bars."""
    said: list[str] = []
    totals: dict[str, int] = {}

    def watch(words: str, total: int) -> Callable[[], None]:
        totals[words] = total
        return lambda: None

    run_example(example, pack, augmented=lambda: stand_in(example, pack, edits=edits), say=said.append, watch=watch)
    return json.loads((example.folder / "balancing.json").read_text()), said, totals


def test_the_example_leaves_figures_and_a_plot_and_goes_on_where_it_was(example: Example, pack: Pack) -> None:
    figures, said, totals = run_once(example, pack)
    assert not said and totals == {"biased portraits": 12, "test portraits": 12, "training steps": 3 * 2 * 2}
    assert figures["pictures"]["augmented"] == {"neither": 8, "smile and glasses": 8, "smile only": 4, "glasses only": 4}  # type: ignore[index]
    assert figures["pictures"]["test"] == dict.fromkeys(NAMES, 3)  # type: ignore[index]
    assert figures["augmentation"] == {"edits": 1}
    with Image.open(example.folder / "balancing.png") as plot:
        assert plot.width >= 900

    again, said, totals = run_once(example, pack)
    assert totals == {"training steps": 0} and len(said) == 3 and all("there already" in line for line in said)
    assert {**again, "seconds": 0} == {**figures, "seconds": 0}

    _, _, totals = run_once(replace(example, seeds=3), pack, edits=2)
    assert totals == {"training steps": (1 + 1 + 3) * 2}, "one more seed of each way, and all of the way whose pictures changed"

    (example.folder / "raw" / "portraits-00001.tar").write_bytes(b"damaged")
    _, _, totals = run_once(example, pack, edits=2)
    assert totals == {"biased portraits": 12, "training steps": 0}


def test_a_folder_of_something_else_is_left_alone(example: Example, pack: Pack, tmp_path: Path) -> None:
    (example.folder / "raw").mkdir(parents=True)
    (example.folder / "raw" / "mine.tar").write_bytes(b"mine")
    with pytest.raises(BalancingError, match="did not write: name another --output"):
        run_once(example, pack)
    other = replace(example, folder=tmp_path / "other")
    run_once(other, pack)
    with pytest.raises(BalancingError, match="name another --output, or give these again"):
        run_once(replace(other, rare=1), pack)


def test_test_people_are_aligned_and_none_of_them_is_in_the_biased_set(pack: Pack) -> None:
    found = aligned_people(pack, dict.fromkeys(NAMES, 2), seed=balancing_run.TEST_SEED)
    again = aligned_people(pack, dict.fromkeys(NAMES, 2), seed=balancing_run.TRAINING_SEED)
    assert found.counts == again.counts == dict.fromkeys(NAMES, 2) and found.image_NCHW.shape == (8, 3, 64, 64)
    attributes = pack.attributes()
    sees = attributes.probabilities(found.image_NCHW / 127.5 - 1)[:, attributes.names.index("smile")] > 0.5
    assert torch.equal(sees.long(), found.smiles)
    assert not {row.numpy().tobytes() for row in found.image_NCHW} & {row.numpy().tobytes() for row in again.image_NCHW}


AUGMENTATION = """
import json, os, signal, sys, time
from pathlib import Path
flags = dict(zip(sys.argv[1::2], sys.argv[2::2]))
if flags["--recipe"] == "refused":
    sys.exit(2)
if flags["--recipe"] == "interrupted":
    def end(number, frame):
        Path(flags["--output"]).write_text("ended")
        sys.exit(130)
    signal.signal(signal.SIGTERM, end)
    os.kill(os.getppid(), signal.SIGINT)
    time.sleep(60)
print("so it goes")
print(json.dumps(flags))
"""


@pytest.fixture
def augmentation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, restored: None) -> None:
    """Put a script in place of the augmentation."""
    script = tmp_path / "augment_dataset.py"
    script.write_text(AUGMENTATION)
    monkeypatch.setattr(balancing_run, "AUGMENT", script)
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.mark.usefixtures("augmentation")
def test_the_augmentation_runs_as_a_command_whose_end_is_heard(example: Example) -> None:
    example.folder.mkdir()
    flags = augment(example, pack="my_pack", recipe="my_recipe.yaml", editor="e")
    places = {"--input": str(example.folder / "raw"), "--output": str(example.folder / "augmented")}
    assert flags == {**places, "--recipe": "my_recipe.yaml", "--pack": "my_pack", "--editor": "e", "--tracking.enabled": "false"}
    with pytest.raises(AugmentationError, match="exit code 2.*give the same command again"):
        augment(example, pack="my_pack", recipe="refused", editor="e")
    with pytest.raises(KeyboardInterrupt):
        augment(example, pack="my_pack", recipe="interrupted", editor="e")
    assert (example.folder / "augmented").read_text() == "ended"


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--seeds", "1"], "--seeds 1: expected 2 or more"),
        (["--rare", "0"], "--rare 0: expected 1 or more"),
        (["--recipe", "nowhere.yaml"], "--recipe nowhere.yaml: no such file; configs/augment/balance.yaml"),
        (["--recipe", "README.md", "--pack", "nowhere"], "nowhere"),
    ],
)
def test_a_wrong_argument_is_answered_with_what_would_work(command: Command, tmp_path: Path, flags: list[str], said: str) -> None:
    ended = command(JOB, ["--output", str(tmp_path / "out"), *flags])
    assert ended.code == 2 and said in ended.err
    assert not os.listdir(tmp_path), "nothing is made of wrong arguments"
