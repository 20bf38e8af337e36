"""Arithmetic on states: scaling, composing, slicing, and what the shapes must be."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from models.state import AnyOffset, FactorisedOffset, GeneratorState, dense

numbers = st.floats(-2, 2, width=32)
batches = st.integers(1, 3)
indices = st.sets(st.integers(0, 5), max_size=4)
kernels = st.sampled_from([1, 3])


def offset(seed: int, batch: int, kernel: int) -> Tensor:
    return torch.randn(batch, 2, 3, kernel, kernel, generator=torch.Generator().manual_seed(seed)).double()


def factorised(seed: int, batch: int) -> FactorisedOffset:
    stream = torch.Generator().manual_seed(seed)
    a, b, c = (torch.randn(*shape, generator=stream).double() for shape in ((batch, 2), (batch, 3), (2, 3)))
    return FactorisedOffset(out_BO=a, in_BI=b, shared_OI=c)


def drawn(draw: st.DrawFn, seed: int, batch: int) -> AnyOffset:
    rows = draw(st.sampled_from([1, batch]))
    return factorised(seed, rows) if draw(st.booleans()) else offset(seed, rows, draw(kernels))


@st.composite
def states(draw: st.DrawFn, batch: int) -> GeneratorState:
    seed = draw(st.integers(0, 1000))
    offsets = {i: drawn(draw, seed + i, batch) for i in draw(indices)}
    return GeneratorState(latents_BLD=torch.randn(batch, 10, 4), offsets=offsets)


def same(a: GeneratorState, b: GeneratorState) -> bool:
    """Equal once every offset is spread over the whole batch and a 3x3 kernel."""
    full = (len(a), 2, 3, 3, 3)
    return set(a.offsets) == set(b.offsets) and all(
        torch.allclose(dense(a.offsets[i]).expand(full), dense(b.offsets[i]).expand(full)) for i in a.offsets
    )


@settings(deadline=None, max_examples=40)
@given(st.data(), batches)
def test_composing_does_not_depend_on_grouping(data: st.DataObject, batch: int) -> None:
    a, b, c = (data.draw(states(batch)) for _ in range(3))
    assert same(a.composed(b).composed(c), a.composed(b.composed(c)))


@settings(deadline=None, max_examples=40)
@given(st.data(), batches)
def test_composing_multiplies_the_weights(data: st.DataObject, batch: int) -> None:
    a, b = (data.draw(states(batch)) for _ in range(2))
    both = a.composed(b)
    none = torch.zeros(batch, 2, 3, 3, 3, dtype=torch.float64)
    for i in set(a.offsets) | set(b.offsets):
        weight = (1 + dense(a.offsets.get(i, none))) * (1 + dense(b.offsets.get(i, none)))
        assert torch.allclose((1 + dense(both.offsets[i])).expand(weight.shape), weight)


@settings(deadline=None, max_examples=40)
@given(st.data(), batches, numbers, numbers)
def test_strengths_multiply(data: st.DataObject, batch: int, s: float, t: float) -> None:
    state = data.draw(states(batch))
    assert same(state.scaled(s).scaled(t), state.scaled(s * t))
    assert same(state.scaled(1), state)
    assert all(dense(o).abs().max() == 0 for o in state.scaled(0).offsets.values())


@settings(deadline=None, max_examples=20)
@given(st.data())
def test_slices_of_a_composition_are_compositions_of_slices(data: st.DataObject) -> None:
    a, b = (data.draw(states(3)) for _ in range(2))
    whole = a.composed(b).slice(1, 3)
    assert len(whole) == 2
    assert same(whole, a.slice(1, 3).composed(b.slice(1, 3)))
    assert torch.equal(whole.latents_BLD, b.latents_BLD[1:3])


def test_the_later_latents_and_the_later_domain_win() -> None:
    first = GeneratorState(latents_BLD=torch.zeros(1, 10, 4), domain="portraits")
    second = GeneratorState(latents_BLD=torch.ones(1, 10, 4))
    assert first.composed(second).domain == "portraits"
    assert torch.equal(first.composed(second).latents_BLD, second.latents_BLD)
    third = GeneratorState(latents_BLD=torch.ones(1, 10, 4), domain="sketches")
    assert first.composed(third).domain == "sketches"


def test_a_state_moves_with_all_its_tensors() -> None:
    offsets = {0: offset(0, 1, 1), 1: factorised(1, 1)}
    state = GeneratorState(latents_BLD=torch.zeros(1, 10, 4), offsets=offsets, domain="portraits").to("meta")
    assert state.latents_BLD.is_meta and all(dense(o).is_meta for o in state.offsets.values()) and state.domain == "portraits"


@pytest.mark.parametrize("shape", [(3, 2, 3, 1, 1), (2, 2, 3, 1), (2, 2, 3, 2, 2), (2, 2, 3, 1, 3)])
def test_a_wrong_offset_is_named(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"offset 4 must have shape \(2 or 1, out, in, k, k\)"):
        GeneratorState(latents_BLD=torch.zeros(2, 10, 4), offsets={4: torch.zeros(shape)})


def test_latents_must_have_three_axes() -> None:
    with pytest.raises(ValueError, match=r"\(B, L, D\), found \(2, 4\)"):
        GeneratorState(latents_BLD=torch.zeros(2, 4))


def test_states_of_other_batches_do_not_compose() -> None:
    one, two = (GeneratorState(latents_BLD=torch.zeros(n, 10, 4)) for n in (1, 2))
    with pytest.raises(ValueError, match="state of 1 images with one of 2"):
        one.composed(two)


@settings(deadline=None, max_examples=40)
@given(st.data(), batches)
def test_taking_rows_is_slicing_in_any_order(data: st.DataObject, batch: int) -> None:
    state = data.draw(states(batch))
    rows = data.draw(st.lists(st.integers(0, batch - 1), min_size=1, max_size=4))
    taken = state.take(torch.tensor(rows))
    assert len(taken) == len(rows) and taken.domain == state.domain
    for place, row in enumerate(rows):
        assert same(taken.slice(place, place + 1), state.slice(row, row + 1))
        assert torch.equal(taken.latents_BLD[place], state.latents_BLD[row])
    assert {i for i, o in taken.offsets.items() if o.shape[0] == 1} >= {i for i, o in state.offsets.items() if o.shape[0] == 1}


@settings(deadline=None, max_examples=40)
@given(st.data(), st.lists(batches, min_size=1, max_size=3))
def test_joining_puts_states_one_after_the_other(data: st.DataObject, sizes: list[int]) -> None:
    seeds, layers, kernel = st.integers(0, 1000), data.draw(indices), data.draw(kernels)
    parts = [
        GeneratorState(
            latents_BLD=torch.randn(size, 10, 4), domain="sketches",
            offsets={i: offset(data.draw(seeds), data.draw(st.sampled_from([1, size])), kernel) for i in layers},
        )
        for size in sizes
    ]  # fmt: skip
    whole, start = GeneratorState.joined(parts), 0
    assert len(whole) == sum(sizes) and whole.domain == "sketches"
    for part, size in zip(parts, sizes, strict=True):
        assert same(whole.slice(start, start + size), part)
        assert torch.equal(whole.latents_BLD[start : start + size], part.latents_BLD)
        start += size


@pytest.mark.parametrize("shared", [True, False])
def test_factorised_offsets_stay_so_where_they_have_the_same_matrix(shared: bool) -> None:
    first, second = factorised(1, 2), factorised(2, 3)
    if shared:
        second = replace(second, shared_OI=first.shared_OI)
    parts = [GeneratorState(latents_BLD=torch.zeros(len(one.out_BO), 10, 4), offsets={0: one}) for one in (first, second)]
    joined = GeneratorState.joined(parts).offsets[0]
    assert isinstance(joined, FactorisedOffset) == shared
    assert torch.allclose(dense(joined), torch.cat([first.dense(), second.dense()]))


def test_factorised_offsets_of_a_whole_batch_join_those_of_single_pictures() -> None:
    first, second = factorised(1, 1), factorised(2, 3)
    second = replace(second, shared_OI=first.shared_OI)
    parts = [GeneratorState(latents_BLD=torch.zeros(size, 10, 4), offsets={0: one}) for size, one in ((2, first), (3, second))]
    joined = GeneratorState.joined(parts)
    assert isinstance(joined.offsets[0], FactorisedOffset) and len(joined) == 5
    assert torch.allclose(dense(joined.offsets[0]), torch.cat([first.dense(), first.dense(), second.dense()]))


@pytest.mark.parametrize("one", [offset(3, 1, 1), factorised(1, 1)], ids=["dense", "factorised"])
def test_an_offset_of_the_whole_batch_stays_one(one: AnyOffset) -> None:
    parts = [GeneratorState(latents_BLD=torch.zeros(n, 10, 4), offsets={2: one}) for n in (2, 3)]
    assert GeneratorState.joined(parts).offsets[2] is one
