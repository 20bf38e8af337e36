"""Inverters that look once or a few times: what they share, and how a pack makes them by name."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from models.hyperstyle import HyperStyle
from models.inverter_names import inverter_names
from models.inverters import HyperStyleInverter, ReStyleInverter, pooled
from models.losses import moco_loss
from models.official_perception import MoCo
from models.pack import Pack, PackError, write_network
from models.restyle import ReStyleEncoder
from models.stylegan2 import Generator
from tests.models.small_pack import CHANNELS, CONFIGS, SIZE, STYLE_DIM, TRUNK, write_small_pack

torch.set_num_threads(1)


@pytest.fixture(scope="module")
def pack(tmp_path_factory: pytest.TempPathFactory) -> Pack:
    return Pack.load(write_small_pack(tmp_path_factory.mktemp("pack")))


def pictures(n: int, *, side: int = SIZE) -> Tensor:
    return torch.rand(n, 3, side, side, generator=torch.Generator().manual_seed(3)) * 2 - 1


@pytest.mark.parametrize("name", ["e4e", "w_encoder", "psp", "restyle_e4e", "hyperstyle"])
def test_a_pack_makes_it_by_name_and_a_batch_equals_its_single_pictures(pack: Pack, name: str) -> None:
    assert name in inverter_names(pack.info)
    inverter, image = pack.inverter(name), pictures(3, side=2 * SIZE)
    state = inverter.invert(image)
    assert state.latents_BLD.shape == (3, 10, STYLE_DIM) and bool(state.offsets) == (name == "hyperstyle")
    single = inverter.invert(image[1:2])
    made, alone = pack.generator()(state)[1:2], pack.generator()(single)
    assert (made - alone).abs().max() <= 1e-4 * alone.abs().max()


def test_restyle_adds_up_steps_from_the_mean_latent(pack: Pack) -> None:
    inverter, encoder, g, image = (
        pack.inverter("restyle_e4e", {"iterations": 2}),
        pack.network("restyle_e4e", ReStyleEncoder),
        pack.generator(),
        pictures(2),
    )
    with torch.no_grad():
        start = pack.mean_latent().expand(2, 10, -1)
        first = start + encoder(image, g.synthesis(start))
        second = first + encoder(image, g.synthesis(first))
    assert torch.allclose(inverter.invert(image).latents_BLD, second, atol=1e-5)


def test_hyperstyle_keeps_the_latents_and_adds_up_offsets(pack: Pack) -> None:
    net, g, image = pack.network("hyperstyle", HyperStyle), pack.generator(), pictures(2)
    state = pack.inverter("hyperstyle", {"iterations": 2}).invert(image)
    start = pack.inverter("w_encoder").invert(image)
    assert torch.equal(state.latents_BLD, start.latents_BLD)
    with torch.no_grad():
        first = net(image, g(start))
        second = net(image, g.synthesis(start.latents_BLD, first))
    assert all(torch.allclose(offset, first[index] + second[index], atol=1e-6) for index, offset in state.offsets.items())


@pytest.mark.parametrize(
    ("block", "shared", "kernel", "plain"),
    [("plain", True, 3, 1), ("plain", True, 1, 1), ("plain", False, 3, 3), ("separable", True, 3, 1)],
)
def test_every_form_of_hyperstyle_makes_offsets_that_fit_the_generator(block: str, shared: bool, kernel: int, plain: int) -> None:
    torch.manual_seed(0)
    net = HyperStyle(
        SIZE, channels=CHANNELS, block=block, shared=shared, kernel_size=kernel, plain_kernel_size=plain, input_size=SIZE, inner=8,  # type: ignore[arg-type]
        shared_inner=8, layers=[0, 2, 4, 5, 14 - 1], **TRUNK,
    ).eval()  # fmt: skip
    g = Generator(SIZE, STYLE_DIM, 2, channels=CHANNELS)
    with torch.no_grad():
        offsets = net(pictures(2), pictures(2).flip(0))
        kernels = {index: offset.shape[-1] for index, offset in offsets.items()}
        wide = 3 if block == "separable" else plain
        assert kernels == {0: kernel if shared else wide, 2: kernel if shared else wide, 4: 1, 5: wide, 13: 1}
        assert g.synthesis(torch.randn(2, 10, STYLE_DIM), offsets).shape == (2, 3, SIZE, SIZE)


def test_the_shared_layers_are_those_as_wide_as_the_first() -> None:
    net = HyperStyle(SIZE, channels=CHANNELS, input_size=SIZE, inner=8, shared_inner=8, **TRUNK)  # type: ignore[arg-type]
    codes = {index for index, block in net.refinement_blocks.items() if hasattr(block, "linear")}
    assert codes == {"0", "2", "3"}  # 16 to 16 channels; from layer 5 on they shrink
    assert sum("shared_weight_hypernet" in name for name, _ in net.named_parameters()) == 4


def test_a_mean_latent_of_its_own_wins(pack: Pack) -> None:
    g, encoder = pack.generator(), pack.network("restyle_e4e", ReStyleEncoder)
    zero = ReStyleInverter("r", encoder, generator=g, latent_avg=torch.zeros(10, STYLE_DIM), iterations=1)
    with torch.no_grad():
        step = encoder(pictures(1), F.adaptive_avg_pool2d(g.synthesis(torch.zeros(1, 10, STYLE_DIM)), SIZE))
    assert torch.allclose(zero.invert(pictures(1)).latents_BLD, step, atol=1e-6)


@pytest.mark.parametrize(
    ("name", "settings", "words"),
    [
        ("hyperstile", {}, "no inverter 'hyperstile'; it has e4e"),
        ("clip", {}, "'clip' is a clip, not an inverter"),
        ("hyperstyle", {"iteration": 3}, "no setting 'iteration'; did you mean 'iterations'"),
        ("e4e", {"iterations": 3}, "no setting 'iterations'; it has none"),
        ("restyle_e4e", {"iterations": 0}, "expected 1 or more iterations, found 0"),
    ],
)
def test_what_a_pack_cannot_make_is_named(pack: Pack, name: str, settings: dict[str, object], words: str) -> None:
    with pytest.raises(PackError, match=words):
        pack.inverter(name, settings)


def test_wrong_pictures_and_passes_are_named(pack: Pack) -> None:
    with pytest.raises(ValueError, match=r"expected images \(B, 6, 64, 64\), found \(1, 6, 32, 32\)"):
        pack.network("hyperstyle", HyperStyle)(pictures(1, side=32), pictures(1, side=32))
    with pytest.raises(ValueError, match="1 or more iterations"):
        HyperStyleInverter(
            "h", pack.network("hyperstyle", HyperStyle), encoder=pack.network("w_encoder", torch.nn.Module), generator=pack.generator(),  # type: ignore[arg-type]
            latent_avg=pack.mean_latent(), iterations=0,
        )  # fmt: skip


def test_a_pack_without_the_start_of_a_method_does_not_offer_it(tmp_path: Path) -> None:
    from models.pack import start_pack

    folder = write_small_pack(tmp_path / "pack")
    start_pack(
        folder, name="small", domain="portraits", size=SIZE, licence="x", provenance={}, keep=["generator", "hyperstyle", "identity"]
    )
    names = inverter_names(Pack.load(folder).info)
    assert "hyperstyle" not in names and "gani" not in names and "pti" in names


def test_optimisers_need_the_generator_alone_and_gani_e4e(tmp_path: Path) -> None:
    info = Pack.load(write_small_pack(tmp_path, without=set(CONFIGS) - {"generator", "psp"})).info
    assert inverter_names(info) == ["psp", "w_projection", "wplus_projection", "pti"]
    with pytest.raises(PackError, match="no network 'e4e'"):
        Pack.load(tmp_path).inverter("wplus_projection", {"start": "encoder"})


OFF_FACES: dict[str, dict[str, object]] = {
    "w_projection": {"steps": 3, "identity": 0.5}, "wplus_projection": {"steps": 2, "identity": 0.5},
    "pti": {"pivot_steps": 2, "steps": 2, "identity": 0.5}, "gani": {"steps": 2},
}  # fmt: skip


@pytest.fixture(scope="module")
def off_faces(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pack with a generator and e4e alone."""
    return write_small_pack(tmp_path_factory.mktemp("off"), without=set(CONFIGS) - {"generator", "e4e"})


@pytest.mark.parametrize("name", OFF_FACES)
def test_without_identity_and_moco_the_term_is_left_out_and_that_is_said(
    off_faces: Path, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    inverter = Pack.load(off_faces).inverter(name, OFF_FACES[name])
    assert "identity" not in inverter.similarity.terms and "identity" in inverter.similarity.missing  # type: ignore[attr-defined]
    assert f"inverter '{name}': this pack lacks the networks of these terms, left out: identity" in caplog.text
    assert len(inverter.invert(pictures(1))) == 1


def test_off_faces_moco_stands_where_the_identity_network_would(off_faces: Path, tmp_path: Path) -> None:
    folder = tmp_path / "pack"
    shutil.copytree(off_faces, folder)
    torch.manual_seed(5)
    write_network(folder, "moco", MoCo(), config={}, dtype=torch.float16)
    pack = Pack.load(folder)
    moco, (a, b) = pack.network("moco", MoCo), (pictures(2), pictures(2).flip(0))
    for name, settings in OFF_FACES.items():
        similarity = pack.inverter(name, settings).similarity  # type: ignore[attr-defined]
        assert similarity.identity is moco and "identity" in similarity.terms
    with torch.no_grad():
        seen = similarity.see(a)
        assert torch.allclose(seen.identity_BE.norm(dim=1), torch.ones(2), atol=1e-5)
        found = similarity.parts(seen, similarity.see(b))["identity"]
        assert torch.allclose(found.mean(), moco_loss(moco(a), moco(b)), atol=1e-5) and (found > 0).all()
    plain, led = (pack.inverter("w_projection", {"steps": 3, "identity": weight}).invert(a[:1]).latents_BLD for weight in (0.0, 5.0))
    assert torch.isfinite(led).all() and not torch.equal(plain, led)


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("w_projection", {"steps": 4}),
        ("wplus_projection", {"steps": 4, "start": "encoder"}),
        ("pti", {"pivot_steps": 4, "steps": 2, "locality": True, "locality_alpha": 15.0, "identity": 0.1}),
        ("gani", {"steps": 2}),
    ],
)
def test_a_pack_makes_inverters_that_optimise_and_they_leave_it_as_it_is(pack: Pack, name: str, settings: dict[str, object]) -> None:
    before = {key: value.clone() for key, value in pack.generator().state_dict().items()}
    with torch.no_grad():
        state = pack.inverter(name, settings).invert(pictures(2))
    assert len(state) == 2 and not state.latents_BLD.requires_grad and bool(state.offsets) == (name in ("pti", "gani"))
    assert all(torch.equal(value, before[key]) for key, value in pack.generator().state_dict().items())
    assert not any(parameter.requires_grad or parameter.grad is not None for parameter in pack.generator().parameters())


def test_wrong_settings_of_an_optimiser_are_named(pack: Pack) -> None:
    with pytest.raises(PackError, match="inverter 'pti': .* must be 1 or more"):
        pack.inverter("pti", {"steps": 0})
    with pytest.raises(PackError, match="no setting 'step'; did you mean 'steps'"):
        pack.inverter("gani", {"step": 3})


def test_a_network_that_looks_at_a_wider_picture_sees_the_middle_rows_of_a_square_one() -> None:
    square = pictures(2, side=512)
    expected = F.adaptive_avg_pool2d(square[:, :, 64:448], (192, 256))  # where StyleGAN2's cars lie
    assert torch.allclose(pooled(square, (192, 256)), expected, atol=1e-6)
    assert torch.equal(pooled(pooled(square, 256), (192, 256)), pooled(square, 256)[:, :, 32:224])
    wide = square[:, :, 64:448]
    assert torch.equal(pooled(wide, (192, 256)), F.adaptive_avg_pool2d(wide, (192, 256)))
    assert pooled(square, (256, 192)).shape == (2, 3, 256, 192)


def test_a_count_may_be_written_as_a_whole_float_and_as_nothing_else(pack: Pack) -> None:
    inverter = pack.inverter("hyperstyle", {"iterations": 2.0})
    assert isinstance(inverter, HyperStyleInverter) and type(inverter.iterations) is int
    for value in (2.5, "two", True):
        with pytest.raises(PackError, match=f"'hyperstyle': iterations: expected a whole number, found {value!r}"):
            pack.inverter("hyperstyle", {"iterations": value})
