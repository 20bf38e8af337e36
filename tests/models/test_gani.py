"""GANI: gradients become corrections, corrections become offsets that are the tuned generator exactly, other latents stay."""

from __future__ import annotations

import copy
import weakref
from collections.abc import Sequence

import pytest
import torch

from models import gani as gani_module
from models.gani import FLOOR, WEIGHTS, Gani, GaniConfig, as_offsets
from models.gradient_modification import GradientModification, ModuleConfig
from models.optimisation import Found, descend
from models.similarity import Similarity, SimilarityWeights
from models.state import GeneratorState
from tests.models.optimising import drift, held_out_portraits, joined, left_alone, lpips, noise_pictures, portraits, same, world


def gani(**settings: object) -> Gani:
    return Gani("gani", **world().common(WEIGHTS), config=GaniConfig(**{"steps": 4, **settings}), encoder=world().encoder())  # type: ignore[arg-type]


def modules(**settings: object) -> GradientModification:
    config = ModuleConfig(**settings)  # type: ignore[arg-type]
    return GradientModification(world().generator.layers, config=config, source=torch.Generator().manual_seed(0))


def gradients_of(picture: torch.Tensor) -> dict[int, torch.Tensor]:
    wanted = world().similarity(WEIGHTS).see(picture)
    return gani().weight_gradients(world().encoder().invert(picture).latents_BLD, wanted)


def test_gradients_are_those_of_the_loss_by_the_weights() -> None:
    picture = noise_pictures(1)
    with left_alone(world().networks):
        found = gradients_of(picture)
    similarity, latents = world().similarity(WEIGHTS), world().encoder().invert(picture).latents_BLD
    changed = copy.deepcopy(world().generator)
    step = 1e-3
    for conv in changed.convolutions():
        conv.weight.data += step * found[conv.layer.index] / found[conv.layer.index].norm()
    with torch.no_grad():
        gain = similarity(changed.synthesis(latents), picture) - similarity(world().generator.synthesis(latents), picture)
    assert gain.item() == pytest.approx(step * sum(g.norm().item() for g in found.values()), rel=0.05)


def test_layers_of_one_width_share_a_module_and_all_layers_get_a_correction() -> None:
    found = modules(blocks=2)
    assert set(found.by_width) == {"8", "12", "16"}
    gradients = gradients_of(noise_pictures(1))
    corrections = found(gradients)
    assert {i: c.shape for i, c in corrections.items()} == {i: g.shape for i, g in gradients.items()}
    assert len(list(found.parameters())) == 3 * 2 * 4  # per width and block: W1, W2, b, the scale


@pytest.mark.parametrize("pre_norm", ["none", "in", "sn"])
@pytest.mark.parametrize("post_norm", ["none", "in", "sn"])
def test_the_first_correction_is_near_zero_under_every_normalisation(pre_norm: str, post_norm: str) -> None:
    gradients = gradients_of(noise_pictures(1))
    corrections = modules(pre_norm=pre_norm, post_norm=post_norm, blocks=3)(gradients)
    for index, correction in corrections.items():
        assert torch.isfinite(correction).all()
        assert 0 < (correction - gradients[index]).square().mean().sqrt() < 0.1, index


def test_a_row_is_one_output_at_one_kernel_place() -> None:
    found = modules(pre_norm="sn")
    gradient = torch.randn(1, 8, 8, 3, 3, generator=torch.Generator().manual_seed(2))
    only = gradient.clone()
    only[:, 5, :, 1, 2] += 1
    layer = next(layer.index for layer in world().generator.layers if (layer.out_channels, layer.in_channels, layer.kernel) == (8, 8, 3))
    change = (found({layer: only})[layer] - found({layer: gradient})[layer]).abs().amax(dim=2)[0]
    assert change[5, 1, 2] > 0
    change[5, 1, 2] = 0
    assert change.max() < 1e-6


def test_a_state_shows_what_the_tuned_generator_shows() -> None:
    picture = noise_pictures(1)
    state = gani(learning_rate=3e-3).invert(picture)
    tuned = copy.deepcopy(world().generator)
    for conv in tuned.convolutions():
        conv.weight.data *= 1 + state.offsets[conv.layer.index]
    with torch.no_grad():
        a, b = world().generator(state), tuned(GeneratorState(latents_BLD=state.latents_BLD))
        moved = (a - world().generator(GeneratorState(latents_BLD=state.latents_BLD))).abs().max()
    assert (a - b).abs().max() <= 1e-4 * b.abs().max() and moved > 0.01 * b.abs().max()


def test_offsets_add_the_correction_but_for_tiny_weights() -> None:
    generator = copy.deepcopy(world().generator)
    first = generator.convolutions()[0]
    first.weight.data[0, 0, 0, 0, 0] = 0
    corrections = {conv.layer.index: torch.full_like(conv.weight, 0.05) for conv in generator.convolutions()}
    for conv in generator.convolutions():
        offset = as_offsets(generator, corrections)[conv.layer.index]
        assert torch.isfinite(offset).all()
        added = conv.weight * (1 + offset) - conv.weight
        large = conv.weight.abs() >= FLOOR * conv.weight.square().mean().sqrt()
        assert large.float().mean() > 0.99
        assert torch.allclose(added[large], torch.full_like(added[large], 0.05), rtol=1e-4, atol=1e-6)
        assert (added[~large].abs() <= 0.0501).all()


def test_the_loss_falls_below_the_encoders() -> None:
    pictures = noise_pictures(2)
    similarity = world().similarity(WEIGHTS)
    with torch.no_grad():
        before = similarity(world().generator(world().encoder().invert(pictures)), pictures)
        after = similarity(world().generator(gani(steps=10).invert(pictures)), pictures)
    assert (after < 0.97 * before).all()


@pytest.mark.parametrize("settings", [{"lockstep": 1}, {"lockstep": 2}, {"samples": 2, "modules": ModuleConfig(pre_norm="in")}])
def test_a_batch_equals_its_single_pictures_and_networks_are_left_alone(settings: dict[str, object]) -> None:
    pictures, inverter = noise_pictures(3), gani(**settings)
    with left_alone(world().networks), torch.no_grad():
        batch = inverter.invert(pictures)
    assert torch.allclose(batch.latents_BLD, world().encoder().invert(pictures).latents_BLD, atol=1e-5)
    assert same(batch, joined([inverter.invert(picture) for picture in pictures.split(1)]))
    with torch.inference_mode():
        assert same(batch, inverter.invert(pictures.clone()), tolerance=0.0)


def test_pictures_that_stop_at_different_steps_do_not_mix() -> None:
    pictures = noise_pictures(3)
    lpips_of = Similarity(SimilarityWeights(pixel=0, lpips=1, identity=0, parsing=0), lpips=lpips())
    first = gani(stop_lpips=1e9).invert(pictures)
    with torch.no_grad():
        start = lpips_of(world().generator(first), pictures).tolist()
    order = sorted(range(3), key=start.__getitem__)
    stop = (start[order[0]] + start[order[1]]) / 2  # the closest stops at once, the others go on
    inverter = gani(stop_lpips=stop, lockstep=3, learning_rate=3e-3)
    batch = inverter.invert(pictures)
    moved = [max(float(offset[row].abs().max()) for offset in batch.offsets.values()) for row in range(3)]
    alone = [inverter.invert(picture) for picture in pictures.split(1)]
    assert same(batch, joined(alone))
    still = [max(float((batch.offsets[i] - first.offsets[i])[row].abs().max()) for i in batch.offsets) for row in range(3)]
    assert still[order[0]] < 1e-3 * moved[order[0]] and all(still[row] > 1e-3 * moved[row] for row in order[1:])


def test_a_picture_that_is_close_enough_stops_at_once() -> None:
    calls: list[tuple[int, int]] = []
    inverter = gani(stop_lpips=1e9)
    inverter.on_step = lambda done, total, losses: calls.append((done, total))
    inverter.invert(noise_pictures(2))
    assert calls == [(8, 8)]
    calls.clear()
    inverter = gani(stop_lpips=1e9, lockstep=1)
    inverter.on_step = lambda done, total, losses: calls.append((done, total))
    inverter.invert(noise_pictures(2))
    assert calls == [(4, 8), (8, 8)]


def test_only_one_groups_parameters_exist_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    groups: list[weakref.ref[torch.Tensor]] = []
    alive: list[int] = []

    def watched(parameters: Sequence[Sequence[torch.Tensor]], *args: object, **kwargs: object) -> Found:
        alive.append(sum(group() is not None for group in groups))
        groups.extend(weakref.ref(row[0]) for row in parameters)
        return descend(parameters, *args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(gani_module, "descend", watched)
    state = gani(steps=1, lockstep=2).invert(noise_pictures(5))
    assert len(state) == 5 and len(groups) == 5 and alive == [0, 0, 0]


def test_settings_that_cannot_work_are_named() -> None:
    with pytest.raises(ValueError, match="'gani': GANI starts from an encoder's latents, but no encoder is given"):
        Gani("gani", **world().common())
    with pytest.raises(ValueError, match="localisation must be 0 or more, found -1"):
        GaniConfig(localisation=-1)
    with pytest.raises(ValueError, match="GANI: lockstep must be 1 or more, found 0"):
        GaniConfig(lockstep=0)
    with pytest.raises(ValueError, match="blocks must be 1 or more, found 0"):
        ModuleConfig(blocks=0)


def test_on_a_portrait_gani_lowers_the_loss_and_localisation_the_drift() -> None:
    pack, picture = portraits(), held_out_portraits(1)
    similarity = Similarity(WEIGHTS, lpips=lpips(), identity=pack.identity())
    encoder, generator = pack.inverter("e4e"), pack.generator()
    states = [encoder.invert(picture)]
    for localisation in (0.0, 3.0):
        config = GaniConfig(steps=12, localisation=localisation, modules=ModuleConfig(pre_norm="sn"))
        common = {"generator": generator, "similarity": similarity, "mean_latent": pack.mean_latent()}
        states.append(Gani("gani", **common, config=config, encoder=encoder).invert(picture))
    with torch.no_grad():
        before, free, held = (similarity(generator(state), picture).item() for state in states)
    assert free < 0.8 * before and held < 0.9 * before
    assert drift(generator, states[2]) < 0.8 * drift(generator, states[1])
