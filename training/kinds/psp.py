"""Train pSp: an encoder into W+ whose slots are each by themselves.

Losses: L1 and edges to the picture, identity, and the distance from the mean latent (pSp section 3.3), with e4e's draw of pictures.
Differs: LPIPS is replaced by the pictures' differences, as for e4e; a small weight on the known codes shows the way at the start, when
the picture says little; it is a tenth of e4e's, so that slots may leave W where that makes the picture better.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import nn

from models.encoders import COARSE_SLOTS, Encoder4Editing, PspEncoder
from training.kinds.e4e import EncoderConfig, EncoderObjective
from training.objective import Kind, Setting


@dataclass(frozen=True, kw_only=True)
class PspConfig(EncoderConfig):
    """Settings of pSp's training: the picture is looked at on every other step."""

    kind: Literal["e4e", "w", "psp"] = "psp"
    warm: bool = True
    """Whether to begin with the pack's e4e, where it has one of the same shape, in place of the authors' trunk trained on faces."""
    steps: int = 1100
    rate: float = 1e-3
    batch: int = 16
    code: float = 1.0
    delta: float = 0.0
    mean: float = 5e-4
    """Weight of the distance from the mean latent."""
    picture_every: int = 2
    seed: int = 63


class PspObjective(EncoderObjective):
    """Picture and identity through the frozen generator, close to the mean latent."""

    def __init__(self, config: PspConfig, setting: Setting) -> None:
        self.psp = config  # before the net is built
        super().__init__(config, setting)
        self.mean_weight = config.mean

    def build(self) -> nn.Module:
        """Make the encoder, with the weights of e4e where there is one: slots that said differences learn to stand alone."""
        net, pack = super().build(), self.setting.needed("pSp's training")
        if self.psp.warm and "e4e" in pack.info.networks:
            known = pack.network("e4e", Encoder4Editing).state_dict()
            if {key: value.shape for key, value in known.items()} == {key: value.shape for key, value in net.state_dict().items()}:
                assert isinstance(net, PspEncoder)
                net.load_state_dict(known)
                for slot in range(1, COARSE_SLOTS):
                    net.styles[slot].load_state_dict(net.styles[0].state_dict())
        return net


KIND = Kind(
    config=PspConfig, objective=PspObjective, network="psp", summary="pSp encoder into W+",
    needs=("generator", "identity"), reads_shards=True,
    bound_to=("generator",),
)  # fmt: skip
