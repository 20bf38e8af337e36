"""Train ReStyle over pSp: slots each by themselves, pSp's losses at every look (see restyle_e4e.py and psp.py beside this file)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from training.kinds.restyle_e4e import ReStyleConfig, ReStyleObjective
from training.objective import Kind


@dataclass(frozen=True, kw_only=True)
class ReStylePspConfig(ReStyleConfig):
    """Settings of the training of ReStyle over pSp."""

    kind: Literal["e4e", "w", "psp"] = "psp"
    steps: int = 800
    code: float = 1.0
    delta: float = 0.0
    mean: float = 5e-4
    picture_every: int = 2
    seed: int = 65


KIND = Kind(
    config=ReStylePspConfig, objective=ReStyleObjective, network="restyle_psp", summary="ReStyle over pSp",
    needs=("generator", "identity"), reads_shards=True,
    bound_to=("generator",),
)  # fmt: skip
