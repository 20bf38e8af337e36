"""What the tests of inverters that optimise share: a small random world, portraits of the real one, and a watch over networks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor, nn

from models.encoders import Encoder4Editing, WEncoder
from models.inverters import EncoderInverter
from models.pack import Pack
from models.perception import IdentityNet
from models.perceptual import PerceptualDistance
from models.similarity import Similarity, SimilarityWeights
from models.state import GeneratorState
from models.stylegan2 import Generator
from portraits.parameters import sample_parameters
from tests.models.small_pack import CONFIGS, SIZE
from training.data import HELD_OUT, aligned_bank, seeded, to_float

PORTRAITS = Path(__file__).parents[2] / "packs" / "portraits64"
Network = TypeVar("Network", bound=nn.Module)
CLOSE = SimilarityWeights(pixel=1.0, lpips=1.0, identity=0.0, parsing=0.0)


@cache
def lpips() -> PerceptualDistance:
    return PerceptualDistance()


class World:
    """The small pack's generator, identity net and encoders, with random weights."""

    def __init__(self) -> None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(7)
            self.generator = self._made(Generator, "generator")
            self.identity = self._made(IdentityNet, "identity")
            self.e4e = self._made(Encoder4Editing, "e4e")
            self.w_encoder = self._made(WEncoder, "w_encoder")
        self.mean = self.generator.mean_latent(64)

    @staticmethod
    def _made(kind: type[Network], name: str) -> Network:
        module: Network = kind.from_config(CONFIGS[name])  # type: ignore[attr-defined]
        return module.eval().requires_grad_(False)

    @property
    def networks(self) -> list[nn.Module]:
        return [self.generator, self.identity, self.e4e, self.w_encoder, lpips().network]

    def encoder(self, name: str = "e4e") -> EncoderInverter:
        return EncoderInverter(name, getattr(self, name), latent_avg=self.mean)

    def similarity(self, weights: SimilarityWeights = CLOSE) -> Similarity:
        return Similarity(weights, lpips=lpips(), identity=self.identity)

    def common(self, weights: SimilarityWeights = CLOSE) -> dict:
        return {"generator": self.generator, "similarity": self.similarity(weights), "mean_latent": self.mean}


@cache
def world() -> World:
    return World()


@cache
def portraits() -> Pack:
    return Pack.load(PORTRAITS)


def held_out_portraits(n: int) -> Tensor:
    """Aligned portraits of people that no training has seen."""
    return to_float(aligned_bank(sample_parameters(n, seeded(HELD_OUT)), size=64, seed=HELD_OUT))


def made_pictures(n: int, seed: int = 3) -> Tensor:
    """Pictures that the small generator can make."""
    z = torch.randn(n, world().generator.style_dim, generator=torch.Generator().manual_seed(seed))
    with torch.no_grad():
        return world().generator.synthesis(world().generator.repeat(world().generator.mapping(z)))


def noise_pictures(n: int, seed: int = 4) -> Tensor:
    """Pictures that it cannot make."""
    return torch.rand(n, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(seed)) * 2 - 1


@contextmanager
def left_alone(networks: Sequence[nn.Module]) -> Iterator[None]:
    """Hold that a block changes no tensor of the networks, no flag, no `.grad`, no mode, and draws no global random number."""
    before = [{key: value.clone() for key, value in network.state_dict().items()} for network in networks]
    random = torch.get_rng_state()
    yield
    for network, tensors in zip(networks, before, strict=True):
        assert not network.training
        assert all(torch.equal(value, tensors[key]) for key, value in network.state_dict().items())
        assert all(not parameter.requires_grad and parameter.grad is None for parameter in network.parameters())
    assert torch.equal(random, torch.get_rng_state())


def same(a: GeneratorState, b: GeneratorState, *, tolerance: float = 1e-4) -> bool:
    """Say whether two states agree in all their numbers, up to this share of each picture's largest where that is above 1."""
    assert a.offsets.keys() == b.offsets.keys()
    pairs = [(a.latents_BLD, b.latents_BLD), *((a.offsets[i], b.offsets[i]) for i in a.offsets)]
    return all(bool(((x - y).flatten(1).abs() <= tolerance * y.flatten(1).abs().amax(1, True).clamp_min(1)).all()) for x, y in pairs)


def joined(states: Sequence[GeneratorState]) -> GeneratorState:
    """Make one state of several."""
    offsets = {i: torch.cat([state.offsets[i] for state in states]) for i in states[0].offsets}
    return GeneratorState(latents_BLD=torch.cat([state.latents_BLD for state in states]), offsets=offsets)


def drift(generator: Generator, state: GeneratorState, *, n: int = 4) -> float:
    """Mean LPIPS between what the tuned and the untouched generator show at random latents."""
    z = torch.randn(n, generator.style_dim, generator=torch.Generator().manual_seed(99))
    with torch.no_grad():
        w = generator.repeat(generator.mapping(z))
        return float(lpips()(generator.synthesis(w, state.offsets), generator.synthesis(w)).mean())
