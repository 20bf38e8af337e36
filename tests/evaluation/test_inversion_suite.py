"""The inversion suite's measures against what they must be where the answer is known."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from evaluation import inversion_suite as suite
from models.directions import Directions
from models.pack import Pack
from models.state import GeneratorState
from tests.models.small_pack import write_small_pack

torch.set_num_threads(1)


@pytest.fixture(scope="module")
def judge(pack: Pack) -> suite.Judge:
    return suite.Judge(pack)


@pytest.fixture(scope="module")
def pack(tmp_path_factory: pytest.TempPathFactory) -> Pack:
    return Pack.load(write_small_pack(tmp_path_factory.mktemp("pack")))


def pictures(n: int) -> Tensor:
    return torch.rand(n, 3, 64, 64, generator=torch.Generator().manual_seed(5)) * 2 - 1


def test_a_perfect_reconstruction_has_perfect_measures_and_a_worse_one_worse(judge: suite.Judge) -> None:
    image = pictures(3)
    perfect = {name: float(values.mean()) for name, values in judge.columns(image, image).items()}
    noisy = {name: float(values.mean()) for name, values in judge.columns(image + 0.3 * torch.randn_like(image), image).items()}
    assert perfect["identity"] == pytest.approx(1, abs=1e-5) and perfect["ms_ssim"] == pytest.approx(1, abs=1e-5)
    assert perfect["lpips"] == perfect["l2"] == 0 and perfect["same_person"] == 1 and perfect["psnr_db"] > 100
    assert noisy["lpips"] > 0 and noisy["l2"] > 0.01 and noisy["ms_ssim"] < 0.999 and noisy["psnr_db"] < 30


def test_ms_ssim_has_fewer_scales_on_small_pictures_and_says_where_it_ends() -> None:
    assert suite.scales(256) == suite.BETAS and len(suite.scales(64)) == 3 and sum(suite.scales(64)) == pytest.approx(1)
    with pytest.raises(ValueError, match="44 pixels or more, found 32"):
        suite.scales(32)


def test_a_table_has_a_row_per_method_on_the_same_pictures(judge: suite.Judge, pack: Pack) -> None:
    said: list[str] = []
    methods = {"e4e": pack.inverter("e4e"), "once": pack.inverter("hyperstyle", {"iterations": 1})}
    rows, made = suite.table(judge, methods, pictures(4), say=said.append)
    assert list(rows) == ["e4e", "once"] and all(row["pictures"] == 4 and row["seconds"] > 0 for row in rows.values())
    by_hand = judge.columns(pack.generator()(pack.inverter("e4e").invert(pictures(4))), pictures(4))
    assert rows["e4e"]["l2"] == pytest.approx(float(by_hand["l2"].mean()), rel=1e-4)
    assert rows["e4e"]["lpips_se"] == pytest.approx(float(by_hand["lpips"].std()) / 2, rel=1e-3)
    assert len(said) == 2 and made["once"].states[0].offsets


def test_drift_is_nothing_without_offsets_and_grows_with_them(judge: suite.Judge, pack: Pack) -> None:
    latents = torch.zeros(2, 10, 16)
    still = suite.drift(judge, GeneratorState(latents_BLD=latents), latents=6)
    conv = pack.generator().layers[0]
    offset = torch.zeros(2, conv.out_channels, conv.in_channels, 1, 1)
    offset[1] = 0.5 * torch.randn(offset.shape[1:], generator=torch.Generator().manual_seed(0))
    moved = suite.drift(judge, GeneratorState(latents_BLD=latents, offsets={0: offset}), latents=6)
    assert torch.equal(still, torch.zeros(2)) and moved[0] == 0 and moved[1] > 0


def test_editability_starts_at_the_reconstruction_and_is_read_between_points(judge: suite.Judge, pack: Pack) -> None:
    made = suite.run(pack.inverter("e4e"), pack.generator(), pictures(3))
    direction = Directions(vectors_KD=torch.eye(16)[:1])
    curve = suite.editability(judge, made, pictures(3), direction=direction, amounts=(2.0, 4.0), attribute="smile")
    assert [point["amount"] for point in curve] == [0.0, 2.0, 4.0] and curve[0]["change"] == 0
    expected = (pack.identity()(made.image_NCHW.clamp(-1, 1)) * pack.identity()(pictures(3))).sum(1).mean()
    assert curve[0]["identity"] == pytest.approx(float(expected), abs=1e-5)
    points = [{"amount": 0.0, "change": 0.0, "identity": 0.9}, {"amount": 1.0, "change": 0.4, "identity": 0.7}]
    assert suite.at_change(points, 0.2) == pytest.approx(0.8) and suite.at_change(points, 0.5) is None
