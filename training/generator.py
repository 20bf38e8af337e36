"""Teach a StyleGAN2 generator from the renderer, which can be asked for the exact picture of any latent; there is no adversary.

The synthesis network learns to paint a portrait from its w, a fixed orthonormal embedding of the portrait's parameters, so that W has
the world's factors as directions: first by pixels, then (`refine`) also by the features of the pack's CLIP and on portraits on which
rare attributes are as frequent as common ones, because pixels alone leave glasses and wrinkles out: they are small and seldom there.
The mapping network learns to take Gaussian noise to the w of the portrait that the noise names.
Taught together, through an untrained mapping, the same networks needed several times longer: the picture stayed an average face.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from models.clip import ClipModel
from models.stylegan2 import Generator
from portraits import ATTRIBUTE_GROUPS, ATTRIBUTE_NAMES, IDENTITY_NAMES, Parameters, parameters_from_latent, render_aligned
from portraits.parameters import NAMES, NUISANCE_NAMES
from training.data import HELD_OUT, seeded
from training.loop import Average, Log, cosine, half_precision, set_rate

SOFTNESS = 0.08
"""Width (in sigmas) of the ramp that replaces a hard decision, so that the generator need not learn a jump."""
HUES = tuple(name for name in NUISANCE_NAMES if name.endswith("_hue"))
CENTRE = torch.tensor([0.0 if name in IDENTITY_NAMES + NUISANCE_NAMES else 0.3 for name in NAMES])
SPREAD = torch.tensor([1.7 if name in IDENTITY_NAMES + NUISANCE_NAMES else 2.2 for name in NAMES])


@dataclass(frozen=True, kw_only=True)
class GeneratorConfig:
    """Settings of the generator's training."""

    size: int = 64
    style_dim: int = 128
    n_mlp: int = 4
    channels: Mapping[int, int] = field(default_factory=lambda: {4: 192, 8: 192, 16: 128, 32: 72, 64: 32})
    steps: int = 8000
    batch: int = 16
    rate: float = 5e-3
    edges: float = 1.0
    seed: int = 41
    measured: int = 1000


@dataclass(frozen=True, kw_only=True)
class RefineConfig:
    """Settings of the second phase."""

    steps: int = 6500
    batch: int = 16
    rate: float = 3e-3
    edges: float = 1.0
    features: float = 1.0
    mapping_steps: int = 8000
    mapping_batch: int = 256
    mapping_rate: float = 4.0  # over the mapping network's learning-rate multiplier of 0.01
    seed: int = 42
    measured: int = 1000


def teacher_parameters(z_BD: Tensor, *, softness: float = SOFTNESS) -> Parameters:
    """Return the portraits that latents z name; only z's direction counts, as in the mapping network's pixel norm."""
    return parameters_from_latent(z_BD * (z_BD.square().mean(1, keepdim=True) + 1e-8).rsqrt(), softness=softness)


def portrait_latents(p: Parameters, style_dim: int) -> Tensor:
    """Return w (B, D) of portraits: their parameters, hues as points on a circle, in a fixed random orthonormal basis."""
    hues = p.columns(HUES) * torch.pi
    code = torch.cat([(p.values - CENTRE) * SPREAD, hues.cos(), hues.sin()], 1)
    basis = torch.linalg.qr(torch.randn(style_dim, style_dim, generator=seeded(0)))[0][: code.shape[1]]
    return code @ basis


def face_weight(size: int) -> Tensor:
    """Return a map (1, 1, size, size) that counts eyes, nose and mouth up to three times, mean 1."""
    axis = (torch.arange(size) + 0.5) * (2 / size) - 1
    bump = torch.exp(-((axis[None, :] / 0.45) ** 2) - ((axis[:, None] - 0.12) / 0.45) ** 2)
    weight = 1 + 2 * bump
    return (weight / weight.mean())[None, None]


def picture_loss(made: Tensor, wanted: Tensor, weight: Tensor, *, edges: float) -> Tensor:
    """Return the weighted absolute error of the picture and of its horizontal and vertical differences."""
    error = made - wanted
    dx, dy = error[..., 1:] - error[..., :-1], error[..., 1:, :] - error[..., :-1, :]
    sharp = (dx.abs() * weight[..., 1:]).mean() + (dy.abs() * weight[..., 1:, :]).mean()
    return (error.abs() * weight).mean() + edges * sharp


def train(config: GeneratorConfig, folder: Path) -> tuple[Generator, dict[str, float]]:
    """Train and measure on held-out latents; returns the averaged generator and its numbers."""
    torch.manual_seed(config.seed)
    net = Generator(config.size, config.style_dim, config.n_mlp, channels=config.channels)
    synthesis = [p for name, p in net.named_parameters() if not name.startswith("style.")]
    optimizer = torch.optim.Adam(synthesis, lr=config.rate, betas=(0.9, 0.99))
    average, generator, weight = Average(net, decay=0.998), seeded(config.seed), face_weight(config.size)
    log = Log(folder / "generator.jsonl", name="generator", steps=config.steps)
    for step in range(config.steps):
        set_rate(optimizer, config.rate * cosine(step, steps=config.steps))
        p = teacher_parameters(torch.randn(config.batch, config.style_dim, generator=generator))
        wanted = render_aligned(p, size=config.size)
        with half_precision():
            made = net.synthesis(net.repeat(portrait_latents(p, config.style_dim)))
        loss = picture_loss(made.float(), wanted, weight, edges=config.edges)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        average.update(net)
        if step % 100 == 0 or step + 1 == config.steps:
            log(step, loss=loss.item())
        if step % 500 == 499:
            torch.save(average.state, folder / "generator.partial.pt")
    net.load_state_dict(average.state)
    numbers = measure(net.eval(), seed=HELD_OUT + 4, pictures=config.measured)
    log(config.steps, **numbers)
    return net, numbers | {"training_s": round(log.seconds, 1)}


def train_mapping(config: RefineConfig, net: Generator, *, generator: torch.Generator) -> None:
    """Fit the mapping network alone, so that w = mapping(z) is the code of the portrait that z names."""
    optimizer = torch.optim.Adam(net.style.parameters(), lr=config.mapping_rate, betas=(0.9, 0.99))
    for step in range(config.mapping_steps):
        set_rate(optimizer, config.mapping_rate * cosine(step, steps=config.mapping_steps))
        z = torch.randn(config.mapping_batch, net.style_dim, generator=generator)
        loss = F.mse_loss(net.mapping(z), portrait_latents(teacher_parameters(z), net.style_dim))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def balanced(p: Parameters, *, generator: torch.Generator) -> Parameters:
    """Draw attributes anew: every member of a group as often as the others, every other attribute on four portraits of ten."""
    n = len(p)
    amounts = 0.7 + 0.3 * torch.rand(n, len(ATTRIBUTE_NAMES), generator=generator)
    changes: dict[str, Tensor] = {}
    for members in ATTRIBUTE_GROUPS.values():
        chosen = F.one_hot(torch.randint(len(members), (n,), generator=generator), len(members)).float()
        changes |= {name: chosen[:, i] for i, name in enumerate(members)}
    for name in ATTRIBUTE_NAMES:
        if name not in changes:
            changes[name] = (torch.rand(n, generator=generator) < (0.15 if name in ("bald", "hat") else 0.4)).float()
    values = {name: change * (amounts[:, i] if i else 1.0) for i, (name, change) in enumerate(changes.items())}
    return p.with_table(values)


def feature_loss(clip: ClipModel, made: Tensor, wanted: Tensor) -> Tensor:
    """Return the squared distance of unit-length features at three depths of CLIP's picture tower (as LPIPS, unweighted)."""
    total = made.new_zeros(())
    for a, b in zip(clip.feature_maps(made), clip.feature_maps(wanted), strict=True):
        total = total + (F.normalize(a.float(), dim=1) - F.normalize(b.float(), dim=1)).square().sum(1).mean()
    return total


def refine(config: RefineConfig, folder: Path, *, net: Generator, clip: ClipModel) -> tuple[Generator, dict[str, float]]:
    """Go on with features and balanced attributes; returns the averaged generator and its numbers."""
    torch.manual_seed(config.seed)
    net.train().requires_grad_(True)
    synthesis = [p for name, p in net.named_parameters() if not name.startswith("style.")]
    optimizer = torch.optim.Adam(synthesis, lr=config.rate, betas=(0.9, 0.99))
    average, generator, weight = Average(net, decay=0.998), seeded(config.seed), face_weight(net.size)
    log = Log(folder / "refine.jsonl", name="refine", steps=config.steps)
    for step in range(config.steps):
        set_rate(optimizer, config.rate * cosine(step, steps=config.steps))
        p = teacher_parameters(torch.randn(config.batch, net.style_dim, generator=generator))
        p = balanced(p, generator=generator) if step % 2 else p
        wanted = render_aligned(p, size=net.size)
        with half_precision():
            made = net.synthesis(net.repeat(portrait_latents(p, net.style_dim)))
            features = feature_loss(clip, made, wanted)
        pixels = picture_loss(made.float(), wanted, weight, edges=config.edges)
        optimizer.zero_grad()
        (pixels + config.features * features).backward()
        optimizer.step()
        average.update(net)
        if step % 100 == 0 or step + 1 == config.steps:
            log(step, pixels=pixels.item(), features=features.item())
        if step % 500 == 499:
            torch.save(average.state, folder / "refine.partial.pt")
    net.load_state_dict(average.state)
    train_mapping(config, net, generator=generator)
    numbers = measure(net.eval(), seed=HELD_OUT + 4, pictures=config.measured)
    log(config.steps, **numbers)
    return net, numbers | {"training_s": round(log.seconds, 1)}


@torch.no_grad()
def measure(net: Generator, *, seed: int, pictures: int = 1000) -> dict[str, float]:
    """Return how closely held-out portraits are painted, in [-1, 1] and dB, and the mapping's squared error over W's variance."""
    z = torch.randn(pictures, net.style_dim, generator=seeded(seed))
    p = teacher_parameters(z)
    w = portrait_latents(p, net.style_dim)
    made = torch.cat([net.synthesis(net.repeat(part)) for part in w.split(100)])
    wanted = render_aligned(p, size=net.size)
    mse = (made.clamp(-1, 1) - wanted).square().mean((1, 2, 3))
    unexplained = (net.mapping(z) - w).square().mean() / w.var(0).mean()
    return {
        "l1": float((made - wanted).abs().mean()),
        "psnr_db": float((10 * torch.log10(4 / mse)).mean()),
        "mapping_error": float(unexplained),
    }
