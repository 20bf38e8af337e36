"""Train HairCLIP's mapper on many instructions at once: CLIP, identity and a penalty on moved latents (HairCLIP eq. 5, 8, 10).

Weights of the paper: CLIP 1, latents 0.8, identity 0.3. Differs: its losses for hair colour from reference pictures and for the background
are left out, since instructions name any attribute; CLIP sees the picture through a random window and worn (training/windows.py).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from models.editors import Editor
from models.hairclip import HairClipMapper
from models.mapper_editors import HairClipEditor
from models.state import GeneratorState
from training.editing import Batch, EditingConfig, EditingObjective
from training.objective import Kind, Setting


@dataclass(frozen=True, kw_only=True)
class HairClipConfig(EditingConfig):
    """Settings of the mapper's training."""

    phases: Sequence[tuple[int, float]] = ((2000, 0.0),)
    batch: int = 16
    rate: float = 1e-3
    movement: float = 0.8
    identity: float = 0.3
    loss: Literal["directional", "global"] = "global"
    seed: int = 96


class HairClipObjective(EditingObjective):
    """One mapper, modulated by the target's embedding."""

    what = "HairCLIP's training"

    def __init__(self, config: HairClipConfig, setting: Setting) -> None:
        super().__init__(config, setting)
        torch.manual_seed(config.seed)
        self.net: HairClipMapper = HairClipMapper.from_config(self.network_config())

    def optimizer(self) -> torch.optim.Optimizer:
        """Return Adam, as the paper has it."""
        return torch.optim.Adam(self.net.parameters(), lr=self.config.rate)

    def moved(self, batch: Batch, direction_BE: Tensor, target_BE: Tensor) -> GeneratorState:
        """Return the moved latents."""
        return GeneratorState(latents_BLD=batch.latents_BLD + self.net(batch.latents_BLD, target_BE))

    def editor(self) -> Editor:
        """Return the editor that the mapper is."""
        return HairClipEditor("hairclip", self.net, clip=self.judges.clip)

    def network_config(self) -> Mapping[str, object]:
        """Return the mapper's widths."""
        return {"style_dim": self.judges.generator.style_dim, "text_dim": self.judges.clip.embed_dim}


KIND = Kind(
    config=HairClipConfig, objective=HairClipObjective, network="hairclip", summary="mapper modulated by the text (HairCLIP)",
    needs=("generator", "clip", "identity", "e4e"), reads_shards=True,
    bound_to=("generator", "clip"), reads_latents=True,
)  # fmt: skip
