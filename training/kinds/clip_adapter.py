"""Train CLIPInverter's first stage: the CLIPAdapter on e4e's feature maps (training/clipinverter.py)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from models.clipinverter import CLIPAdapter, CLIPRemapper
from training.clipinverter import ClipInverterConfig, ClipInverterObjective, Frozen
from training.objective import Kind, Setting


@dataclass(frozen=True, kw_only=True)
class AdapterConfig(ClipInverterConfig):
    """Settings of the first stage."""

    groups: int = 16
    """Groups of the normalisation: 32 in the paper, for maps of 128 channels and more."""
    residual: float = 0.3
    """Share of the codes that an edit adds: 0.1 in the release, of an encoder that 200,000 steps turn further."""


class AdapterObjective(ClipInverterObjective):
    """The adapter alone."""

    def __init__(self, config: AdapterConfig, setting: Setting) -> None:
        super().__init__(config, setting)
        self.shape = config
        self.frozen = Frozen.of(setting.needed(self.what), adapter=False)
        torch.manual_seed(config.seed)
        self.net: CLIPAdapter = CLIPAdapter.from_config(self.network_config())

    def networks(self) -> tuple[CLIPAdapter | None, CLIPRemapper | None]:
        """Return the adapter in training."""
        return self.net, None

    def network_config(self) -> Mapping[str, object]:
        """Return the widths of the encoder's maps, finest first."""
        encoder = self.frozen.encoder
        widths = [encoder.latlayer2.in_channels, encoder.latlayer1.in_channels, encoder.latlayer1.out_channels]
        return {"widths": widths, "groups": self.shape.groups, "residual": self.shape.residual, "text_dim": self.judges.clip.embed_dim}


KIND = Kind(
    config=AdapterConfig, objective=AdapterObjective, network="clip_adapter", summary="text-conditioned inversion (CLIPInverter)",
    needs=("generator", "clip", "identity", "e4e"), bound_to=("generator", "clip", "e4e"),
)  # fmt: skip
