"""Train CLIPInverter's second stage: the CLIPRemapper behind the adapter of the first, which stays as it is (training/clipinverter.py).

Identity weighs 0.5, the distance to the mean latent nothing, and pictures are compared with those without the remapper too, as released.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from models.clipinverter import CLIPAdapter, CLIPRemapper, Variant
from training.clipinverter import Captioned, ClipInverterConfig, ClipInverterObjective, Frozen
from training.objective import Kind, Setting


@dataclass(frozen=True, kw_only=True)
class RemapperConfig(ClipInverterConfig):
    """Settings of the second stage."""

    phases: Sequence[tuple[int, float]] = ((700, 0.1),)
    identity: float = 0.5
    mean_latent: float = 0.0
    variant: Variant = "latents"
    blends: float = 0.0
    """Weight of the squared blends (section 3.4, which leaves it open); they are small enough here without it."""
    adapter: bool = True
    """Whether an adapter stands before the remapper; without one, as an ablation does, it is all that edits."""
    seed: int = 98


class RemapperObjective(ClipInverterObjective):
    """The remapper behind a frozen adapter."""

    def __init__(self, config: RemapperConfig, setting: Setting) -> None:
        super().__init__(config, setting)
        if config.variant == "paper" and not config.adapter:
            raise ValueError("variant paper corrects what an adapter did: without one take latents or released")
        self.shape = config
        self.frozen = Frozen.of(setting.needed(self.what), adapter=config.adapter)
        torch.manual_seed(config.seed)
        self.net: CLIPRemapper = CLIPRemapper.from_config(self.network_config())

    def networks(self) -> tuple[CLIPAdapter | None, CLIPRemapper | None]:
        """Return the adapter as it is and the remapper in training."""
        return self.frozen.adapter, self.net

    def forward(self, batch: Captioned) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss of both passes, and of the blends."""
        loss, figures = super().forward(batch)
        return loss + self.shape.blends * torch.stack([share.square() for share in self.net.lambdas]).sum(), figures

    def network_config(self) -> Mapping[str, object]:
        """Return the remapper's widths."""
        generator = self.judges.generator
        return {
            "size": generator.size, "channels": generator.channels, "style_dim": generator.style_dim, "variant": self.shape.variant,
            "text_dim": self.judges.clip.embed_dim,
        }  # fmt: skip


KIND = Kind(
    config=RemapperConfig, objective=RemapperObjective, network="clip_remapper", summary="correction of edited latents (CLIPInverter)",
    needs=("generator", "clip", "identity", "e4e"), bound_to=("generator", "clip", "e4e", "clip_adapter"),
)  # fmt: skip
