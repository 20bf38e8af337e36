"""What the trainings of inverters promise: passes that are cut apart, losses by their weights, pictures from shards, packs that invert."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from models.encoders import Encoder4Editing
from models.pack import Pack
from models.restyle import ReStyleEncoder
from portraits import render_aligned, sample_parameters
from tests.training.small_kinds import PACK, SMALL, frozen, objective_of, train
from training.data import seeded
from training.group import Group
from training.inversion import Batch, InversionObjective
from training.kinds.e4e import EncoderObjective
from training.kinds.hyperstyle import HyperStyleConfig, HyperStyleObjective
from training.kinds.restyle_e4e import ReStyleConfig, ReStyleObjective, take_trunk
from training.objective import Setting, SettingError, build_objective
from training.run import Training, open_setting
from training.share import shares

SEVERAL = {
    "hyperstyle": HyperStyleConfig(widths=(8, 8, 8, 16), inner=8, shared_inner=8, phases=((10, 3),), pictures=12, batch=2, measured=4),
    "restyle_e4e": ReStyleConfig(widths=(8,) * 4, depths=(1,) * 4, style_width=8, pictures=12, batch=2, picture_every=1, measured=4),
}
Passes = Callable[[Batch], Iterator[tuple[Tensor, dict[str, Tensor]]]]


class FromMemory:
    """Pictures in memory with what an objective asks of shards."""

    def __init__(self, n: int) -> None:
        self.image = (render_aligned(sample_parameters(n, seeded(3))) * 127.5 + 127.5).round().byte()

    def __len__(self) -> int:
        return len(self.image)

    def pictures(self, rows: Tensor) -> Tensor:
        """Return pictures (B, 3, 64, 64) uint8."""
        return self.image[rows]


def inversion(network: str, settings: object | None = None) -> InversionObjective:
    objective = objective_of(network, settings)
    assert isinstance(objective, InversionObjective)
    return objective.train()


def first_batch(objective: InversionObjective) -> Batch:
    return objective.draw(shares(seed=objective.seed, step=0, batch=objective.batch, rank=0, world=1, accumulate=1)[0])


def passes_of(objective: InversionObjective) -> Passes:
    if isinstance(objective, HyperStyleObjective):
        return objective.passes
    assert isinstance(objective, ReStyleObjective)
    return objective.looks


def gradients(objective: InversionObjective) -> list[Tensor]:
    found = [parameter.grad.clone() for parameter in objective.net.parameters() if parameter.grad is not None]
    objective.zero_grad()
    return found


@pytest.mark.parametrize("network", SEVERAL)
def test_one_backward_call_on_the_sum_is_one_per_pass(network: str) -> None:
    objective = inversion(network, SEVERAL[network])
    batch = first_batch(objective)
    whole, _ = objective(batch)
    whole.backward()
    together, losses = gradients(objective), []
    for loss, _ in passes_of(objective)(batch):
        loss.backward()  # each graph is freed before the next pass begins: nothing leads back into an earlier one
        losses.append(loss.detach())
    apart = gradients(objective)
    assert len(losses) == 3 and torch.allclose(whole, torch.stack(losses).sum(), rtol=1e-5)
    assert len(together) == len(apart) > 10 and sum(bool(grad.any()) for grad in together) > 10
    for a, b in zip(together, apart, strict=True):
        assert torch.allclose(a, b, rtol=1e-3, atol=1e-4 * float(b.abs().max()))


def test_passes_of_hyperstyle_add_up_from_the_encoders_inversion() -> None:
    """Training walks the path of inference: the reconstruction of the last pass is that of the inverter."""
    objective = inversion("hyperstyle", SEVERAL["hyperstyle"]).eval()
    assert isinstance(objective, HyperStyleObjective)
    batch, seen = first_batch(objective), list[Tensor]()
    objective._loss = lambda made, wanted: (seen.append(made), {})  # type: ignore[assignment,method-assign,return-value]
    with torch.no_grad():
        list(objective.passes(batch))
    start = frozen().inverter("w_encoder").invert(batch.image_BCHW).latents_BLD
    objective.config = replace(objective.config, passes=3)
    state = objective.inverter().invert(batch.image_BCHW)
    assert len(seen) == 3 and torch.equal(state.latents_BLD, start)
    assert torch.allclose(seen[-1], frozen().generator()(state), atol=1e-4)


def test_the_passes_follow_the_phases() -> None:
    settings = replace(SEVERAL["hyperstyle"], phases=((4, 1), (3, 2)))
    objective = inversion("hyperstyle", settings)
    assert objective.steps == 7
    batch = first_batch(objective)
    counts = [len(list(passes_of(objective)(replace(batch, step=step)))) for step in (0, 3, 4, 6)]
    assert counts == [1, 1, 2, 2]


@pytest.mark.parametrize(
    "more",
    [{"layers": (3, 5, 6)}, {"shared": False}, {"block": "separable"}, {"kernel_size": 3}, {"phases": ((2, 1),), "passes": 1}],
    ids=lambda more: "-".join(more),
)
def test_every_ablation_of_hyperstyle_trains(more: dict[str, object]) -> None:
    objective = inversion("hyperstyle", replace(SEVERAL["hyperstyle"], **more))  # type: ignore[type-var]
    loss, figures = objective(first_batch(objective))
    loss.backward()
    assert torch.isfinite(loss) and {"l2", "lpips", "identity"} <= figures.keys()
    assert all(grad.isfinite().all() for grad in gradients(objective))


def test_psp_is_drawn_to_the_mean_latent_and_e4e_is_not() -> None:
    for network, settings in (("psp", SMALL["psp"]), ("e4e", SMALL["e4e"])):
        objective = inversion(network, settings)
        assert isinstance(objective, EncoderObjective)
        mean = objective.frozen.generator.repeat(objective.frozen.mean_latent[None])
        at_mean, away = objective.closeness(mean), objective.closeness(mean + 1.0)
        assert (away > at_mean) == (network == "psp")
        assert (objective.closeness(mean + torch.randn_like(mean)) > at_mean).all()


def test_restyle_begins_with_the_trunk_of_the_encoder_and_sees_what_it_sees() -> None:
    shape = {"size": 64, "style_dim": 16, "input_size": 64, "widths": (8, 8, 12, 16), "depths": (1, 1, 1, 1), "style_width": 8}
    encoder, net, wider = (
        kind.from_config({**shape, **more}).eval()
        for kind, more in ((Encoder4Editing, {}), (ReStyleEncoder, {}), (ReStyleEncoder, {"widths": (10, 8, 12, 16)}))
    )
    image, seen = torch.rand(2, 2, 3, 64, 64) * 2 - 1
    take_trunk(net, encoder)
    with torch.no_grad():
        assert torch.equal(net(image, seen)[:, :3], encoder(image)[:, :3])
        before = wider.state_dict()["body.0.res_layer.1.weight"].clone()
        take_trunk(wider, encoder)
        assert torch.equal(wider.state_dict()["body.0.res_layer.1.weight"], before)


def test_wrong_settings_of_restyle_are_refused() -> None:
    for wrong in ({"kind": "w"}, {"looks": 0}, {"passes": 0}):
        with pytest.raises(ValueError, match="expected e4e or psp"):
            ReStyleConfig(**wrong)  # type: ignore[arg-type]


def test_wrong_settings_of_hyperstyle_are_refused() -> None:
    for wrong in ({"phases": ()}, {"phases": ((5, 0),)}, {"phases": ((0, 1),)}, {"passes": 0}):
        with pytest.raises(ValueError, match="expected one phase or more"):
            HyperStyleConfig(**wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize("network", ["psp", "restyle_psp", "hyperstyle"])
def test_pictures_may_come_from_shards(network: str) -> None:
    pictures = FromMemory(60)
    setting = Setting(group=Group(), pack=frozen(), pictures=pictures, precision="float32")  # type: ignore[arg-type]
    objective = build_objective(network, SMALL[network], setting)
    assert isinstance(objective, InversionObjective) and objective.ahead == 2
    objective.prepare()
    batch = first_batch(objective)
    own = [place for place in range(objective.batch) if objective.own_every and place % objective.own_every == 0]
    assert batch.known_B.nonzero().flatten().tolist() == own
    loss, _ = objective.train()(batch)
    assert torch.isfinite(loss)
    numbers = objective.eval().measure("held_out")
    assert set(numbers) == {"same_person", "identity", "psnr_db", "attributes_kept"}


@pytest.mark.parametrize("network", ["restyle_e4e", "hyperstyle"])
def test_the_pack_inverts_as_the_training_measured(network: str, tmp_path: Path) -> None:
    train(network, tmp_path)
    pack, settings = Pack.load(tmp_path / "pack"), SMALL[network]
    passes = {"iterations": settings.passes} if isinstance(settings, HyperStyleConfig | ReStyleConfig) else {}
    objective = build_objective(network, settings, Setting(group=Group(), pack=Pack.load(PACK), precision="float32"))
    assert isinstance(objective, InversionObjective)
    objective.net.load_state_dict(pack.network(network, torch.nn.Module).state_dict())
    image = render_aligned(sample_parameters(2, seeded(9)))
    found, expected = pack.inverter(network, passes).invert(image), objective.eval().inverter().invert(image)
    assert torch.allclose(found.latents_BLD, expected.latents_BLD, atol=1e-5) and found.offsets.keys() == expected.offsets.keys()
    assert all(torch.allclose(offset, expected.offsets[index], atol=1e-5) for index, offset in found.offsets.items())


def test_hyperstyle_needs_the_w_encoder(tmp_path: Path) -> None:
    training = Training(network="hyperstyle", settings=SMALL["hyperstyle"], output=str(tmp_path))
    with pytest.raises(SettingError, match="leans on the networks generator, identity, w_encoder"):
        open_setting(training, Group())
