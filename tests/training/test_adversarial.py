"""Adversarial training of a generator: augmentation, lazy R1, who gets whose gradients, shares, and the pack that it leaves."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from models.losses import r1_penalty
from models.pack import Pack
from pipeline.shard_writer import ShardWriter
from pipeline.storage import Storage
from tests.jobs.world import portraits
from tests.models.small_pack import CHANNELS, SIZE, write_small_pack
from training.group import Group
from training.kinds.adversarial import AUGMENTATIONS, R1_EVERY, AdversarialConfig, AdversarialObjective, Batch, augment, neighbours
from training.loop import LoopConfig
from training.objective import Setting, SettingError
from training.run import Training, run_training
from training.shards import ShardPictures
from training.share import shares

torch.set_num_threads(1)
NEUTRAL = 0.5
COMMITTED = Path(__file__).parents[2] / "packs" / "portraits64"


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Return a shard of 40 portraits."""
    folder = tmp_path_factory.mktemp("data")
    with ShardWriter(Storage(str(folder)), "portraits.tar") as shard:
        for number, picture in enumerate(portraits(40, size=SIZE)):
            shard.write(f"{number:03d}", {"jpg": picture})
    return str(folder)


@pytest.fixture(scope="module")
def pack(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_small_pack(tmp_path_factory.mktemp("pack"))


def objective_of(data: str, pack: Path, **settings: object) -> AdversarialObjective:
    """Return a small objective; the small pack's CLIP has no feature maps."""
    config = AdversarialConfig(**{"features": 0.0, **settings})  # type: ignore[arg-type]
    pictures = ShardPictures.open(data, size=SIZE)
    return AdversarialObjective(config, Setting(group=Group(), pack=Pack.load(pack), pictures=pictures, precision="float32"))


def drawn(objective: AdversarialObjective, step: int, *, world: int = 1) -> list[Batch]:
    """Return what each of `world` workers draws."""
    parts = [shares(seed=objective.seed, step=step, batch=objective.batch, rank=r, world=world, accumulate=1)[0] for r in range(world)]
    return [objective.draw(part) for part in parts]


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def gradients(module: torch.nn.Module) -> list[Tensor]:
    return [parameter.grad for parameter in module.parameters() if parameter.grad is not None]


def test_augmentation_changes_nothing_at_its_neutral_numbers() -> None:
    image = noise(3, 3, 16, 16)
    assert torch.allclose(augment(image, torch.full((3, AUGMENTATIONS), NEUTRAL)), image, atol=1e-6)
    assert torch.allclose(augment(image, torch.rand(3, AUGMENTATIONS), colour=0.0, shift=0.0), image, atol=1e-6)


@pytest.mark.parametrize("end", [0.0, 1.0])
def test_each_augmentation_reaches_as_far_as_it_says_and_no_further(end: float) -> None:
    image, sign = noise(2, 3, 16, 16), 2 * end - 1
    seen = []
    for number in range(AUGMENTATIONS):
        chance = torch.full((2, AUGMENTATIONS), NEUTRAL)
        chance[:, number] = end
        seen.append(augment(image, chance))
    grey, middle = image.mean(1, keepdim=True), image.mean((1, 2, 3), keepdim=True)
    assert torch.allclose(seen[0], image + sign * 0.5, atol=1e-6)
    assert torch.allclose(seen[1], grey + (image - grey) * (1 + sign), atol=1e-6)
    assert torch.allclose(seen[2], middle + (image - middle) * (1 + sign * 0.5), atol=1e-6)
    for found, side in zip(seen[3:], (3, 2), strict=True):  # by 2 of 16 pixels; what comes in is grey
        moved = torch.roll(image, int(-sign * 2), side)
        kept = slice(0, 14) if end else slice(2, 16)
        assert torch.allclose(found.narrow(side, kept.start, 14), moved.narrow(side, kept.start, 14), atol=1e-6)
        assert not found.narrow(side, 14 if end else 0, 2).any()


def test_augmentation_is_differentiable() -> None:
    image = noise(2, 3, 8, 8).double().requires_grad_()
    chance = torch.rand(2, AUGMENTATIONS, generator=torch.Generator().manual_seed(3)).double()
    assert torch.autograd.gradcheck(lambda x: augment(x, chance), (image,))


def test_r1_is_taken_on_every_sixteenth_step_alone_and_counts_sixteenfold(data: str, pack: Path) -> None:
    objective = objective_of(data, pack, batch=4, r1=2.0)
    assert [step for step in range(40) if drawn(objective, step)[0].penalised] == [0, 16, 32]
    (batch,) = drawn(objective, 16)
    objective.penalty.fill_(7.0)
    for penalised in (True, False):
        loss, figures = objective(Batch(**{**vars(batch), "penalised": penalised}))
        rest = figures["generator_loss"] * 0 + figures["discriminator_loss"]  # still warming up
        taken = figures["r1"] if penalised else torch.zeros(())
        assert torch.allclose(loss, rest + 2.0 / 2 * R1_EVERY * taken) and (penalised or figures["r1"] == 7.0)
    real = augment(batch.real_BCHW, batch.chance_2BA[1], colour=objective.config.colour).requires_grad_()
    wanted = r1_penalty(objective.discriminator(real), real)
    assert torch.allclose(objective(batch)[1]["r1"], wanted, rtol=1e-4)


def test_groups_of_the_minibatch_deviation_are_those_of_two_workers(data: str, pack: Path) -> None:
    objective = objective_of(data, pack, batch=16, warmup=0)
    pictures = noise(16, 3, SIZE, SIZE)
    whole = objective.discriminator(neighbours(pictures)).mean()
    halves = [objective.discriminator(neighbours(part)).mean() for part in pictures.split(8)]
    assert torch.allclose(whole, torch.stack(halves).mean(), atol=1e-5)
    for step in (16, 17):
        alone = objective(drawn(objective, step)[0])[0]
        together = [objective(batch)[0] for batch in drawn(objective, step, world=2)]
        assert torch.allclose(alone, torch.stack(together).mean(), rtol=1e-4)


def test_a_share_that_holds_no_whole_groups_is_refused(data: str, pack: Path) -> None:
    objective = objective_of(data, pack, batch=12)
    with pytest.raises(ValueError, match=r"multiple of 4, found 6.*--settings\.batch"):
        objective(drawn(objective, 0, world=2)[0])


def test_neither_network_is_moved_by_the_others_loss(data: str, pack: Path) -> None:
    objective = objective_of(data, pack, batch=4, warmup=0)
    (batch,) = drawn(objective, 1)
    objective(batch)[1]["generator_loss"].backward()
    assert any(grad.any() for grad in gradients(objective.net)) and not gradients(objective.discriminator)
    objective.zero_grad()
    objective(batch)[1]["discriminator_loss"].backward()
    assert any(grad.any() for grad in gradients(objective.discriminator)) and not gradients(objective.net)


def test_heads_on_clips_features_teach_the_generator_and_are_not_taught_by_it(data: str) -> None:
    objective = objective_of(data, COMMITTED, features=1.0, batch=4, warmup=0)
    plain = objective_of(data, COMMITTED, batch=4, warmup=0)
    (batch,) = drawn(objective, 1)
    (alone, _), (loss, figures) = plain(batch), objective(batch)
    assert loss > alone + 1.0 and not list(objective.pack[0].clip().parameters())[0].requires_grad
    figures["generator_loss"].backward()
    assert not gradients(objective.heads) and not gradients(objective.discriminator) and gradients(objective.net)
    objective.zero_grad()
    objective(batch)[1]["discriminator_loss"].backward()
    assert any(grad.any() for grad in gradients(objective.heads)) and not gradients(objective.net)


def test_a_clip_without_feature_maps_is_refused(data: str, pack: Path) -> None:
    with pytest.raises(SettingError, match=r"residual picture tower.*--settings\.features 0"):
        objective_of(data, pack, features=1.0)


def test_during_the_warm_up_the_generator_stands_still_and_the_discriminator_learns(data: str, pack: Path) -> None:
    objective = objective_of(data, pack, batch=4, warmup=12)
    (batch,) = drawn(objective, 1)
    before = {name: value.clone() for name, value in objective.net.state_dict().items()}
    losses = trained(objective, batch, steps=12, figure="discriminator_loss")
    assert losses[-1] < 0.8 * losses[0]
    assert all(torch.equal(value, before[name]) for name, value in objective.net.state_dict().items())
    assert objective.restarts == (12,)  # Adam begins anew: it has seen nothing but zeros of the generator


def test_the_generator_learns_to_fool_a_discriminator_that_stands_still(data: str, pack: Path) -> None:
    objective = objective_of(data, pack, batch=8, warmup=0, freeze_mapping=False)
    (batch,) = drawn(objective, 1)
    objective.discriminator.requires_grad_(False)
    losses = trained(objective, batch, steps=12, figure="generator_loss")
    assert losses[-1] < losses[0] - 0.05


def trained(objective: AdversarialObjective, batch: Batch, *, steps: int, figure: str) -> list[float]:
    """Take steps on one batch; return a figure of each."""
    optimizer, found = objective.optimizer(), []
    for _ in range(steps):
        optimizer.zero_grad()
        loss, figures = objective(batch)
        loss.backward()
        optimizer.step()
        found.append(float(figures[figure].detach()))
    return found


def test_without_a_generator_to_start_from_the_shape_is_that_of_the_settings(data: str, pack: Path) -> None:
    objective = objective_of(data, pack, go_on=False, style_dim=8, n_mlp=1, channels=CHANNELS, batch=4, warmup=0)
    assert objective.network_config() == {"size": SIZE, "style_dim": 8, "n_mlp": 1, "channels": CHANNELS}
    objective(drawn(objective, 1)[0])[0].backward()
    assert all(parameter.grad is not None for parameter in objective.net.style.parameters())


def test_a_training_leaves_a_pack_with_the_new_generator_and_without_what_was_bound_to_the_old(
    data: str, pack: Path, tmp_path: Path
) -> None:
    settings = AdversarialConfig(steps=6, warmup=2, batch=4, measured=20, features=0.0)
    training = Training(
        network="adversarial", settings=settings, output=str(tmp_path), pack=str(pack), data=data, precision="float32",
        loop=LoopConfig(checkpoint_every=3, log_every=1, sheet_every=6),
    )  # fmt: skip
    result = run_training(training, Group(), say=lambda _: None)
    distances = {name + what for name in ("fid", "fid_identity") for what in ("", "_floor", "_before")}
    assert result.finished and {*distances, "faces"} <= set(result.numbers)
    made, base = Pack.load(tmp_path / "pack"), Pack.load(pack)
    bound = {"e4e", "psp", "restyle_e4e", "w_encoder", "hyperstyle", "hypereditor"}
    assert set(base.info.networks) - set(made.info.networks) == bound
    old, new = base.generator().state_dict(), made.generator().state_dict()
    kept = {name for name in old if torch.equal(old[name], new[name])}
    assert all(name in kept for name in old if name.startswith("style.")), "W stays as it was"
    assert {"conv1.conv.weight", "to_rgb1.bias"}.isdisjoint(kept)
    assert torch.allclose(made.mean_latent(), base.generator().mean_latent(), atol=1e-6)
    assert (tmp_path / "sheets" / "step-000006.png").is_file()


def test_codes_of_real_pictures_are_painted_alike_by_any_number_of_workers(data: str) -> None:
    objective = objective_of(data, COMMITTED, reconstruct=1.0, batch=8, warmup=100)
    (batch,) = drawn(objective, 1)
    assert batch.anchored_B.tolist() == [True, False] * 4
    first = objective(batch)[1]["copied"]
    halves = [objective(part)[1]["copied"] for part in drawn(objective, 1, world=2)]
    assert torch.allclose(first, torch.stack(halves).mean(), rtol=1e-4)
    optimizer = objective.optimizer()
    for _ in range(6):
        optimizer.zero_grad()
        loss, figures = objective(batch)
        loss.backward()
        optimizer.step()
    assert figures["copied"] < 0.9 * first
