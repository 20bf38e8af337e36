"""Train ReStyle over e4e: a few looks per batch, each at the picture beside its present reconstruction, each with a loss of its own.

Every look adds a step to the latents of the one before, whose gradient is cut; the first starts from the mean latent's picture (ReStyle
section 3). A look has the losses of e4e's training (training/kinds/e4e.py, which says where they differ).
Differs: three looks per batch in training (5 in the paper), which leaves time for more batches; inference has as many as one likes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from models.encoders import COARSE_SLOTS, Encoder4Editing
from models.inverters import ITERATIONS, Inverter, ReStyleInverter, pooled
from models.restyle import ReStyleEncoder
from training.batch_norm import settle
from training.inversion import Batch
from training.kinds.e4e import EncoderConfig, EncoderObjective, encoder_shape
from training.objective import Kind, Setting

FIRST = "input_layer.0.weight"


@dataclass(frozen=True, kw_only=True)
class ReStyleConfig(EncoderConfig):
    """Settings of ReStyle's training; `kind` e4e or psp is what it stands on."""

    kind: Literal["e4e", "w", "psp"] = "e4e"
    looks: int = 3
    """Looks at each picture in training."""
    passes: int = ITERATIONS
    """Looks that the numbers are measured with."""
    warm: bool = True
    """Whether to begin with the trunk of the pack's encoder of that kind, where it has one: its authors begin with one trained on faces."""
    steps: int = 900
    batch: int = 12
    rate: float = 1e-3
    mean: float = 0.0
    """Weight of the distance from the mean latent."""
    settled: float = 0.25
    """Share of the steps after which batch normalisation keeps the statistics that it has. Looks differ in theirs: the first sees one and
    the same reconstruction beside every picture. Normalised by each batch's own to the end, a network meets others when it is used."""
    seed: int = 64

    def __post_init__(self) -> None:
        if self.kind == "w" or self.looks < 1 or self.passes < 1:
            raise ValueError(f"kind {self.kind}, looks {self.looks}, passes {self.passes}: expected e4e or psp, and 1 or more of both")


class ReStyleObjective(EncoderObjective):
    """The losses of e4e or pSp at every look."""

    def __init__(self, config: ReStyleConfig, setting: Setting) -> None:
        self.restyle = config  # before the net is built
        super().__init__(config, setting)
        self.mean_weight = config.mean
        generator = self.frozen.generator
        self.mean_BLD = generator.repeat(self.frozen.mean_latent[None])
        with torch.no_grad():
            self.mean_picture = generator.synthesis(self.mean_BLD)

    def build(self) -> nn.Module:
        """Make the encoder, with the trunk of the one-look encoder where there is one."""
        net = ReStyleEncoder.from_config(self.network_config())
        pack, name = self.setting.needed("ReStyle's training"), self.config.kind
        if self.restyle.warm and name in pack.info.networks:
            take_trunk(net, pack.network(name, Encoder4Editing))
        return net

    def inverter(self) -> Inverter:
        """Return the encoder that looks several times."""
        assert isinstance(self.net, ReStyleEncoder)
        return ReStyleInverter(
            "restyle", self.net, generator=self.frozen.generator, latent_avg=self.frozen.mean_latent, iterations=self.restyle.passes
        )  # fmt: skip

    def forward(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the sum of the losses of all looks; it has the gradients of a backward call per look, since they are cut apart."""
        settle(self.net, batch.step >= self.restyle.settled * self.steps)
        losses, figures = zip(*self.looks(batch), strict=True)
        return torch.stack(losses).sum(), {"first_loss": losses[0], **figures[-1]}

    def looks(self, batch: Batch) -> Iterator[tuple[Tensor, dict[str, Tensor]]]:
        """Yield the loss of every look and its figures (ReStyle section 3.2)."""
        size, count = self.config.input_size, len(batch.image_BCHW)
        image, seen = pooled(batch.worn_BCHW, size), self.mean_picture.expand(count, -1, -1, -1)
        w, with_picture = self.mean_BLD, batch.step % self.config.picture_every == 0
        for look in range(self.restyle.looks):
            with self.mixed_precision():
                step = self.net(image, pooled(seen, size)).float()
            w = w.detach() + step
            loss, figures = self.latent_loss(w, batch)
            if with_picture:
                made = self.made(w)
                pictured, more = self.picture_loss(made, batch)
                loss, figures, seen = loss + pictured, figures | more, made.detach()
            elif look + 1 < self.restyle.looks:
                with torch.no_grad():
                    seen = self.made(w)
            yield loss, figures

    def network_config(self) -> Mapping[str, object]:
        """Return the encoder's shape."""
        config = self.config
        return encoder_shape(config, self.frozen.generator) | {"style_width": config.style_width, "shared": config.kind == "e4e"}


@torch.no_grad()
def take_trunk(net: ReStyleEncoder, encoder: Encoder4Editing) -> None:
    """Copy an encoder's trunk and its coarse style blocks, which see the same map; the reconstruction counts for nothing yet.

    With that, the first look is the encoder's, but for the slots that it reads from finer maps. An encoder of other widths is left alone.
    """
    parts = ("input_layer", "body", *(f"styles.{slot}" for slot in range(COARSE_SLOTS)))
    known = {key: value for key, value in encoder.state_dict().items() if key.startswith(tuple(f"{part}." for part in parts))}
    widened = torch.zeros_like(net.get_parameter(FIRST))
    if widened.shape[0] == known[FIRST].shape[0]:
        widened[:, :3] = known[FIRST]
    shapes = {key: value.shape for key, value in net.state_dict().items()}
    known[FIRST] = widened
    if all(shapes.get(key) == value.shape for key, value in known.items()):
        net.load_state_dict(known, strict=False)


KIND = Kind(
    config=ReStyleConfig, objective=ReStyleObjective, network="restyle_e4e", summary="ReStyle over e4e",
    needs=("generator", "identity"), reads_shards=True,
    bound_to=("generator",),
)  # fmt: skip
