"""Teach the mapping network of the pack's generator to take Gaussian noise to the code of the portrait that the noise names."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from models.stylegan2 import Generator
from training.data import SEEDS, VALIDATION, device_of, seeded
from training.kinds.generator import measure, portrait_latents, teacher_parameters
from training.objective import Kind, Objective, Setting, Split, cosine
from training.share import Share


@dataclass(frozen=True, kw_only=True)
class MappingConfig:
    """Settings of the mapping network's training."""

    steps: int = 8000
    batch: int = 256
    rate: float = 4.0
    """Over the mapping network's learning-rate multiplier of 0.01."""
    seed: int = 43
    measured: int = 1000


class MappingObjective(Objective[Tensor]):
    """Squared error of the code; the synthesis network stays as it is."""

    def __init__(self, config: MappingConfig, setting: Setting) -> None:
        super().__init__(setting)
        self.config, self.steps, self.batch, self.seed = config, config.steps, config.batch, config.seed
        pack = setting.needed("the mapping network's training")
        self.shape = pack.info.networks["generator"].config
        self.net: Generator = Generator.from_config(self.shape)
        self.net.load_state_dict(pack.generator().state_dict())
        for name, parameter in self.net.named_parameters():
            parameter.requires_grad_(name.startswith("style."))

    def optimizer(self) -> torch.optim.Optimizer:
        """Return Adam of the mapping network."""
        return torch.optim.Adam(self.net.style.parameters(), lr=self.config.rate, betas=(0.9, 0.99))

    def rate(self, step: int) -> float:
        """Return a cosine schedule."""
        return self.config.rate * cosine(step, steps=self.steps)

    def draw(self, share: Share) -> Tensor:
        """Draw noise (B, D)."""
        return share.own(torch.randn(share.batch, self.net.style_dim, generator=share.stream()))

    def forward(self, batch: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the squared error of w."""
        device = self.setting.group.device
        wanted = portrait_latents(teacher_parameters(batch), self.net.style_dim)
        return F.mse_loss(self.net.mapping(batch.to(device)), wanted.to(device)), {}

    def measure(self, split: Split) -> dict[str, float]:
        """Return the mapping's error and how closely portraits are painted."""
        return measure(self.net, seed=SEEDS[split] + 4, pictures=self.config.measured)

    def score(self, numbers: Mapping[str, float]) -> float:
        """Return the negative error."""
        return -numbers["mapping_error"]

    def network_config(self) -> Mapping[str, object]:
        """Return the generator's shape."""
        return self.shape

    def extra(self) -> Mapping[str, Tensor]:
        """Return the mean latent of the trained mapping."""
        return {"latent_avg": self.net.mean_latent()}

    def sheet(self) -> Tensor:
        """Return portraits drawn at random, eight in a row."""
        z = torch.randn(32, self.net.style_dim, generator=seeded(VALIDATION)).to(device_of(self.net))
        return self.net.synthesis(self.net.repeat(self.net.mapping(z))).clamp(-1, 1).unflatten(0, (4, 8))


KIND = Kind(
    config=MappingConfig, objective=MappingObjective, network="generator", summary="mapping network of the generator",
    needs=("generator",),
)  # fmt: skip
