"""The four graphs of an edit, and what a backend makes of one: encoder, the hypernetwork's trunk and its heads, editing generator.

Shape legend: B batch, C channels, H/W rows/columns, L latent slots, D style width, E text embedding, O/I output/input channels.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal, Protocol, TypedDict

import torch
from torch import Tensor, nn

from models.encoders import Encoder4Editing, WEncoder
from models.hypereditor import HyperEditor
from models.layers import sides
from models.state import GeneratorState
from models.stylegan2 import Generator
from trt_engines.editing_generator import EditingGenerator, OffsetVectors, Trunk, offsets_of, shared_offsets
from trt_engines.half import HalfNetwork, Tensors, autocast

GraphName = Literal["encoder", "trunk", "heads", "generator"]


class BackendError(RuntimeError):
    """A backend cannot run a graph here; the message says why and what would."""


class Runner(Protocol):
    """Run one graph: its inputs in order, each with the same batch in front, to its outputs in order."""

    def __call__(self, *inputs: Tensor) -> Tensors:
        """Return outputs on the device of the inputs; they stay valid after later calls."""
        ...


class Load(Protocol):
    """Make a runner of a graph."""

    def __call__(self, graph: Graph, *, device: str, batch_size: int) -> Runner:
        """Return a runner on `device` that is best at `batch_size`. Raises BackendError with the reason."""
        ...


@dataclass(frozen=True, kw_only=True, eq=False)
class Graph:
    """One network as a function of float32 tensors with a common batch in front.

    `module` is what backends compile or export; `plain` computes the same by the project's own networks, as the reference; `examples`
    makes inputs for a batch from a seeded generator of random numbers. `inputs` are names and shapes without the batch. `kind` is the
    half precision that both compute in, None for float32.
    """

    name: GraphName
    module: nn.Module = field(repr=False)
    plain: Callable[..., Tensors]
    inputs: Mapping[str, tuple[int, ...]]
    outputs: tuple[str, ...]
    examples: Callable[[int, torch.Generator], Tensors]
    kind: torch.dtype | None = None

    def example(self, batch: int, *, seed: int = 0, device: str = "cpu") -> Tensors:
        """Return inputs as the graph meets them, equal for equal seeds on every device."""
        with torch.no_grad():
            return tuple(value.to(device) for value in self.examples(batch, torch.Generator().manual_seed(seed)))


def encoder_graph(encoder: Encoder4Editing | WEncoder, kind: torch.dtype | None = None) -> Graph:
    """Return the graph from images (B, 3, H, W) to residuals (B, L, D)."""
    shape = (3, *sides(encoder.input_size))
    return Graph(
        name="encoder",
        inputs={"image": shape},
        outputs=("residual",),
        examples=lambda batch, seeded: (_pictures(batch, shape, seeded),),
        **_in_kind(encoder, lambda image_BCHW: (encoder(image_BCHW),), kind),
    )


def trunk_graph(hypernetwork: HyperEditor, kind: torch.dtype | None = None) -> Graph:
    """Return the graph from reconstructions (B, 3, H, W) to features, once for all instructions."""
    shape = (3, *sides(hypernetwork.input_size))
    return Graph(
        name="trunk",
        inputs={"image": shape},
        outputs=("seen",),
        examples=lambda batch, seeded: (_pictures(batch, shape, seeded),),
        **_in_kind(Trunk(hypernetwork), lambda image_BCHW: (hypernetwork.seen(image_BCHW),), kind),
    )


def heads_graph(hypernetwork: HyperEditor, kind: torch.dtype | None = None) -> Graph:
    """Return the graph from the trunk's features and text directions (B, E) to the offsets' vectors."""
    vectors = OffsetVectors(hypernetwork)

    def examples(batch: int, seeded: torch.Generator) -> Tensors:
        return _seen(hypernetwork, batch, seeded), _directions(hypernetwork, batch, seeded)

    return Graph(
        name="heads",
        inputs={"seen": tuple(_seen(hypernetwork, 1, torch.Generator()).shape[1:]), "direction": (hypernetwork.text_dim,)},
        outputs=("outs", "ins"),
        examples=examples,
        **_in_kind(vectors, vectors.forward, kind),
    )


def generator_graph(generator: Generator, hypernetwork: HyperEditor, kind: torch.dtype | None = None) -> Graph:
    """Return the graph from latents (B, L, D), strengths (B, 1) and vectors to images (B, 3, H, W).

    Its reference is the generator as it is: halved for a half precision. Raises ValueError where the hypernetwork's offsets are not
    factorised, or the generator runs in another precision.
    """
    if kind != generator.kind:
        raise ValueError(f"the generator computes in {generator.kind or torch.float32}, its graph should in {kind or torch.float32}")
    shared = shared_offsets(hypernetwork)
    module = EditingGenerator(generator, shared)

    def plain(latents_BLD: Tensor, strength_B1: Tensor, outs: Tensor, ins: Tensor) -> Tensors:
        strength = float(strength_B1[0])  # a state has one constant part for all of its pictures
        assert bool((strength_B1 == strength).all()), "the reference takes one strength for the whole batch"
        return (generator(GeneratorState(latents_BLD=latents_BLD, offsets=offsets_of(shared, outs, ins)).scaled(strength)),)

    def examples(batch: int, seeded: torch.Generator) -> Tensors:
        weight = generator.conv1.conv.weight
        latents = generator.repeat(generator.mapping(torch.randn(batch, generator.style_dim, generator=seeded).to(weight)))
        vectors = OffsetVectors(hypernetwork)(_seen(hypernetwork, batch, seeded), _directions(hypernetwork, batch, seeded))
        return (latents, (torch.rand(1, 1, generator=seeded) + 0.5).expand(batch, 1), *vectors)

    return Graph(
        name="generator",
        module=module,
        plain=plain,
        inputs={
            "latents": (generator.n_latents, generator.style_dim), "strength": (1,), "outs": (sum(module.outs),), "ins": (sum(module.ins),),
        },
        outputs=("image",),
        examples=examples,
        kind=kind,
    )  # fmt: skip


class _InKind(TypedDict):
    module: nn.Module
    plain: Callable[..., Tensors]
    kind: torch.dtype | None


def _in_kind(module: nn.Module, plain: Callable[..., Tensors], kind: torch.dtype | None) -> _InKind:
    """Return the part of a graph that depends on its precision."""
    if kind is None:
        return {"module": module, "plain": plain, "kind": None}
    return {"module": HalfNetwork(module, kind), "plain": autocast(plain, kind), "kind": kind}


def _pictures(batch: int, shape: tuple[int, ...], seeded: torch.Generator) -> Tensor:
    return torch.rand(batch, *shape, generator=seeded) * 2 - 1


@torch.no_grad()
def _seen(hypernetwork: HyperEditor, batch: int, seeded: torch.Generator) -> Tensor:
    """Return the trunk's features of random pictures."""
    weight = next(hypernetwork.parameters())
    return hypernetwork.seen(_pictures(batch, (3, *sides(hypernetwork.input_size)), seeded).to(weight))


def _directions(hypernetwork: HyperEditor, batch: int, seeded: torch.Generator) -> Tensor:
    return torch.randn(batch, hypernetwork.text_dim, generator=seeded).to(next(hypernetwork.parameters()))
