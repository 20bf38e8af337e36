"""Directions in W that edit an attribute, found in three ways: from labels, from the spread of W, from the generator's weights."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, get_args

import torch
from torch import Tensor

from models.directions import BATCH, Directions, Labels, ganspace, interfacegan, sefa

if TYPE_CHECKING:
    from models.pack import Pack

Method = Literal["interfacegan", "ganspace", "sefa"]
METHODS: tuple[Method, ...] = get_args(Method)
COMPONENTS = 20
"""First directions of GANSpace and SeFa among which that of an attribute is looked for."""
SAMPLES = 50
"""Random latents that are moved along each of them."""
LABELLED = 4000
"""Generated pictures whose labels teach InterFaceGAN."""
DEVIATIONS = 2.0


def attribute_direction(pack: Pack, attribute: str, *, method: Method, labelled: int = LABELLED) -> Directions:
    """Return the direction (1, D) along which an attribute rises; the pack's own classifier gives the labels.

    InterFaceGAN learns from `labelled` generated pictures; of GANSpace and SeFa, which know no labels, it is the component that changes
    the attribute most. Raises ValueError for an attribute that the classifier does not know.
    """
    net, generator = pack.attributes(), pack.generator()
    if attribute not in net.names:
        raise ValueError(f"no attribute {attribute!r}; the pack's classifier knows {', '.join(net.names)}")
    column = net.names.index(attribute)

    def labels(image_BCHW: Tensor) -> Tensor:
        return net.probabilities(image_BCHW)[:, column]

    if method == "interfacegan":
        return interfacegan(generator, labels, samples=labelled)
    found = ganspace(generator, n=COMPONENTS) if method == "ganspace" else sefa(generator, n=COMPONENTS)
    return strongest(pack, found, labels)


@torch.no_grad()
def strongest(pack: Pack, directions: Directions, labels: Labels) -> Directions:
    """Return the direction of those given that changes a label most, (1, D), turned so that the label rises along it."""
    generator = pack.generator()
    z = torch.randn(SAMPLES, generator.style_dim, generator=torch.Generator().manual_seed(2))
    latents = generator.repeat(generator.mapping(z.to(generator.input.input)))
    changes = []
    for which in range(len(directions.vectors_KD)):
        one = Directions(vectors_KD=directions.vectors_KD[which : which + 1], slots=directions.slots)
        step = DEVIATIONS * spread(pack, one)
        shown = [
            torch.cat([labels(generator.synthesis(one.moved(part, amount)).clamp(-1, 1)) for part in latents.split(BATCH)]).mean()
            for amount in (-step, step)
        ]
        changes.append(float(shown[1] - shown[0]))
    best = max(range(len(changes)), key=lambda which: abs(changes[which]))
    turned = directions.vectors_KD[best : best + 1] * (1 if changes[best] >= 0 else -1)
    return Directions(vectors_KD=turned, slots=directions.slots)


@torch.no_grad()
def spread(pack: Pack, direction: Directions, *, samples: int = 1000) -> float:
    """Return the standard deviation of W along a direction."""
    generator = pack.generator()
    z = torch.randn(samples, generator.style_dim, generator=torch.Generator().manual_seed(1))
    w = generator.mapping(z.to(generator.input.input))
    return float((w @ direction.vectors_KD[0].to(w)).std())
