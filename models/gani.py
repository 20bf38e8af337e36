"""GANI: per-picture inversion by networks that turn the gradient of the generator's weights into a correction of the weights.

Shape legend: B batch, C channels, L latent slots, D style width, O/I output/input channels, k kernel width.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from pytorch_optimizer import Ranger
from torch import Tensor
from torch.func import functional_call

from models.gradient_modification import GradientModification, ModuleConfig
from models.inverters import Inverter
from models.optimisation import (
    Judged,
    OnStep,
    Progress,
    batched,
    check_stop,
    descend,
    gradients,
    judged,
    mean_slots,
    picture_sources,
    random_w,
    targets,
)
from models.similarity import Seen, Similarity, SimilarityWeights
from models.state import GeneratorState
from models.stylegan2 import Generator, ModulatedConv

WEIGHTS = SimilarityWeights(pixel=1.0, lpips=0.8, identity=0.1, parsing=1.0)
FLOOR = 1e-3
"""Share of a layer's root mean squared weight below which a weight counts as this large when a correction is divided by it."""


@dataclass(frozen=True, kw_only=True)
class GaniConfig:
    """Set GANI; iterations as in the paper for faces and wildlife (cars 400, horses and churches 800); its learning rate is lost.

    `localisation` is lambda of eq. 5 and `samples` the random latents that stand for its expectation in each step; 0 leaves the term out.
    A picture stops when its LPIPS is at most `stop_lpips`; the paper does not stop. Raises ValueError.
    """

    steps: int = 300
    learning_rate: float = 1e-3
    localisation: float = 1.0
    samples: int = 1
    stop_lpips: float | None = None
    modules: ModuleConfig = field(default_factory=ModuleConfig)

    def __post_init__(self) -> None:
        if self.steps < 1 or self.samples < 1:
            raise ValueError(f"GANI: steps and samples must be 1 or more, found {self.steps} and {self.samples}")
        if not self.localisation >= 0:
            raise ValueError(f"GANI: localisation must be 0 or more, found {self.localisation}")


class Gani:
    """Invert by an encoder's latents, which stay, and corrections `M(g)` of all convolutions' weights, one picture after the other.

    Source: GANI section 3, eq. 1 to 5. The distance of the localisation term, which the text leaves open, is the similarity itself.
    Differs: the corrections live in the multiplicative offsets that a generator state holds already while they are optimised,
    `offset = M(g) / theta`, so the state's picture is the tuned generator's exactly; where a weight is smaller than a thousandth of its
    layer's (1 in 1250 for normal weights) it counts as that large, which bounds the offsets and gives up part of the correction there.
    """

    def __init__(
        self, name: str, *, generator: Generator, similarity: Similarity, mean_latent: Tensor, config: GaniConfig | None = None,
        encoder: Inverter | None = None, on_step: OnStep | None = None,
    ) -> None:  # fmt: skip
        if encoder is None:
            raise ValueError(f"inverter {name!r}: GANI starts from an encoder's latents, but no encoder is given")
        self.name = name
        self.generator = generator
        self.similarity = similarity
        self.config = config or GaniConfig()
        self.encoder = encoder
        self.on_step = on_step
        mean_slots(mean_latent, generator, name=name)
        check_stop(name, similarity, self.config.stop_lpips)

    def invert(self, images_BCHW: Tensor) -> GeneratorState:
        """Return the encoder's latents and an offset for every convolution."""
        progress = Progress(self.on_step, pictures=len(images_BCHW), steps=self.config.steps)
        with gradients():
            images = targets(self.name, images_BCHW, size=self.generator.size)
            latents_BLD = self.encoder.invert(images).latents_BLD.detach().clone()
            rows = zip(images.split(1), latents_BLD.split(1), picture_sources(images), strict=True)
            offsets = [
                self._tuned(image, latents, source=source, progress=progress, row=row) for row, (image, latents, source) in enumerate(rows)
            ]
            return GeneratorState(latents_BLD=latents_BLD, offsets=batched(offsets))

    def parameters(self) -> int:
        """Return how many numbers are fitted to each picture (GANI Table 7)."""
        modules = GradientModification(self.generator.layers, config=self.config.modules, source=torch.Generator())
        return sum(parameter.numel() for parameter in modules.parameters())

    def _tuned(
        self, image_1CHW: Tensor, latents_1LD: Tensor, *, source: torch.Generator, progress: Progress, row: int
    ) -> dict[int, Tensor]:
        config = self.config
        with torch.no_grad():
            wanted = self.similarity.see(image_1CHW)
        weight_gradients = self.weight_gradients(latents_1LD, wanted)
        modules = GradientModification(self.generator.layers, config=config.modules, source=source).to(image_1CHW.device)

        def judge(rows: object, step: int) -> Judged:
            offsets = as_offsets(self.generator, modules(weight_gradients))
            made = self.generator.synthesis(latents_1LD, offsets)
            more = (lambda: config.localisation * self._drift(offsets, source=source)) if config.localisation else None
            return judged(self.similarity, made, wanted, stop_lpips=config.stop_lpips, more=more)

        # Ranger's library default climbs in its first five steps, before it can rectify.
        leaves = list(modules.parameters())
        found = descend(
            [leaves], judge, optimizer=Ranger(leaves, lr=config.learning_rate, degenerated_to_sgd=True), steps=config.steps,
            report=lambda rows, losses, steps: progress.advance([row] if rows else [], losses, steps=steps),
        )  # fmt: skip
        with torch.no_grad():
            for leaf, best in zip(leaves, found.parameters[0], strict=True):
                leaf.copy_(best)
            return as_offsets(self.generator, modules(weight_gradients))

    def weight_gradients(self, latents_1LD: Tensor, wanted: Seen) -> dict[int, Tensor]:
        """Return g: the gradient of the similarity by every convolution's weight at the untouched generator (GANI eq. 2)."""
        convolutions = [(name, module) for name, module in self.generator.named_modules() if isinstance(module, ModulatedConv)]
        weights = {f"{name}.weight": module.weight.detach().clone().requires_grad_() for name, module in convolutions}
        with gradients():
            made = functional_call(self.generator, weights, (GeneratorState(latents_BLD=latents_1LD),))
            found = torch.autograd.grad(self.similarity(made, wanted).sum(), list(weights.values()))
        return {module.layer.index: gradient for (_, module), gradient in zip(convolutions, found, strict=True)}

    def _drift(self, offsets: Mapping[int, Tensor], *, source: torch.Generator) -> Tensor:
        """Return how far the tuned generator is from the original at random latents in W, a number (GANI eq. 5, second term)."""
        latents = random_w(self.generator, self.config.samples, source=source)
        with torch.no_grad():
            original = self.similarity.see(self.generator.synthesis(latents))
        return self.similarity(self.generator.synthesis(latents, offsets), original).mean()


def as_offsets(generator: Generator, corrections: Mapping[int, Tensor]) -> dict[int, Tensor]:
    """Return the offsets that add these corrections to the weights, up to those of tiny weights (see FLOOR)."""
    weights = {conv.layer.index: conv.weight for conv in generator.convolutions()}
    return {index: correction / guarded(weights[index]) for index, correction in corrections.items()}


def guarded(weight: Tensor) -> Tensor:
    """Return the weights with their signs, none smaller than FLOOR of their root mean square; zero counts as positive."""
    floor = weight.detach().square().mean().sqrt() * FLOOR
    return torch.where(weight.detach() < 0, -1.0, 1.0) * weight.detach().abs().clamp_min(floor)
