"""Train e4e (into W+) and the W encoder on renders, with the generator and the identity net frozen.

Losses: the known code of every portrait, L1 and edges to the picture, identity (ArcFace features), and for e4e the size of the
differences between slots (e4e eq. 5), so that codes stay close to W where editing works. A third of each batch are the generator's own
pictures. Differs from e4e: LPIPS is replaced by the pictures' differences, since no pretrained AlexNet can ship; there is no latent
discriminator, since known codes hold W+ to W; the losses that need the generator are taken on every `picture_every`-th step.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from models.encoders import Encoder4Editing, PspEncoder, WEncoder
from models.inverters import EncoderInverter, Inverter
from models.losses import delta_loss, mean_latent_loss
from models.stylegan2 import Generator
from training.inversion import Batch, InversionObjective
from training.kinds.generator import face_weight, picture_loss
from training.objective import Kind, Setting, cosine


@dataclass(frozen=True, kw_only=True)
class EncoderConfig:
    """Settings of an encoder's training."""

    kind: Literal["e4e", "w", "psp"] = "e4e"
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
    delta: float = 2e-4
    picture_every: int = 3
    seed: int = 61
    measured: int = 1000


class EncoderObjective(InversionObjective):
    """Regress known codes, and picture and identity through the frozen generator.

    Rendered portraits have known codes; pictures from shards have none, but the generator's own pictures among them do.
    """

    average, clip_norm = 0.997, 1.0
    mean_weight = 0.0
    """Weight of the distance from the mean latent (pSp)."""

    def __init__(self, config: EncoderConfig, setting: Setting) -> None:
        super().__init__(config, setting)
        self.config, self.steps = config, config.steps
        torch.manual_seed(config.seed)
        self.net: nn.Module = self.build()
        self.weight = face_weight(self.frozen.generator.size)

    def build(self) -> nn.Module:
        """Make the untrained encoder."""
        kinds: Mapping[str, type[Encoder4Editing | WEncoder]] = {"e4e": Encoder4Editing, "w": WEncoder, "psp": PspEncoder}
        return kinds[self.config.kind].from_config(self.network_config())

    def inverter(self) -> Inverter:
        """Return the encoder on top of the mean latent."""
        assert isinstance(self.net, Encoder4Editing | WEncoder)
        return EncoderInverter(self.config.kind, self.net, latent_avg=self.frozen.mean_latent)

    def optimizer(self) -> torch.optim.Optimizer:
        """Return AdamW."""
        return torch.optim.AdamW(self.net.parameters(), lr=self.config.rate, weight_decay=0.01, betas=(0.9, 0.98))

    def rate(self, step: int) -> float:
        """Return a cosine schedule."""
        return self.config.rate * cosine(step, steps=self.steps)

    def forward(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the weighted sum of code, delta, picture and identity losses."""
        with self.mixed_precision():
            residual = self.net(batch.worn_BCHW).float()
        w = residual + self.frozen.mean_latent
        loss, figures = self.latent_loss(w, batch)
        if batch.step % self.config.picture_every:
            return loss, figures
        pictured, seen = self.picture_loss(self.made(w), batch)
        return loss + pictured, figures | seen

    def latent_loss(self, w_BLD: Tensor, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the weighted losses of the latents alone, and figures."""
        each = (w_BLD - self.frozen.generator.repeat(batch.code_BD)).square().mean((1, 2))
        code = (each * batch.known_B).mean()
        return self.config.code * code + self.closeness(w_BLD), {"code": code}

    def closeness(self, w_BLD: Tensor) -> Tensor:
        """Return what keeps latents where editing works: small differences between slots (e4e eq. 5), nearness to the mean (pSp)."""
        apart = self.config.delta * delta_loss(w_BLD)
        return apart + self.mean_weight * mean_latent_loss(w_BLD, self.frozen.mean_latent) if self.mean_weight else apart

    def made(self, w_BLD: Tensor) -> Tensor:
        """Return the generator's pictures."""
        with self.mixed_precision():
            return self.frozen.generator.synthesis(w_BLD).float()

    def picture_loss(self, made_BCHW: Tensor, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the weighted losses of the pictures, and figures."""
        identity = self.frozen.identity
        with self.mixed_precision():
            same = (identity(made_BCHW).float() * identity(batch.image_BCHW).float()).sum(1).mean()
        pixel = picture_loss(made_BCHW, batch.image_BCHW, self.weight.to(made_BCHW), edges=1.0)
        return pixel + self.config.identity * (1 - same), {"picture": pixel, "identity": same}

    def network_config(self) -> Mapping[str, object]:
        """Return the encoder's shape."""
        config = self.config
        return encoder_shape(config, self.frozen.generator) | ({"style_width": config.style_width} if config.kind != "w" else {})


def encoder_shape(config: EncoderConfig, generator: Generator) -> dict[str, object]:
    """Return the constructor arguments that all encoders have."""
    return {
        "size": generator.size,
        "input_size": config.input_size,
        "style_dim": generator.style_dim,
        "widths": list(config.widths),
        "depths": list(config.depths),
    }


KIND = Kind(
    config=EncoderConfig, objective=EncoderObjective, network="e4e", summary="e4e encoder into W+",
    needs=("generator", "identity"), reads_shards=True,
    bound_to=("generator",),
)  # fmt: skip
