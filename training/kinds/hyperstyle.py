"""Train HyperStyle: weight offsets that move the generator from the W encoder's inversion of a picture to the picture itself.

A few passes per batch: each looks at the picture beside its present reconstruction, adds to the offsets (HyperStyle eq. 6), and has a
loss of its own, L2 + 0.8 LPIPS + identity (eq. 7); gradients are cut between passes. Encoder and generator are frozen.
Differs: identity weighs 1 in place of 0.1, twice as much as for this domain's encoders; the passes grow with the phases of the training
(5 throughout in the paper), because a pass costs as much as a step of one pass, and early steps are spent better on pictures than on
refinement; no toRGB layer has offsets, as in the released model; where no pretrained AlexNet is on the machine, LPIPS rests on a random
one (models/perceptual.py).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import TYPE_CHECKING, Literal

import torch
from pytorch_optimizer import Ranger
from torch import Tensor

from models.hyperstyle import HyperStyle
from models.inverters import ITERATIONS, EncoderInverter, HyperStyleInverter, Inverter, pooled
from models.losses import identity_loss, l2_loss
from training.batch_norm import settle
from training.inversion import Batch, InversionObjective
from training.objective import Kind, Setting, cosine

if TYPE_CHECKING:
    from models.perceptual import PerceptualDistance, PerceptualFeatures


@dataclass(frozen=True, kw_only=True)
class HyperStyleConfig:
    """Settings of HyperStyle's training."""

    block: Literal["plain", "separable"] = "plain"
    """What layers without the shared block have; the separable one is an ablation."""
    shared: bool = True
    """Whether the widest layers share one generator of kernels."""
    layers: Sequence[int] | None = None
    """Output indices of the layers that get offsets; by default all but toRGB (coarse, medium and fine in HyperStyle's Table 3)."""
    kernel_size: int = 1
    """Width of the shared kernels: 3 as released, 1 as in the paper."""
    plain_kernel_size: int = 1
    input_size: int = 64
    widths: Sequence[int] = (32, 48, 64, 48)
    depths: Sequence[int] = (1, 1, 1, 1)
    inner: int = 64
    shared_inner: int = 48
    phases: Sequence[tuple[int, int]] = ((600, 1), (1800, 5))
    """Steps and passes of each phase; the ablation without iterative refinement has one pass throughout."""
    passes: int = ITERATIONS
    """Passes that the numbers are measured with."""
    settled: float = 0.25
    """Share of the steps after which batch normalisation keeps the statistics that it has (see restyle_e4e.py beside this file)."""
    pictures: int = 16_000
    batch: int = 8
    rate: float = 3e-3
    l2: float = 1.0
    lpips: float = 0.8
    identity: float = 1.0
    """0.1 in the paper, 0.5 for the encoders of this domain. With 0.1 and 1,200 steps the pictures were closest by far, the person not."""
    seed: int = 81
    measured: int = 500

    def __post_init__(self) -> None:
        if not self.phases or min(min(phase) for phase in self.phases) < 1 or self.passes < 1:
            raise ValueError(f"phases {self.phases}, passes {self.passes}: expected one phase or more, and 1 or more steps and passes")


class HyperStyleObjective(InversionObjective):
    """L2, LPIPS and identity of what the generator makes under the offsets of every pass."""

    average, clip_norm = 0.995, 1.0
    wear_amount, own_every = 0.0, 0

    def __init__(self, config: HyperStyleConfig, setting: Setting) -> None:
        super().__init__(config, setting)
        self.config = config
        ends = list(accumulate(steps for steps, _ in config.phases))
        self.steps, self.starts = ends[-1], (0, *ends[:-1])
        self.start = setting.needed("HyperStyle's training").inverter("w_encoder")
        torch.manual_seed(config.seed)
        self.net: HyperStyle = HyperStyle.from_config(self.network_config())

    def inverter(self) -> Inverter:
        """Return the refinement of the W encoder's inversions."""
        assert isinstance(self.start, EncoderInverter)
        return HyperStyleInverter(
            "hyperstyle", self.net, encoder=self.start.encoder, generator=self.frozen.generator, latent_avg=self.start.latent_avg,
            iterations=self.config.passes,
        )  # fmt: skip

    def optimizer(self) -> torch.optim.Optimizer:
        """Return Ranger as released: the library's default would climb in its first five steps, before it can rectify."""
        return Ranger(self.net.parameters(), lr=self.config.rate, degenerated_to_sgd=True)

    def rate(self, step: int) -> float:
        """Return a flat rate that falls to nothing over the last part of the training."""
        return self.config.rate * min(1.0, 1.5 * cosine(step, steps=self.steps))

    def prepare(self) -> None:
        """Render the training portraits, and load LPIPS, which measuring does without."""
        from models.perceptual import PerceptualDistance

        super().prepare()
        self.distance: PerceptualDistance = PerceptualDistance(device=self.setting.group.device)

    def forward(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the sum of the losses of all passes; it has the gradients of a backward call per pass, since they are cut apart."""
        settle(self.net, batch.step >= self.config.settled * self.steps)
        losses, figures = zip(*self.passes(batch), strict=True)
        return torch.stack(losses).sum(), {"first_loss": losses[0], **figures[-1]}

    def passes(self, batch: Batch) -> Iterator[tuple[Tensor, dict[str, Tensor]]]:
        """Yield the loss of every pass and its figures (HyperStyle section 3.4)."""
        frozen, size = self.frozen, self.config.input_size
        image = pooled(batch.image_BCHW, size)
        wanted = _Wanted.of(self, batch.image_BCHW)
        with torch.no_grad(), self.mixed_precision():
            w = self.start.invert(batch.image_BCHW).latents_BLD
            made = frozen.generator.synthesis(w).float()
        offsets: dict[int, Tensor] = {}
        for _ in range(self.config.phases[self._phase(batch.step)][1]):
            with self.mixed_precision():
                step = self.net(image, pooled(made.detach(), size))
                offsets = {index: _added(offsets.get(index), offset.float()) for index, offset in step.items()}
                made = frozen.generator.synthesis(w, offsets).float()
            yield self._loss(made, wanted)

    def _phase(self, step: int) -> int:
        return max(i for i, start in enumerate(self.starts) if start <= step)

    def _loss(self, made_BCHW: Tensor, wanted: _Wanted) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the weighted loss of one pass (HyperStyle eq. 7), and its parts."""
        config = self.config
        with self.mixed_precision():
            features, who = self.distance.features(made_BCHW), self.frozen.identity(made_BCHW).float()
        parts = {
            "l2": l2_loss(made_BCHW, wanted.image_BCHW),
            "lpips": self.distance.distance(features, wanted.features).mean(),
            "identity": identity_loss(who, wanted.identity_BE),
        }
        return config.l2 * parts["l2"] + config.lpips * parts["lpips"] + config.identity * parts["identity"], parts

    def network_config(self) -> Mapping[str, object]:
        """Return the hypernetwork's shape."""
        config, generator = self.config, self.frozen.generator
        return {
            "size": generator.size, "channels": generator.channels, "block": config.block, "shared": config.shared,
            "kernel_size": config.kernel_size, "plain_kernel_size": config.plain_kernel_size, "input_size": config.input_size,
            "widths": list(config.widths), "depths": list(config.depths), "inner": config.inner, "shared_inner": config.shared_inner,
        } | ({} if config.layers is None else {"layers": list(config.layers)})  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class _Wanted:
    """What all passes of a batch are compared with."""

    image_BCHW: Tensor
    features: PerceptualFeatures
    identity_BE: Tensor

    @classmethod
    @torch.no_grad()
    def of(cls, objective: HyperStyleObjective, image_BCHW: Tensor) -> _Wanted:
        with objective.mixed_precision():
            features, who = objective.distance.features(image_BCHW), objective.frozen.identity(image_BCHW).float()
        return cls(image_BCHW=image_BCHW, features=features, identity_BE=who)


def _added(before: Tensor | None, offset: Tensor) -> Tensor:
    """Add a pass's offset to those before it, which get no gradient from this pass."""
    return offset if before is None else before.detach() + offset


KIND = Kind(
    config=HyperStyleConfig, objective=HyperStyleObjective, network="hyperstyle", summary="hypernetwork of inversion (HyperStyle)",
    needs=("generator", "identity", "w_encoder"), reads_shards=True,
    bound_to=("generator", "w_encoder"),
)  # fmt: skip
