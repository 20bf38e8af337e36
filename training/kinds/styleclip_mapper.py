"""Train StyleCLIP's latent mappers, one per instruction, beside one another: CLIP, identity and a penalty on moved latents.

Settings of the release scaled to 64 pixels: weights CLIP 1, latents 0.8, identity 0.1, rate 0.5. Differs: Adam in place of Ranger; CLIP
sees the picture through a random window and worn (training/windows.py).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from models.editors import Editor
from models.mapper_editors import MapperEditor
from models.mappers import SHARE, MapperSet
from models.state import GeneratorState
from training.editing import Batch, EditingConfig, EditingObjective
from training.objective import Kind, Setting


@dataclass(frozen=True, kw_only=True)
class MapperConfig(EditingConfig):
    """Settings of the mappers' training."""

    phases: Sequence[tuple[int, float]] = ((3000, 0.0),)
    rate: float = 0.5
    movement: float = 0.8
    loss: Literal["directional", "global"] = "global"
    seed: int = 95

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.wordings or self.pairs:
            raise ValueError(f"wordings {self.wordings}, pairs {self.pairs}: expected 0, a mapper knows one text")


class MapperObjective(EditingObjective):
    """A mapper per instruction's target."""

    what = "the mappers' training"
    uses_all = False

    def __init__(self, config: MapperConfig, setting: Setting) -> None:
        super().__init__(config, setting)
        torch.manual_seed(config.seed)
        self.net: MapperSet = MapperSet.from_config(self.network_config())

    def optimizer(self) -> torch.optim.Optimizer:
        """Return Adam: the equalised maps' gradients are smaller than Ranger's epsilon of 1e-5, so that nothing would be learnt."""
        return torch.optim.Adam(self.net.parameters(), lr=self.config.rate)

    def moved(self, batch: Batch, direction_BE: Tensor, target_BE: Tensor) -> GeneratorState:
        """Return the latents moved by the mapper of each sample's instruction."""
        return GeneratorState(latents_BLD=batch.latents_BLD + SHARE * self.net(batch.latents_BLD, batch.kind_B))

    def editor(self) -> Editor:
        """Return the editor that the mappers are."""
        return MapperEditor("styleclip_mapper", self.net)

    def network_config(self) -> Mapping[str, object]:
        """Return the mappers' texts and width."""
        return {"texts": [i.target for i in self.instructions], "style_dim": self.judges.generator.style_dim}


KIND = Kind(
    config=MapperConfig, objective=MapperObjective, network="styleclip_mapper", summary="latent mappers, one per text (StyleCLIP)",
    needs=("generator", "clip", "identity", "e4e"), reads_shards=True,
    bound_to=("generator", "clip"), reads_latents=True,
)  # fmt: skip
