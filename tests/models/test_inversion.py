"""What is made once of an inversion serves every instruction, and changes none of them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from models.encoders import Encoder4Editing
from models.hypereditor import HyperEditor
from models.instruction import Instruction
from models.inversion import Inversion, joined
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


def plain(rows: int) -> Inversion:
    """Return an inversion of pictures that say their row."""
    pictures = torch.arange(rows, dtype=torch.float32)[:, None, None, None].expand(rows, 3, 8, 8)
    state = GeneratorState(latents_BLD=torch.arange(rows, dtype=torch.float32)[:, None, None].expand(rows, 10, 4))
    return Inversion(aligned_BCHW=pictures, state=state, made_BCHW=pictures + 100)


def rows_of(inversion: Inversion) -> list[int]:
    """Read the rows from the pictures, which must agree with each other."""
    found = inversion.aligned_BCHW[:, 0, 0, 0].tolist()
    assert inversion.made_BCHW[:, 0, 0, 0].sub(100).tolist() == inversion.state.latents_BLD[:, 0, 0].tolist() == found
    return [int(row) for row in found]


class Look:
    """A network that counts the pictures it looks at, and makes of each what depends on it alone."""

    def __init__(self) -> None:
        self.seen = 0

    def at(self, inversion: Inversion) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        self.seen += len(inversion)
        pictures = inversion.made_BCHW
        return pictures.mean(dim=(2, 3)), (pictures * 2, pictures[:, :1, 0, 0])


takes = st.lists(st.lists(st.integers(0, 4), min_size=1, max_size=5), min_size=1, max_size=6)


@settings(deadline=None, max_examples=60)
@given(takes)
def test_parts_get_what_was_made_of_their_pictures_whoever_asked_first(asked: list[list[int]]) -> None:
    whole, network, known = plain(5), Look(), set[int]()
    for rows in asked:
        part = whole.take(rows)
        assert len(part) == len(rows) and rows_of(part) == rows
        before = network.seen
        found = part.once(network, lambda part=part: network.at(part))  # type: ignore[misc]
        assert network.seen == before + (0 if known.issuperset(rows) else len(rows))
        again, looked = part.once(network, lambda part=part: network.at(part)), network.seen  # type: ignore[misc]
        alone = Look().at(plain(5).take(rows))
        for one in (found, again):
            assert torch.equal(one[0], alone[0]) and all(torch.equal(a, b) for a, b in zip(one[1], alone[1], strict=True))
        assert looked == network.seen
        known |= set(rows)


def test_what_cannot_be_divided_among_pictures_is_made_for_each_part() -> None:
    whole = plain(3)
    made = [whole.take(rows).once("words", lambda rows=rows: {"rows": rows}) for rows in ([0, 1], [1], [0, 1])]  # type: ignore[misc]
    assert made == [{"rows": [0, 1]}, {"rows": [1]}, {"rows": [0, 1]}]
    sums = [_part_sum(whole, rows) for rows in ([0, 2], [2], [0])]
    assert [one.tolist() for one in sums] == [[2.0] * 4, [2.0] * 4, [0.0] * 4]


def _part_sum(whole: Inversion, rows: list[int]) -> Tensor:
    return whole.take(rows).once("sum", lambda: torch.full((4,), float(sum(rows))))


def test_an_edit_after_an_edit_changes_the_state_and_looks_at_no_picture_again() -> None:
    whole, network = plain(4), Look()
    part = whole.take([2, 0])
    first = part.once(network, lambda: network.at(part))
    changed = part.changed_to(part.state.take(torch.tensor([1, 0])))
    assert changed.state.latents_BLD[:, 0, 0].tolist() == [0, 2] and torch.equal(changed.made_BCHW, part.made_BCHW)
    assert changed.once(network, lambda: network.at(part)) is first and network.seen == 2
    other = Look()
    changed.once(other, lambda: other.at(changed))
    whole.take([0]).once(other, lambda: other.at(whole))
    assert other.seen == 2 and part.state.latents_BLD[:, 0, 0].tolist() == [2, 0]


@given(st.lists(st.lists(st.integers(0, 4), min_size=1, max_size=4), min_size=1, max_size=4))
def test_batches_joined_are_one_after_the_other(asked: list[list[int]]) -> None:
    whole = joined([plain(5).take(rows) for rows in asked])
    assert rows_of(whole) == [row for rows in asked for row in rows] and len(whole) == sum(len(rows) for rows in asked)


@pytest.mark.parametrize("editor", ["hypereditor", "clipinverter"])
@torch.no_grad()
def test_an_edit_of_some_pictures_is_that_of_the_whole(pack: Pack, editor: str) -> None:
    torch.manual_seed(0)
    method, generator = pack.editor(editor), pack.generator()
    whole = joined([inverted(pack), inverted(pack)])
    together = generator(method.edit(whole, SMILE))
    again = joined([whole.slice(0, 2), whole.slice(2, 4)])
    for rows in ([3, 1], [1], [0, 3]):  # the last are known by halves
        alone = generator(method.edit(again.take(rows), SMILE))
        assert torch.allclose(alone, together[rows], atol=1e-4)
