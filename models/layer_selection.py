"""HyperEditor's adaptive layer selector: which generator layers an instruction needs.

Shape legend: L latent slots, N random latents, D style width. Source: HyperEditor section 3.4, eq. 6.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from models.instruction import Instruction
from models.losses.clip import directional_clip_loss
from models.optimisation import gradients
from models.stylegan2 import Generator

if TYPE_CHECKING:
    from models.clip import ClipModel

Steps = Literal["adam", "gradient"]
DEFAULT_LAMBDA_STD = 0.6
STEPS = 10
RATE = 0.01
SAMPLES = 16


def chosen_slots(movement_L: Tensor, *, lambda_std: float = DEFAULT_LAMBDA_STD, as_released: bool = False) -> Tensor:
    """Return for every slot but the last whether it moved enough to be edited, (L - 1,) of bool.

    `movement_L` is the mean absolute change of each slot's latent; a slot is chosen from mean + `lambda_std` * deviation on. The paper
    takes mean and population deviation over the slots that can be chosen, the released code (`as_released`) mean and sample deviation
    over all. Raises ValueError for anything but one number per slot.
    """
    if movement_L.ndim != 1 or len(movement_L) < 3:
        raise ValueError(f"layer selector: expected one movement for each of 3 or more slots, found shape {tuple(movement_L.shape)}")
    eligible = movement_L[:-1]
    measured = movement_L if as_released else eligible
    return eligible >= measured.mean() + lambda_std * measured.std(correction=1 if as_released else 0)


def movement(generator: Generator, clip: ClipModel, instruction: Instruction, *, by: Steps = "adam", seed: int = 0) -> Tensor:
    """Return how far the directional CLIP loss moves each slot of random W+ codes, (L,), mean absolute change.

    `adam` is the paper's, ten steps; they have one size whatever the gradient, so all slots move almost equally far. `gradient` is the
    slope of the picture's embedding along the text direction, which is what that loss follows at first, and tells the slots apart.
    """
    with gradients():
        source, target = clip.embed_texts([instruction.source]), clip.embed_texts([instruction.target])
        direction_1E = (target - source).detach().clone()
        z = torch.randn(SAMPLES, generator.style_dim, generator=torch.Generator().manual_seed(seed))
        start = generator.repeat(generator.mapping(z.to(generator.input.input))).detach().clone()
        latents = start.clone().requires_grad_()
        before = clip.embed_images(generator.synthesis(latents).clamp(-1, 1))
        if by == "gradient":
            return torch.autograd.grad(F.cosine_similarity(before, direction_1E).sum(), [latents])[0].abs().mean((0, 2))
        optimizer = torch.optim.Adam([latents], lr=RATE)
        for _ in range(STEPS):
            after = clip.embed_images(generator.synthesis(latents).clamp(-1, 1))
            (latents.grad,) = torch.autograd.grad(directional_clip_loss(after, before.detach(), direction_1E).mean(), [latents])
            optimizer.step()
        return (latents.detach() - start).abs().mean((0, 2))


def selected_layers(
    generator: Generator, clip: ClipModel, instructions: Sequence[Instruction], *, lambda_std: float = DEFAULT_LAMBDA_STD,
    by: Steps = "adam",
) -> list[int]:  # fmt: skip
    """Return the output indices of the convolutions whose slot any of the instructions needs. Raises ValueError where that is none."""
    chosen = torch.stack([chosen_slots(movement(generator, clip, one, by=by), lambda_std=lambda_std) for one in instructions]).any(0)
    wanted = set(chosen.nonzero().flatten().tolist())
    found = [layer.index for layer in generator.layers if layer.kind == "conv" and layer.latent in wanted]
    if not found:
        raise ValueError(f"layer selector: no slot moves far enough for lambda_std {lambda_std:g}; choose a smaller one, 0.6 in the paper")
    return found
