"""GANI: per-picture inversion by networks that turn the gradient of the generator's weights into a correction of the weights.

Shape legend: B batch, A pictures tuned together, C channels, L latent slots, D style width, O/I output/input channels, k kernel width.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from pytorch_optimizer import Ranger
from torch import Tensor
from torch.func import functional_call, vmap

from models.gradient_modification import GradientModification, ModuleConfig
from models.inverters import Inverter
from models.optimisation import (
    Judged,
    OnStep,
    Progress,
    batched,
    check_lockstep,
    check_stop,
    descend,
    for_samples,
    gradients,
    judged,
    mean_slots,
    picture_sources,
    random_w,
    rows_of,
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
    A picture stops when its LPIPS is at most `stop_lpips`; the paper does not stop. `lockstep` pictures are tuned together, each by modules
    of its own. Raises ValueError.
    """

    steps: int = 300
    learning_rate: float = 1e-3
    localisation: float = 1.0
    samples: int = 1
    stop_lpips: float | None = None
    modules: ModuleConfig = field(default_factory=ModuleConfig)
    lockstep: int = 4

    def __post_init__(self) -> None:
        if self.steps < 1 or self.samples < 1:
            raise ValueError(f"GANI: steps and samples must be 1 or more, found {self.steps} and {self.samples}")
        if not self.localisation >= 0:
            raise ValueError(f"GANI: localisation must be 0 or more, found {self.localisation}")
        check_lockstep("GANI", self.lockstep)


class Gani:
    """Invert by an encoder's latents, which stay, and corrections `M(g)` of all convolutions' weights, each picture's by itself.

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
            n = self.config.lockstep
            latents_BLD = torch.cat([self.encoder.invert(group).latents_BLD.detach() for group in images.split(n)])
            groups = enumerate(zip(images.split(n), latents_BLD.split(n), strict=True))
            offsets = [self._tuned(group, latents, progress=progress, first=i * n) for i, (group, latents) in groups]
            return GeneratorState(latents_BLD=latents_BLD, offsets=batched(offsets))

    def parameters(self) -> int:
        """Return how many numbers are fitted to each picture (GANI Table 7)."""
        modules = GradientModification(self.generator.layers, config=self.config.modules, source=torch.Generator())
        return sum(parameter.numel() for parameter in modules.parameters())

    def _tuned(self, image_ACHW: Tensor, latents_ALD: Tensor, *, progress: Progress, first: int) -> dict[int, Tensor]:
        config, sources = self.config, picture_sources(image_ACHW)
        with torch.no_grad():
            wanted = self.similarity.see(image_ACHW)
        modules = PerPicture(self.generator, config=config.modules, sources=sources)
        found = [self.weight_gradients(latents, wanted.rows([row])) for row, latents in enumerate(latents_ALD.split(1))]
        weight_gradients = batched(found)

        def judge(rows: Sequence[int], step: int) -> Judged:
            offsets = modules.offsets([modules.leaves[row] for row in rows], {i: rows_of(g, rows) for i, g in weight_gradients.items()})
            made = self.generator.synthesis(rows_of(latents_ALD, rows), offsets)
            held = [sources[row] for row in rows]
            more = (lambda: config.localisation * self._drift(offsets, sources=held)) if config.localisation else None
            return judged(self.similarity, made, wanted.rows(rows), stop_lpips=config.stop_lpips, more=more)

        # Ranger's library default climbs in its first five steps, before it can rectify.
        leaves = [leaf for row in modules.leaves for leaf in row]
        best = descend(
            modules.leaves, judge, optimizer=Ranger(leaves, lr=config.learning_rate, degenerated_to_sgd=True), steps=config.steps,
            report=lambda rows, losses, steps: progress.advance([first + row for row in rows], losses, steps=steps),
        )  # fmt: skip
        with torch.no_grad():
            return modules.offsets(best.parameters, weight_gradients)

    def weight_gradients(self, latents_1LD: Tensor, wanted: Seen) -> dict[int, Tensor]:
        """Return g: the gradient of the similarity by every convolution's weight at the untouched generator (GANI eq. 2)."""
        convolutions = [(name, module) for name, module in self.generator.named_modules() if isinstance(module, ModulatedConv)]
        weights = {f"{name}.weight": module.weight.detach().clone().requires_grad_() for name, module in convolutions}
        with gradients():
            made = functional_call(self.generator, weights, (GeneratorState(latents_BLD=latents_1LD),))
            found = torch.autograd.grad(self.similarity(made, wanted).sum(), list(weights.values()))
        return {module.layer.index: gradient for (_, module), gradient in zip(convolutions, found, strict=True)}

    def _drift(self, offsets: Mapping[int, Tensor], *, sources: Sequence[torch.Generator]) -> Tensor:
        """Return how far the tuned generators are from the original at random latents in W, (A,) (GANI eq. 5, second term)."""
        samples = self.config.samples
        latents = random_w(self.generator, samples, sources=sources)
        with torch.no_grad():
            original = self.similarity.see(self.generator.synthesis(latents))
        moved = self.similarity(self.generator.synthesis(latents, for_samples(offsets, samples)), original)
        return moved.unflatten(0, (len(sources), -1)).mean(1)


class PerPicture:
    """Modules for each picture of a group, run side by side; `leaves` holds each picture's parameters."""

    def __init__(self, generator: Generator, *, config: ModuleConfig, sources: Sequence[torch.Generator]) -> None:
        self.generator = generator
        device = generator.conv1.conv.weight.device
        started = [GradientModification(generator.layers, config=config, source=source).to(device) for source in sources]
        self.modules = started[0]
        self.names = [name for name, _ in self.modules.named_parameters()]
        self.leaves: list[list[Tensor]] = [list(modules.parameters()) for modules in started]

    def offsets(self, parameters: Sequence[Sequence[Tensor]], gradients: Mapping[int, Tensor]) -> dict[int, Tensor]:
        """Return the offsets (A, O, I, k, k) that these parameters, a list for each picture, make of its gradients."""
        stacked = {name: torch.stack(values) for name, *values in zip(self.names, *parameters, strict=True)}
        each = {index: gradient[:, None] for index, gradient in gradients.items()}
        corrections = vmap(lambda own, given: functional_call(self.modules, own, (given,)))(stacked, each)
        return as_offsets(self.generator, {index: correction[:, 0] for index, correction in corrections.items()})


def as_offsets(generator: Generator, corrections: Mapping[int, Tensor]) -> dict[int, Tensor]:
    """Return the offsets that add these corrections to the weights, up to those of tiny weights (see FLOOR)."""
    weights = {conv.layer.index: conv.weight for conv in generator.convolutions()}
    return {index: correction / guarded(weights[index]) for index, correction in corrections.items()}


def guarded(weight: Tensor) -> Tensor:
    """Return the weights with their signs, none smaller than FLOOR of their root mean square; zero counts as positive."""
    floor = weight.detach().square().mean().sqrt() * FLOOR
    return torch.where(weight.detach() < 0, -1.0, 1.0) * weight.detach().abs().clamp_min(floor)
