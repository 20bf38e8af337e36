"""Train the W encoder: the same losses as e4e's, one code for all slots."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from training.kinds.e4e import EncoderConfig, EncoderObjective
from training.objective import Kind


@dataclass(frozen=True, kw_only=True)
class WEncoderConfig(EncoderConfig):
    """Settings of the W encoder's training: smaller than e4e."""

    kind: Literal["e4e", "w"] = "w"
    widths: Sequence[int] = (16, 32, 64, 96)
    steps: int = 1500
    seed: int = 62


KIND = Kind(
    config=WEncoderConfig, objective=EncoderObjective, network="w_encoder", summary="encoder into W",
    needs=("generator", "identity"), reads_shards=True,
    bound_to=("generator",),
)  # fmt: skip
