"""Teach a StyleGAN2 generator a folder of pictures, without captions or labels, against a discriminator.

StyleGAN2's non-saturating loss and lazy R1 (Karras et al. 2020), with DiffAugment's colour and translation (Zhao et al. 2020) on all
that the discriminator sees, so that a few hundred pictures last. With `go_on` the pack's generator is fine-tuned and the discriminator,
which no pack keeps, starts from nothing; until it has learnt to tell (`warmup`) the generator stands still.
One backward pass serves both networks: the discriminator's loss sees detached pictures, the generator's runs a detached discriminator.
Groups of the minibatch deviation are neighbours in the global batch, so several workers follow one as long as every share is a multiple
of 4. Differs: no path length penalty and no adaptive augmentation; noise is the stored one, as everywhere in this project.

B pictures, D width of W, L slots, A random numbers of an augmentation.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from models.clip import ClipModel
from models.discriminator import STDDEV_GROUP, Discriminator
from models.losses import discriminator_adversarial_loss, generator_adversarial_loss, r1_penalty
from models.pack import Pack
from models.stylegan2 import Generator
from pipeline.align import MIN_FACE_SCORE
from pipeline.frechet import Moments, distance
from training.data import SEEDS, VALIDATION, device_of, seeded, to_bytes, to_float
from training.objective import Kind, Objective, Setting, Split, cosine
from training.share import Share

R1_EVERY = 16
AUGMENTATIONS = 5


@dataclass(frozen=True, kw_only=True)
class AdversarialConfig:
    """Settings of a generator's adversarial training."""

    go_on: bool = True
    """Start from the pack's generator; otherwise from nothing, with the shape below."""
    freeze_mapping: bool = True
    """With go_on: keep W as it is, so that its directions keep their meaning."""
    style_dim: int = 128
    n_mlp: int = 4
    channels: Mapping[int, int] = field(default_factory=lambda: {4: 192, 8: 192, 16: 128, 32: 72, 64: 32})
    """Width at each resolution, of the discriminator too."""
    steps: int = 2000
    warmup: int = 100
    """First steps in which the discriminator learns alone."""
    batch: int = 16
    rate: float = 2e-3
    r1: float = 1.0
    """Gamma of R1; StyleGAN2's 10 is for larger pictures."""
    mixing: float = 0.5
    """Share of pictures whose slots come from two latents."""
    augment: bool = True
    seed: int = 81
    measured: int = 1000
    """Generated pictures that the Frechet distance is measured on."""


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Real pictures in [-1, 1], two latents per picture and the slot where the second begins, random numbers, and what this step does."""

    real_BCHW: Tensor
    z_2BD: Tensor
    cut_B: Tensor
    chance_2BA: Tensor
    penalised: bool
    warming_up: bool


def augment(image_BCHW: Tensor, chance_BA: Tensor) -> Tensor:
    """Change brightness, saturation and contrast and shift by up to an eighth of the side, by numbers in [0, 1]; differentiable."""
    bright, saturated, contrast, dx, dy = (chance_BA[:, i, None, None, None] for i in range(AUGMENTATIONS))
    x = image_BCHW + (bright - 0.5)
    grey = x.mean(1, keepdim=True)
    x = grey + (x - grey) * (saturated * 2)
    middle = x.mean((1, 2, 3), keepdim=True)
    x = middle + (x - middle) * (contrast + 0.5)
    side = x.shape[-1]
    reach = side // 8
    steps = torch.arange(side, device=x.device)
    down, right = (torch.floor(d.flatten()[:, None] * (2 * reach + 1)).clamp_max(2 * reach).long() + steps for d in (dy, dx))
    padded = F.pad(x, (reach, reach, reach, reach)).permute(0, 2, 3, 1)
    which = torch.arange(len(x), device=x.device)[:, None, None]
    return padded[which, down[:, :, None], right[:, None, :]].permute(0, 3, 1, 2)


def neighbours(image_BCHW: Tensor) -> Tensor:
    """Reorder pictures so that the discriminator's minibatch deviation groups those that follow each other. Raises ValueError."""
    if len(image_BCHW) % STDDEV_GROUP:
        raise ValueError(f"adversarial: a worker's share of the batch must be a multiple of {STDDEV_GROUP}, found {len(image_BCHW)}")
    return image_BCHW.unflatten(0, (-1, STDDEV_GROUP)).transpose(0, 1).flatten(0, 1)


def judged_by_frozen(net: nn.Module, image_BCHW: Tensor) -> Tensor:
    """Run a network so that its input gets gradients and its parameters get none."""
    scores: Tensor = functional_call(net, {name: value.detach() for name, value in net.named_parameters()}, (image_BCHW,))
    return scores


class AdversarialObjective(Objective[Batch]):
    """Generator against discriminator; only the generator is averaged and goes into the pack."""

    average, ahead = 0.995, 2

    def __init__(self, config: AdversarialConfig, setting: Setting) -> None:
        super().__init__(setting)
        self.config, self.steps, self.batch, self.seed = config, config.steps, config.batch, config.seed
        self.pack = (setting.needed("a generator's adversarial training"),)
        torch.manual_seed(config.seed)
        self.net: Generator = Generator.from_config(self.network_config())
        if config.go_on:
            self.net.load_state_dict(self.pack[0].generator().state_dict())
            self.net.style.requires_grad_(not config.freeze_mapping)
        self.discriminator = Discriminator(self.net.size, channels=self.net.channels)

    def optimizer(self) -> torch.optim.Optimizer:
        """Return StyleGAN2's Adam, of both networks."""
        trained = [parameter for parameter in self.parameters() if parameter.requires_grad]
        return torch.optim.Adam(trained, lr=self.config.rate, betas=(0.0, 0.99), eps=1e-8)

    def rate(self, step: int) -> float:
        """Return a flat rate that falls to a fiftieth over the second half."""
        return self.config.rate * min(1.0, 2 * cosine(step, steps=self.steps))

    def draw(self, share: Share) -> Batch:
        """Draw real pictures, latents and the numbers that augmentations depend on."""
        config, stream, device = self.config, share.stream(), self.setting.group.device
        rows, pictures = self.setting.rows.train, self.setting.pictures
        assert pictures is not None
        z = torch.randn(share.batch, 2, self.net.style_dim, generator=stream)
        cut = torch.randint(1, self.net.n_latents, (share.batch,), generator=stream)
        mixed = torch.rand(share.batch, generator=stream) < config.mixing
        chance = torch.rand(share.batch, 2, AUGMENTATIONS, generator=stream)
        return Batch(
            real_BCHW=to_float(pictures.pictures(rows[share.rows(len(rows))])).to(device),
            z_2BD=share.own(z).transpose(0, 1).to(device),
            cut_B=share.own(torch.where(mixed, cut, self.net.n_latents)).to(device),
            chance_2BA=share.own(chance).transpose(0, 1).to(device),
            penalised=share.step % R1_EVERY == 0, warming_up=share.step < config.warmup,
        )  # fmt: skip

    def forward(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the sum of both networks' losses, each without gradient for the other."""
        with self.mixed_precision():
            fake = self._augmented(self.made(batch).float(), batch.chance_2BA[0])
            fooled = judged_by_frozen(self.discriminator, fake).float()
            fake_scores = self.discriminator(fake.detach()).float()
        real = self._augmented(batch.real_BCHW, batch.chance_2BA[1])
        real_scores, penalty = self._real(real, penalised=batch.penalised)
        generator_loss = generator_adversarial_loss(fooled)
        discriminator_loss = discriminator_adversarial_loss(real_scores, fake_scores)
        loss = generator_loss * float(not batch.warming_up) + discriminator_loss + self.config.r1 / 2 * R1_EVERY * penalty
        told = ((real_scores > 0).float().mean() + (fake_scores < 0).float().mean()) / 2
        figures = {"generator_loss": generator_loss, "discriminator_loss": discriminator_loss, "told_apart": told}
        return loss, figures | ({"r1": penalty} if batch.penalised else {})

    def made(self, batch: Batch) -> Tensor:
        """Return the generator's pictures of a batch's latents, some mixed of two."""
        first, second = (self.net.repeat(self.net.mapping(z_BD)) for z_BD in batch.z_2BD)
        slots = torch.arange(self.net.n_latents, device=first.device)
        return self.net.synthesis(torch.where((slots >= batch.cut_B[:, None])[:, :, None], second, first))

    def _augmented(self, image_BCHW: Tensor, chance_BA: Tensor) -> Tensor:
        return neighbours(augment(image_BCHW, chance_BA) if self.config.augment else image_BCHW)

    def _real(self, real_BCHW: Tensor, *, penalised: bool) -> tuple[Tensor, Tensor]:
        """Return the scores of real pictures and R1, which is taken in float32 and 0 on most steps."""
        if not penalised:
            with self.mixed_precision():
                return self.discriminator(real_BCHW).float(), real_BCHW.new_zeros(())
        seen = real_BCHW.detach().requires_grad_()
        scores = self.discriminator(seen)
        return scores, r1_penalty(scores, seen)

    def measure(self, split: Split) -> dict[str, float]:
        """Return the Frechet distance to unseen pictures, that of as many training pictures, and how many pictures show a face."""
        rows, pictures, pack = self.setting.rows, self.setting.pictures, self.pack[0]
        assert pictures is not None
        unseen = _moments(pack.clip(), pictures.pictures(rows.validation if split == "validation" else rows.held_out))
        made = sample(self.net, self.config.measured, seed=SEEDS[split] + 8)
        numbers = {"fid": _between(_moments(pack.clip(), made), unseen)}
        if split == "held_out":
            numbers["fid_floor"] = _between(_moments(pack.clip(), pictures.pictures(rows.train[: self.config.measured])), unseen)
            if self.config.go_on:
                before = sample(pack.generator(), self.config.measured, seed=SEEDS[split] + 8)
                numbers["fid_before"] = _between(_moments(pack.clip(), before), unseen)
        return numbers | ({"faces": faces(pack, made)} if "landmarks" in pack.info.networks else {})

    def score(self, numbers: Mapping[str, float]) -> float:
        """Return the Frechet distance, negated."""
        return -numbers["fid"]

    def network_config(self) -> Mapping[str, object]:
        """Return the generator's shape: the pack's, or the settings'."""
        config, pack = self.config, self.pack[0]
        if config.go_on:
            return dict(pack.info.networks["generator"].config)
        return {"size": pack.size, "style_dim": config.style_dim, "n_mlp": config.n_mlp, "channels": dict(config.channels)}

    def extra(self) -> Mapping[str, Tensor]:
        """Return the mean latent."""
        return {"latent_avg": self.net.mean_latent()}

    def sheet(self) -> Tensor:
        """Return 32 samples, always of the same latents."""
        return to_float(sample(self.net, 32, seed=VALIDATION)).unflatten(0, (4, 8))


@torch.no_grad()
def sample(net: Generator, n: int, *, seed: int) -> Tensor:
    """Return the generator's pictures of `n` seeded latents, as bytes."""
    z = torch.randn(n, net.style_dim, generator=seeded(seed)).to(device_of(net))
    return torch.cat([to_bytes(net.synthesis(net.repeat(net.mapping(part)))).cpu() for part in z.split(100)])


@torch.no_grad()
def faces(pack: Pack, bank: Tensor) -> float:
    """Return the share of pictures in which the pack's landmark network finds a face."""
    images = list(bank.permute(0, 2, 3, 1).numpy())
    scores = [pack.landmarks().locate(images[i : i + 100])[1] for i in range(0, len(images), 100)]
    return float((torch.cat(scores) >= MIN_FACE_SCORE).float().mean())


@torch.no_grad()
def _moments(clip: ClipModel, bank: Tensor) -> Moments:
    parts = [clip.embed_images(to_float(part).to(device_of(clip))) for part in bank.split(100)]
    moments = Moments.empty(parts[0].shape[1])
    for features_BE in parts:
        moments.update(features_BE)
    return moments


def _between(a: Moments, b: Moments) -> float:
    found = distance(a, b)
    if found is None:
        raise ValueError(f"the Frechet distance needs two or more pictures on both sides, found {a.count} and {b.count}")
    return found


KIND = Kind(
    config=AdversarialConfig, objective=AdversarialObjective, network="generator",
    summary="StyleGAN2 generator on pictures from shards, against a discriminator", needs=("clip",), reads_shards=True,
)  # fmt: skip
