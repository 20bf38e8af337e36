"""Train e4e (into W+) and the W encoder on renders, with the generator and the identity net frozen.

Losses: the known code of every portrait, L1 and edges to the picture, identity (ArcFace features), and for e4e the size of the
differences between slots (e4e eq. 5), so that codes stay close to W where editing works. A third of each batch are the generator's own
pictures. Differs from e4e: LPIPS is replaced by the pictures' differences, since no pretrained AlexNet can ship; there is no latent
discriminator, since known codes hold W+ to W; the losses that need the generator are taken on every `picture_every`-th step.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from models.encoders import Encoder4Editing, WEncoder
from models.perception import AttributeNet, IdentityNet
from models.stylegan2 import Generator
from portraits import parameters_from_latent
from training.data import HELD_OUT, aligned_bank, seeded, to_float, wear
from training.generator import face_weight, picture_loss, portrait_latents
from training.loop import Average, Log, batches, cosine, half_precision, set_rate


@dataclass(frozen=True, kw_only=True)
class EncoderConfig:
    """Settings of an encoder's training."""

    kind: Literal["e4e", "w"] = "e4e"
    input_size: int = 64
    widths: Sequence[int] = (24, 48, 96, 128)
    depths: Sequence[int] = (1, 1, 2, 1)
    style_width: int = 64
    pictures: int = 24_000
    steps: int = 3000
    batch: int = 24
    rate: float = 1.5e-3
    identity: float = 0.5
    code: float = 10.0
    delta: float = 2e-3
    picture_every: int = 3
    seed: int = 61


def build(config: EncoderConfig, generator: Generator) -> Encoder4Editing | WEncoder:
    """Make the untrained encoder."""
    return (Encoder4Editing if config.kind == "e4e" else WEncoder).from_config(network_config(config, generator))


def network_config(config: EncoderConfig, generator: Generator) -> Mapping[str, object]:
    """Return the constructor arguments that the pack stores."""
    shared = {
        "size": generator.size,
        "input_size": config.input_size,
        "style_dim": generator.style_dim,
        "widths": list(config.widths),
        "depths": list(config.depths),
    }
    return shared | ({"style_width": config.style_width} if config.kind == "e4e" else {})


def train(
    config: EncoderConfig, folder: Path, *, generator: Generator, mean_latent: Tensor, identity: IdentityNet
) -> tuple[Encoder4Editing | WEncoder, dict[str, float]]:
    """Train and measure on held-out people; returns the averaged encoder and its numbers."""
    torch.manual_seed(config.seed)
    net, size, stream = build(config, generator), generator.size, seeded(config.seed)
    p = parameters_from_latent(torch.randn(config.pictures, generator.style_dim, generator=stream))
    bank, known = aligned_bank(p, size=size, seed=config.seed, jitter=0.008), portrait_latents(p, generator.style_dim)
    log = Log(folder / f"{config.kind}.jsonl", name=config.kind, steps=config.steps)
    optimizer = torch.optim.AdamW(net.parameters(), lr=config.rate, weight_decay=0.01, betas=(0.9, 0.98))
    average, weight = Average(net, decay=0.997), face_weight(size)
    figures: dict[str, float] = {}
    for step, rows in zip(range(config.steps), batches(len(bank), batch=config.batch, generator=stream), strict=False):
        set_rate(optimizer, config.rate * cosine(step, steps=config.steps))
        picture = _with_own(generator, to_float(bank[rows]), known[rows])
        with half_precision():
            residual = net(wear(picture, generator=stream, amount=0.5)).float()
        w = residual + mean_latent
        code = F.mse_loss(w, generator.repeat(known[rows]))
        loss = config.code * code + config.delta * (residual - residual[:, :1]).norm(dim=2).mean()
        if step % config.picture_every == 0:
            with half_precision():
                made = generator.synthesis(w).float()
                same = (identity(made).float() * identity(picture).float()).sum(1).mean()
            pixel = picture_loss(made, picture, weight, edges=1.0)
            loss = loss + pixel + config.identity * (1 - same)
            figures = {"picture": pixel.item(), "identity": same.item()}
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimizer.step()
        average.update(net)
        if step % 100 == 0 or step + 1 == config.steps:
            log(step, code=code.item(), **figures)
        if step % 500 == 499:
            torch.save(average.state, folder / f"{config.kind}.partial.pt")
    net.load_state_dict(average.state)
    return net.eval(), {"training_s": round(log.seconds, 1)}


@torch.no_grad()
def _with_own(generator: Generator, renders: Tensor, known_BD: Tensor) -> Tensor:
    """Replace the first third of the renders by the generator's own pictures of the same portraits."""
    n = len(renders) // 3
    return torch.cat([generator.synthesis(generator.repeat(known_BD[:n])).clamp(-1, 1), renders[n:]])


@torch.no_grad()
def measure(
    net: Encoder4Editing | WEncoder, *, generator: Generator, mean_latent: Tensor, identity: IdentityNet, attributes: AttributeNet,
    threshold: float, pictures: int = 1000, seed: int = HELD_OUT + 6,
) -> dict[str, float]:  # fmt: skip
    """Return same-person rate, identity similarity, PSNR and how many attribute decisions survive, on held-out aligned renders."""
    p = parameters_from_latent(torch.randn(pictures, generator.style_dim, generator=seeded(seed)))
    totals: list[Tensor] = []
    for part in aligned_bank(p, size=generator.size, seed=seed).split(100):
        picture = to_float(part)
        made = generator.synthesis(net(picture) + mean_latent).clamp(-1, 1)
        same = (identity(made) * identity(picture)).sum(1)
        psnr = 10 * torch.log10(4 / (made - picture).square().mean((1, 2, 3)))
        kept = ((attributes.probabilities(made) > 0.5) == (attributes.probabilities(picture) > 0.5)).float().mean(1)
        totals.append(torch.stack([(same > threshold).float(), same, psnr, kept], 1))
    rate, similarity, psnr_db, kept_share = torch.cat(totals).mean(0).tolist()
    return {"same_person": rate, "identity": similarity, "psnr_db": psnr_db, "attributes_kept": kept_share}
