"""What is made once of an inversion serves every instruction, and changes none of them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from models.encoders import Encoder4Editing
from models.hypereditor import HyperEditor
from models.instruction import Instruction
from models.inversion import Inversion
from models.pack import Pack
from models.state import GeneratorState, dense

PACK = Path(__file__).parents[2] / "packs" / "portraits64"
SMILE = Instruction(name="smile", source="a face", target="a smiling face")
HAT = Instruction(name="hat", source="a face", target="a face with a hat")


@pytest.fixture(scope="module")
def pack() -> Pack:
    return Pack.load(PACK)


def inverted(pack: Pack) -> Inversion:
    generator = pack.generator()
    state = GeneratorState(latents_BLD=generator.repeat(generator.mapping(torch.randn(2, generator.style_dim))))
    made = generator(state).clamp(-1, 1)
    return Inversion(aligned_BCHW=made, state=state, made_BCHW=made)


@pytest.mark.parametrize(
    ("editor", "part"),
    [
        ("hypereditor", lambda pack: pack.network("hypereditor", HyperEditor).body),
        ("clipinverter", lambda pack: pack.network("e4e", Encoder4Editing).body),
    ],
)
@torch.no_grad()
def test_a_network_looks_at_a_picture_once_for_all_instructions(pack: Pack, editor: str, part: Callable[[Pack], nn.Module]) -> None:
    torch.manual_seed(0)
    inversion, method, looks = inverted(pack), pack.editor(editor), 0

    def look(*_: object) -> None:
        nonlocal looks
        looks += 1

    watched = part(pack)
    hook = (watched[0] if isinstance(watched, nn.Sequential) else watched).register_forward_hook(look)
    together = [method.edit(inversion, one) for one in (SMILE, HAT, SMILE)]
    hook.remove()
    assert looks == 1
    alone = [method.edit(inversion.slice(0, 2), one) for one in (SMILE, HAT)]
    for a, b in zip(together, alone, strict=False):
        assert torch.equal(a.latents_BLD, b.latents_BLD) and a.offsets.keys() == b.offsets.keys()
        assert all(torch.equal(dense(offset), dense(b.offsets[layer])) for layer, offset in a.offsets.items())
    assert not torch.equal(together[0].latents_BLD, together[1].latents_BLD) or together[0].offsets
    images = [pack.generator()(state) for state in together]
    assert torch.equal(images[0], images[2]) and not torch.allclose(images[0], images[1], atol=1e-3)


def test_what_is_kept_belongs_to_one_batch() -> None:
    state = GeneratorState(latents_BLD=torch.zeros(2, 10, 4))
    whole = Inversion(aligned_BCHW=torch.zeros(2, 3, 8, 8), state=state, made_BCHW=torch.zeros(2, 3, 8, 8))
    assert whole.once("key", lambda: 1) == 1 and whole.once("key", lambda: 2) == 1
    assert whole.slice(0, 1).once("key", lambda: 3) == 3
