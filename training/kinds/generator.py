"""Teach a StyleGAN2 generator from the renderer, which can be asked for the exact picture of any latent; there is no adversary.

The synthesis network learns to paint a portrait from its w, a fixed orthonormal embedding of the portrait's parameters, so that W has
the world's factors as directions: first by pixels, then (`go_on`) also by the features of the pack's CLIP and on portraits on which
rare attributes are as frequent as common ones, because pixels alone leave glasses and wrinkles out: they are small and seldom there.
The mapping network is taught apart (training/kinds/mapping.py): taught together, through an untrained mapping, the same networks needed
several times longer, since the picture stayed an average face.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn import functional as F

from models.clip import ClipModel
from models.stylegan2 import Generator
from portraits import (
    ATTRIBUTE_GROUPS,
    ATTRIBUTE_NAMES,
    IDENTITY_NAMES,
    Parameters,
    parameters_from_latent,
    render_aligned,
    sample_parameters,
)
from portraits.parameters import NAMES, NUISANCE_NAMES
from training.data import SEEDS, VALIDATION, device_of, seeded
from training.objective import Kind, Objective, Setting, Split, cosine
from training.share import Share

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
    features: float = 0.0
    """Weight of the difference of CLIP's feature maps; 0 needs no CLIP."""
    go_on: bool = False
    """Start from the pack's generator, on portraits of which every other batch is balanced."""
    seed: int = 41
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


class GeneratorObjective(Objective[Parameters]):
    """Paint the renderer's picture of a portrait from the portrait's code."""

    average = 0.998

    def __init__(self, config: GeneratorConfig, setting: Setting) -> None:
        super().__init__(setting)
        self.config, self.steps, self.batch, self.seed = config, config.steps, config.batch, config.seed
        self.clip = (setting.needed("a loss of CLIP's features").clip(),) if config.features else ()
        torch.manual_seed(config.seed)
        self.net: Generator = Generator.from_config(self.network_config())
        if config.go_on:
            self.net.load_state_dict(setting.needed("going on with a generator").generator().state_dict())
        for name, parameter in self.net.named_parameters():
            parameter.requires_grad_(not name.startswith("style."))
        self.weight = face_weight(config.size)

    def optimizer(self) -> torch.optim.Optimizer:
        """Return Adam of the synthesis network."""
        synthesis = [parameter for parameter in self.net.parameters() if parameter.requires_grad]
        return torch.optim.Adam(synthesis, lr=self.config.rate, betas=(0.9, 0.99))

    def rate(self, step: int) -> float:
        """Return a cosine schedule."""
        return self.config.rate * cosine(step, steps=self.steps)

    def draw(self, share: Share) -> Parameters:
        """Draw portraits."""
        stream = share.stream()
        p = teacher_parameters(torch.randn(share.batch, self.config.style_dim, generator=stream))
        p = balanced(p, generator=stream) if self.config.go_on and share.step % 2 else p
        return p.slice(slice(share.first, share.first + share.count))

    def forward(self, batch: Parameters) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss of pixels, edges and, where asked for, features."""
        config, device = self.config, self.setting.group.device
        wanted = render_aligned(batch, size=config.size).to(device)
        with self.mixed_precision():
            made = self.net.synthesis(self.net.repeat(portrait_latents(batch, config.style_dim).to(device)))
            features = feature_loss(self.clip[0], made, wanted) if self.clip else made.new_zeros(())
        pixels = picture_loss(made.float(), wanted, self.weight.to(device), edges=config.edges)
        return pixels + config.features * features, {"pixels": pixels} | ({"features": features} if self.clip else {})

    def measure(self, split: Split) -> dict[str, float]:
        """Return how closely unseen portraits are painted."""
        return measure(self.net, seed=SEEDS[split] + 4, pictures=self.config.measured)

    def score(self, numbers: Mapping[str, float]) -> float:
        """Return the PSNR."""
        return numbers["psnr_db"]

    def network_config(self) -> Mapping[str, object]:
        """Return the generator's shape."""
        config = self.config
        return {"size": config.size, "style_dim": config.style_dim, "n_mlp": config.n_mlp, "channels": dict(config.channels)}

    def extra(self) -> Mapping[str, Tensor]:
        """Return the mean latent."""
        return {"latent_avg": self.net.mean_latent()}

    def sheet(self) -> Tensor:
        """Return portraits beside the generator's pictures of them."""
        p = sample_parameters(8, seeded(VALIDATION))
        device = device_of(self.net)
        made = self.net.synthesis(self.net.repeat(portrait_latents(p, self.net.style_dim).to(device))).clamp(-1, 1)
        return torch.stack([render_aligned(p, size=self.net.size).to(device), made], 1)


@torch.no_grad()
def measure(net: Generator, *, seed: int, pictures: int = 1000) -> dict[str, float]:
    """Return how closely held-out portraits are painted, in [-1, 1] and dB, and the mapping's squared error over W's variance."""
    device = device_of(net)
    z = torch.randn(pictures, net.style_dim, generator=seeded(seed))
    p = teacher_parameters(z)
    w = portrait_latents(p, net.style_dim)
    made = torch.cat([net.synthesis(net.repeat(part.to(device))).cpu() for part in w.split(100)])
    wanted = render_aligned(p, size=net.size)
    mse = (made.clamp(-1, 1) - wanted).square().mean((1, 2, 3))
    unexplained = (net.mapping(z.to(device)).cpu() - w).square().mean() / w.var(0).mean()
    return {
        "l1": float((made - wanted).abs().mean()),
        "psnr_db": float((10 * torch.log10(4 / mse)).mean()),
        "mapping_error": float(unexplained),
    }


KIND = Kind(
    config=GeneratorConfig, objective=GeneratorObjective, network="generator", summary="StyleGAN2 synthesis network, taught by the renderer"
)
