"""How far a picture is from the generator's own: in units of what one in a hundred of those exceeds."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from augmentation.config import parse_augment_config
from augmentation.course import AugmentCourse
from augmentation.drawn import draw
from augmentation.plan import make_augment_plan
from augmentation.realism import Realism, of_generator, statistics
from augmentation.wish import REALISM_FILE, name_of
from models.pack import Pack
from pipeline.cluster import Pool
from pipeline.methods import Methods, load_methods
from pipeline.plan import JobPlan
from pipeline.settings import WorkerSettings
from pipeline.storage import Storage
from tests.models.small_pack import write_small_pack

FEATURES = 12
DRAWS = 20_000
MEASURED = b"measured"
NETWORKS = "abab float32"
random = np.random.default_rng(7)
MIXING = random.normal(size=(FEATURES, FEATURES)) * np.linspace(0.2, 3, FEATURES)
MEAN = random.normal(size=FEATURES)


def gaussian(count: int, *, seed: int) -> NDArray[np.float64]:
    """Draw points of one Gaussian with correlated features of different widths."""
    return MEAN + np.random.default_rng(seed).normal(size=(count, FEATURES)) @ MIXING


@pytest.fixture(scope="module")
def realism() -> Realism:
    return statistics(gaussian(4000, seed=0), gaussian(8000, seed=1), networks=NETWORKS)


def distances(realism: Realism, points: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.array(realism.distances(torch.from_numpy(points)))


def test_one_in_a_hundred_of_the_generator_s_own_is_beyond_1(realism: Realism) -> None:
    beyond = float((distances(realism, gaussian(DRAWS, seed=2)) > 1).mean())
    assert 0.006 < beyond < 0.015


def test_a_smaller_sample_has_the_same_unit_about() -> None:
    few = statistics(gaussian(8 * FEATURES, seed=3), gaussian(512, seed=4), networks="")
    assert 0.002 < float((distances(few, gaussian(DRAWS, seed=2)) > 1).mean()) < 0.03


def test_distance_grows_with_the_way_from_the_mean(realism: Realism) -> None:
    directions = np.random.default_rng(5).normal(size=(20, FEATURES))
    once, twice = (distances(realism, realism.mean_E + far * directions) for far in (1, 2))
    assert distances(realism, realism.mean_E[None])[0] == pytest.approx(0, abs=1e-12)
    assert np.allclose(twice, 2 * once) and (once > 0).all()


def test_a_step_counts_by_how_unusual_it_is(realism: Realism) -> None:
    # Along what the generator varies much in, a step of the same length is shorter.
    _, _, axes = np.linalg.svd(MIXING)
    usual, unusual = distances(realism, realism.mean_E + axes[[0, -1]])
    assert unusual > 10 * usual


def test_distances_do_not_depend_on_the_axes_of_the_features() -> None:
    turn, _ = np.linalg.qr(np.random.default_rng(9).normal(size=(FEATURES, FEATURES)))
    own, turned = (statistics(gaussian(4000, seed=0) @ by, gaussian(2000, seed=1) @ by, networks="") for by in (np.eye(FEATURES), 3 * turn))
    points = gaussian(50, seed=6)
    assert np.allclose(distances(own, points), distances(turned, points @ (3 * turn)))


def test_the_file_holds_exactly_what_was_measured(realism: Realism) -> None:
    data = realism.to_npz()
    again, points = Realism.from_npz(data), gaussian(30, seed=8)
    assert again.networks == NETWORKS and again.distances(torch.from_numpy(points)) == realism.distances(torch.from_numpy(points))
    assert again.to_npz() == data == realism.to_npz()


@pytest.fixture(scope="module")
def pack(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_small_pack(tmp_path_factory.mktemp("pack"), without=("e4e", "psp", "hyperstyle", "hypereditor", "restyle_e4e"))


def test_pictures_that_the_generator_would_not_make_are_far_from_its_own(pack: Path) -> None:
    methods = load_methods(Pack.load(pack), inverter="w_encoder", editor=None, device="cpu")
    measured = of_generator(methods)
    with torch.no_grad():
        own_NE, plain_NE = (methods.scorer.embed(image.clamp(-1, 1)) for image in (drawn(methods, 300), plain()))
    assert own_NE is not None and plain_NE is not None
    assert sum(far > 1 for far in measured.distances(own_NE)) < 0.05 * len(own_NE) and min(measured.distances(plain_NE)) > 1
    assert methods.pack.sha256 in measured.networks and "float32" in measured.networks


def drawn(methods: Methods, count: int) -> Tensor:
    return draw(methods.pack.generator(), range(count), truncation=1.0, device="cpu")


def plain() -> Tensor:
    """Return checkers and stripes, (3, 3, 64, 64)."""
    rows, columns = torch.meshgrid(torch.arange(64), torch.arange(64), indexing="ij")
    return torch.stack([(which % 2 * 2.0 - 1).expand(3, 64, 64) for which in (rows + columns, rows // 8, columns // 16)])


@pytest.fixture(scope="module")
def plan(pack: Path, tmp_path_factory: pytest.TempPathFactory) -> JobPlan:
    """Return the plan of a job that only draws."""
    folder = tmp_path_factory.mktemp("plan")
    (folder / "recipe.yaml").write_text("drawn: 3")
    flags = ["--output", str(folder / "out"), "--pack", str(pack), "--recipe", str(folder / "recipe.yaml")]
    return make_augment_plan(parse_augment_config([*flags, "--inverter", "w_encoder"]))


@pytest.mark.parametrize(("kept", "measures"), [("same", False), ("other pack", True), ("no file of numbers", True), ("missing", True)])
def test_statistics_are_measured_once_for_a_pack(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, realism: Realism, plan: JobPlan, kept: str, measures: bool
) -> None:
    monkeypatch.setattr("augmentation.remote.measure_realism", lambda _settings, _pool: MEASURED)
    same = replace(realism, networks=name_of(plan.pack_hash, plan.running.precision))
    before = {"same": same.to_npz(), "other pack": realism.to_npz(), "no file of numbers": b"cut"}.get(kept)
    storage = Storage(str(tmp_path))
    if before is not None:
        storage.write(REALISM_FILE, before)
    pool = Pool(min_workers=1, max_workers=1, threads=1, gpus=0, cpus=1, device="cpu")
    settings = WorkerSettings(
        pack=plan.pack_url, inverter="w_encoder", inverter_settings={}, editor="", editor_settings={}, device="cpu", threads=1, part=1.0,
        running=plan.running, allow_lpips_download=False, wish=plan.wish, output=str(tmp_path), run_id="", config_hash=plan.config_hash,
        pack_hash=plan.pack_hash,
    )  # fmt: skip
    AugmentCourse(plan).prepare(plan, storage, pool=pool, settings=settings)
    assert storage.read(REALISM_FILE) == (MEASURED if measures else before)
