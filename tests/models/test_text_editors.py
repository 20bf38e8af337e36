"""Editors without a network of their own: they move latents, by the strength asked for, and say what they cannot follow."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from models.attribute_directions import attribute_direction, spread
from models.editor_names import ATTRIBUTE_EDITORS, TEXT_OPTIMISERS, editor_names, problem
from models.editors import Editor
from models.instruction import Instruction
from models.losses.clip import global_clip_loss
from models.optimisation import Stepwise
from models.pack import Pack, PackError
from models.state import GeneratorState
from tests.models.small_pack import inverted, write_small_pack

torch.set_num_threads(1)
SMILE = Instruction(name="smile", source="a face", target="a smiling face", expects={"smile": True})
FEW = {"steps": 6}


@pytest.fixture(scope="module")
def pack(tmp_path_factory: pytest.TempPathFactory) -> Pack:
    return Pack.load(write_small_pack(tmp_path_factory.mktemp("pack")))


@pytest.fixture(scope="module")
def state(pack: Pack) -> GeneratorState:
    """Return three people, inverted with offsets."""
    image = torch.rand(3, 3, 64, 64, generator=torch.Generator().manual_seed(4)) * 2 - 1
    return pack.inverter("hyperstyle", {"iterations": 1}).invert(image)


EDITORS: dict[str, Editor] = {}
"""Those made already, by name and settings: a direction takes seconds to find."""


def edited(pack: Pack, name: str, state: GeneratorState, instruction: Instruction, **settings: object) -> GeneratorState:
    editor = EDITORS.setdefault(f"{name} {settings}", pack.editor(name, settings))
    with torch.no_grad():
        return editor.edit(inverted(state, pack.generator()(state)), instruction)


def settings_for(name: str) -> dict[str, object]:
    return dict(FEW) if name in TEXT_OPTIMISERS else {"labelled": 60}


@pytest.mark.parametrize("name", [*TEXT_OPTIMISERS, *ATTRIBUTE_EDITORS])
def test_strength_walks_from_the_latents_given_and_offsets_stay(pack: Pack, state: GeneratorState, name: str) -> None:
    moved = {
        strength: edited(pack, name, state, replace(SMILE, strength=strength), **settings_for(name)) for strength in (0.0, 1.0, 2.0, -1.0)
    }
    full = moved[1.0].latents_BLD - state.latents_BLD
    assert torch.equal(moved[0.0].latents_BLD, state.latents_BLD) and full.flatten(1).norm(dim=1).min() > 1e-3
    assert torch.allclose(moved[2.0].latents_BLD - state.latents_BLD, 2 * full, rtol=1e-3, atol=1e-4)
    assert torch.allclose(moved[-1.0].latents_BLD - state.latents_BLD, -full, rtol=1e-3, atol=1e-4)
    assert all(moved[1.0].offsets[index] is offset for index, offset in state.offsets.items())


@pytest.mark.parametrize("name", TEXT_OPTIMISERS)
def test_optimising_brings_the_picture_nearer_to_the_text_and_pictures_do_not_mix(pack: Pack, state: GeneratorState, name: str) -> None:
    target, generator, clip = pack.clip().embed_texts([SMILE.target]), pack.generator(), pack.clip()
    whole = edited(pack, name, state, SMILE, lockstep=3, **FEW)
    with torch.no_grad():
        before, after = (global_clip_loss(clip.embed_images(generator(s).clamp(-1, 1)), target) for s in (state, whole))
    assert (after < before).all()
    alone = [edited(pack, name, state.slice(row, row + 1), SMILE, **FEW).latents_BLD for row in range(3)]
    moved = (whole.latents_BLD - state.latents_BLD).flatten(1).norm(dim=1)
    for other in (torch.cat(alone), edited(pack, name, state, SMILE, lockstep=2, **FEW).latents_BLD):
        # Where a gradient is nearly nothing, rounding decides which way Adam goes.
        assert ((whole.latents_BLD - other).flatten(1).norm(dim=1) < 0.05 * moved).all()
    assert not any(parameter.requires_grad or parameter.grad is not None for parameter in generator.parameters())


def test_a_larger_weight_holds_latents_back(pack: Pack, state: GeneratorState) -> None:
    free, held = (
        (edited(pack, "styleclip_optimisation", state, SMILE, l2=l2, **FEW).latents_BLD - state.latents_BLD).norm() for l2 in (0.0, 10.0)
    )
    assert held < 0.8 * free


def test_progress_is_told(pack: Pack, state: GeneratorState) -> None:
    editor = pack.editor("styleclip_optimisation", FEW)
    assert isinstance(editor, Stepwise)
    calls: list[tuple[int, int]] = []
    editor.on_step = lambda done, total, losses: calls.append((done, total))
    editor.edit(inverted(state, pack.generator()(state)), SMILE)
    assert calls[0] == (3, 18) and calls[-1] == (18, 18)


@pytest.mark.parametrize("name", ATTRIBUTE_EDITORS)
def test_an_attribute_that_is_unwanted_moves_the_other_way_and_several_add_up(pack: Pack, state: GeneratorState, name: str) -> None:
    def shift(**expects: bool) -> torch.Tensor:
        return edited(pack, name, state, replace(SMILE, expects=expects), labelled=60).latents_BLD - state.latents_BLD

    smile, hat = shift(smile=True), shift(hat=True)
    assert torch.allclose(shift(smile=False), -smile, atol=1e-5)
    assert torch.allclose(shift(smile=True, hat=True), smile + hat, atol=1e-5)
    direction = attribute_direction(pack, "smile", method=name, labelled=60)  # type: ignore[arg-type]
    assert torch.allclose(smile[0, 0], 2 * spread(pack, direction) * direction.vectors_KD[0], atol=1e-5)


@pytest.mark.parametrize("method", ["ganspace", "sefa"])
def test_the_component_found_is_the_one_along_which_the_label_rises(pack: Pack, method: str) -> None:
    direction = attribute_direction(pack, "hat", method=method, labelled=60)  # type: ignore[arg-type]
    generator, net = pack.generator(), pack.attributes()
    z = torch.randn(50, generator.style_dim, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        latents = generator.repeat(generator.mapping(z))
        low, high = (
            net.probabilities(generator.synthesis(direction.moved(latents, amount * spread(pack, direction))).clamp(-1, 1))[
                :, net.names.index("hat")
            ].mean()
            for amount in (-2, 2)
        )
    assert high > low


def test_names_are_those_that_the_packs_networks_allow(pack: Pack) -> None:
    assert editor_names(pack.info) == ["hypereditor", *TEXT_OPTIMISERS, "stylemc", *ATTRIBUTE_EDITORS]
    networks = {name: entry for name, entry in pack.info.networks.items() if name not in ("clip", "attributes")}
    assert editor_names(replace(pack.info, networks=networks)) == ["hypereditor"]


def test_what_cannot_work_is_named(pack: Pack, state: GeneratorState) -> None:
    for name, settings, words in (
        ("styleclip", {}, "no editor 'styleclip'; it has hypereditor, styleclip_optimisation"),
        ("e4e", {}, "network 'e4e' is a e4e, not an editor"),
        ("hypereditor", {"steps": 3}, "editor 'hypereditor': no setting 'steps'; it has none"),
        ("tedigan", {"step": 3}, "editor 'tedigan': no setting 'step'; did you mean 'steps'"),
        ("styleclip_optimisation", {"steps": 0}, "expected 1 or more, above 0 and a share"),
        ("styleclip_optimisation", {"clip": 0.0}, "clip: expected a weight above 0, found 0.0"),
        ("styleclip_optimisation", {"l2": "much"}, "l2: expected a number, found 'much'"),
        ("tedigan", {"identity": -0.1}, "identity: expected a weight of 0 or more, found -0.1"),
        ("interfacegan", {"deviations": 0.0}, "expected more than 0, and 10 or more"),
    ):
        with pytest.raises(PackError, match=words):
            pack.editor(name, settings)
    mute = replace(SMILE, expects={})
    assert problem(pack.info, "sefa", mute) is not None and problem(pack.info, "sefa", SMILE) is None
    assert problem(pack.info, "hypereditor", mute) is None
    with pytest.raises(ValueError, match="sefa needs `expects`"):
        edited(pack, "sefa", state, mute)
    with pytest.raises(ValueError, match="no attribute 'wings'; the pack's classifier knows"):
        edited(pack, "ganspace", state, replace(SMILE, expects={"wings": True}))
    with pytest.raises(ValueError, match="use fewer words"):
        edited(pack, "tedigan", state, replace(SMILE, target="smiling " * 60))
