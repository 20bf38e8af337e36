"""Teach a StyleGAN2 generator a folder of pictures, without captions or labels, against a discriminator.

StyleGAN2's non-saturating loss and lazy R1 (Karras et al. 2020), with DiffAugment's colour and translation (Zhao et al. 2020) on all
that the discriminators see, so that a few hundred pictures last. A discriminator that starts from nothing needs many more steps than a
CPU has time for to say what is missing; so small heads on the feature maps of the pack's CLIP judge too (Projected GANs, Sauer et al.
2021; `features`), and the generator may be asked to paint half of the pictures from the codes that the pack's encoder finds for real ones
(`reconstruct`). With `go_on` the pack's generator is fine-tuned and the discriminator, which no pack keeps, starts from nothing; until it
has learnt to tell (`warmup`) it teaches the generator nothing.
One backward pass serves both networks: the discriminator's loss sees detached pictures, the generator's runs a detached discriminator.
Groups of the minibatch deviation are neighbours in the global batch, so several workers follow one as long as every share is a multiple
of 4. Differs: no path length penalty and no adaptive augmentation; noise is the stored one, as everywhere in this project.

B pictures, D width of W, L slots, A random numbers of an augmentation.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from models.clip import ClipModel
from models.discriminator import STDDEV_GROUP, Discriminator, FeatureHeads
from models.inverters import Inverter
from models.losses import discriminator_adversarial_loss, generator_adversarial_loss, r1_penalty
from models.pack import Pack
from models.stylegan2 import Generator
from pipeline.align import MIN_FACE_SCORE
from pipeline.frechet import Moments, distance
from training.data import SEEDS, VALIDATION, device_of, seeded, to_bytes, to_float
from training.kinds.generator import feature_loss, picture_loss
from training.objective import Kind, Objective, Setting, SettingError, Split, cosine
from training.share import Share

R1_EVERY = 16
AUGMENTATIONS = 5
Embedder = Callable[[Tensor], Tensor]


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
    r1: float = 0.3
    """Gamma of R1; StyleGAN2's 10 is for larger pictures."""
    features: float = 1.0
    """Weight of the heads on CLIP's feature maps; 0 needs no CLIP with a residual picture tower, and is plain StyleGAN2."""
    reconstruct: float = 0.0
    """Weight of painting training pictures from the codes that an encoder of the pack finds for them (`inverter`): pixels, edges and CLIP's
    features. Every other picture is then one of these, the rest are random; it learns a look in hundreds of steps."""
    inverter: str = "e4e"
    mixing: float = 0.5
    """Share of pictures whose slots come from two latents."""
    colour: float = 0.25
    """How much augmentation changes colours: 1 is DiffAugment's, for a few hundred pictures; 0 leaves them alone."""
    shift: float = 0.125
    """How far augmentation moves a picture, as a share of its side."""
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
    anchored_B: Tensor
    """Which pictures are painted from the code of a real one, that at the same place."""
    penalised: bool
    warming_up: bool


def augment(image_BCHW: Tensor, chance_BA: Tensor, *, colour: float = 1.0, shift: float = 0.125) -> Tensor:
    """Change brightness, saturation and contrast and shift, by numbers in [0, 1] of which 0.5 changes nothing; differentiable.

    With `colour` 1: brightness by up to 0.5, saturation up to twofold, contrast by up to half. `shift` is a share of the side.
    """
    bright, saturated, contrast = ((chance_BA[:, i, None, None, None] - 0.5) * colour for i in range(3))
    x = image_BCHW + bright
    grey = x.mean(1, keepdim=True)
    x = grey + (x - grey) * (1 + 2 * saturated)
    middle = x.mean((1, 2, 3), keepdim=True)
    return shifted(middle + (x - middle) * (1 + contrast), chance_BA[:, 3:], reach=int(shift * x.shape[-1]))


def shifted(x: Tensor, chance_B2: Tensor, *, reach: int) -> Tensor:
    """Move pictures right and down by whole pixels, at most `reach` either way, by numbers in [0, 1]; what comes in is grey."""
    steps = torch.arange(x.shape[-1], device=x.device)
    right, down = ((chance_B2 * (2 * reach + 1)).long().clamp_max(2 * reach)[:, i, None] + steps for i in range(2))
    padded = F.pad(x, (reach, reach, reach, reach)).permute(0, 2, 3, 1)
    which = torch.arange(len(x), device=x.device)[:, None, None]
    return padded[which, down[:, :, None], right[:, None, :]].permute(0, 3, 1, 2)


def neighbours(image_BCHW: Tensor) -> Tensor:
    """Reorder pictures so that the discriminator's minibatch deviation groups those that follow each other. Raises ValueError."""
    if len(image_BCHW) % STDDEV_GROUP:
        raise ValueError(
            f"adversarial: a worker's share of the batch must be a multiple of {STDDEV_GROUP}, found {len(image_BCHW)}: "
            f"make --settings.batch a multiple of {STDDEV_GROUP} x workers x --loop.accumulate"
        )
    return image_BCHW.unflatten(0, (-1, STDDEV_GROUP)).transpose(0, 1).flatten(0, 1)


def judged_by_frozen(net: nn.Module, seen: Tensor | list[Tensor]) -> Tensor:
    """Run a network so that its input gets gradients and its parameters get none."""
    scores: Tensor = functional_call(net, {name: value.detach() for name, value in net.named_parameters()}, (seen,))
    return scores


def map_channels(clip: ClipModel, size: int) -> list[int]:
    """Return the widths of CLIP's feature maps. Raises SettingError where it has none."""
    try:
        return [x.shape[1] for x in clip.feature_maps(torch.zeros(1, 3, size, size, device=device_of(clip)))]
    except TypeError as error:
        raise SettingError(f"--settings.features: {error}; say --settings.features 0") from error


class AdversarialObjective(Objective[Batch]):
    """Generator against discriminator; only the generator is averaged and goes into the pack."""

    average, ahead, multiple = 0.995, 2, STDDEV_GROUP
    penalty: Tensor

    def __init__(self, config: AdversarialConfig, setting: Setting) -> None:
        super().__init__(setting)
        self.config, self.steps, self.batch, self.seed = config, config.steps, config.batch, config.seed
        self.restarts = (config.warmup,)  # Adam's memory of the warm-up's zero gradients would make the first real ones count tenfold
        self.pack = (setting.needed("a generator's adversarial training"),)
        _ = setting.rows  # raises where there are no pictures
        torch.manual_seed(config.seed)
        self.net: Generator = Generator.from_config(self.network_config())
        if config.go_on:
            self.net.load_state_dict(self.pack[0].generator().state_dict())
            self.net.style.requires_grad_(not config.freeze_mapping)
        self.discriminator = Discriminator(self.net.size, channels=self.net.channels)
        if config.features:
            self.heads = FeatureHeads(map_channels(self.pack[0].clip(), self.net.size))
        self.inverter: tuple[Inverter, ...] = (self.pack[0].inverter(config.inverter),) if config.reconstruct else ()
        self.register_buffer("penalty", torch.zeros(()))

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
            anchored_B=(share.places % 2 == 0).to(device) & bool(config.reconstruct),
            penalised=share.step % R1_EVERY == 0, warming_up=share.step < config.warmup,
        )  # fmt: skip

    def forward(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the sum of both networks' losses, each without gradient for the other."""
        with self.mixed_precision():
            made = self.made(batch).float()
            fake = self._augmented(made, batch.chance_2BA[0])
            fooled = judged_by_frozen(self.discriminator, fake).float()
            fake_scores = self.discriminator(fake.detach()).float()
        real = self._augmented(batch.real_BCHW, batch.chance_2BA[1])
        real_scores, penalty = self._real(real, penalised=batch.penalised)
        generator_loss = generator_adversarial_loss(fooled)
        discriminator_loss = discriminator_adversarial_loss(real_scores, fake_scores)
        by_features = self._by_features(fake, real) if self.config.features else (0.0, 0.0)
        generator_loss = generator_loss + self.config.features * by_features[0]
        discriminator_loss = discriminator_loss + self.config.features * by_features[1]
        copied = self._copied(made, batch) if self.config.reconstruct else fake.new_zeros(())
        painted = generator_loss * float(not batch.warming_up) + self.config.reconstruct * copied
        loss = painted + discriminator_loss + self.config.r1 / 2 * R1_EVERY * penalty
        told = ((real_scores > 0).float().mean() + (fake_scores < 0).float().mean()) / 2
        figures = {"generator_loss": generator_loss, "discriminator_loss": discriminator_loss, "told_apart": told}
        figures |= {"copied": copied} if self.config.reconstruct else {}
        return loss, figures | {"r1": penalty if batch.penalised else self.penalty}

    def observe(self, figures: Mapping[str, Tensor]) -> None:
        """Keep the newest R1, which most steps do not take, for the log."""
        self.penalty.copy_(figures["r1"])

    def made(self, batch: Batch) -> Tensor:
        """Return the generator's pictures of a batch's latents, some mixed of two, and of the codes of real pictures."""
        first, second = (self.net.repeat(self.net.mapping(z_BD)) for z_BD in batch.z_2BD)
        slots = torch.arange(self.net.n_latents, device=first.device)
        w_BLD = torch.where((slots >= batch.cut_B[:, None])[:, :, None], second, first)
        if self.config.reconstruct:
            with torch.no_grad():
                codes = self.inverter[0].invert(batch.real_BCHW[batch.anchored_B]).latents_BLD
            w_BLD = w_BLD.index_put((batch.anchored_B,), codes.to(w_BLD.dtype))
        return self.net.synthesis(w_BLD)

    def _copied(self, made_BCHW: Tensor, batch: Batch) -> Tensor:
        """Return how far the pictures of real ones' codes are from them."""
        made, wanted = made_BCHW[batch.anchored_B], batch.real_BCHW[batch.anchored_B]
        with self.mixed_precision():
            features = feature_loss(self.pack[0].clip(), made, wanted)
        return picture_loss(made, wanted, torch.ones_like(wanted[:1, :1]), edges=1.0) + features

    def _augmented(self, image_BCHW: Tensor, chance_BA: Tensor) -> Tensor:
        return neighbours(augment(image_BCHW, chance_BA, colour=self.config.colour, shift=self.config.shift))

    def _by_features(self, fake_BCHW: Tensor, real_BCHW: Tensor) -> tuple[Tensor, Tensor]:
        """Return the losses of the generator and of the heads on CLIP's feature maps."""
        clip = self.pack[0].clip()
        with self.mixed_precision():
            fake = clip.feature_maps(fake_BCHW)
            with torch.no_grad():
                real = clip.feature_maps(real_BCHW)
            fooled = judged_by_frozen(self.heads, fake).float()
            fake_scores, real_scores = (self.heads([x.detach() for x in maps]).float() for maps in (fake, real))
        return generator_adversarial_loss(fooled), discriminator_adversarial_loss(real_scores, fake_scores)

    def _real(self, real_BCHW: Tensor, *, penalised: bool) -> tuple[Tensor, Tensor]:
        """Return the scores of real pictures and R1, which is taken in float32 and 0 on most steps."""
        if not penalised:
            with self.mixed_precision():
                return self.discriminator(real_BCHW).float(), real_BCHW.new_zeros(())
        seen = real_BCHW.detach().requires_grad_()
        scores = self.discriminator(seen)
        return scores, r1_penalty(scores, seen)

    def measure(self, split: Split) -> dict[str, float]:
        """Return Frechet distances to unseen pictures, and how many pictures show a face.

        `fid` is on CLIP's features, `fid_identity` on those of the identity network, which no loss looks at; on held-out pictures also
        that of training pictures (`_floor`) and of the generator that training began with (`_before`).
        """
        rows, pictures, pack = self.setting.rows, self.setting.pictures, self.pack[0]
        assert pictures is not None
        unseen = pictures.pictures(rows.unseen(split))
        made = sample(self.net, self.config.measured, seed=SEEDS[split] + 8)
        banks = {"": made}
        if split == "held_out":
            banks["_floor"] = pictures.pictures(rows.train[: self.config.measured])
            if self.config.go_on:
                banks["_before"] = sample(pack.generator(), self.config.measured, seed=SEEDS[split] + 8)
        embedders: dict[str, Embedder] = {"fid": pack.clip().embed_images}
        if "identity" in pack.info.networks:
            embedders["fid_identity"] = pack.identity()
        device = self.setting.group.device
        numbers: dict[str, float] = {}
        for name, embed in embedders.items():
            wanted = moments(embed, unseen, device=device)
            numbers |= {name + what: frechet(moments(embed, bank, device=device), wanted) for what, bank in banks.items()}
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
def moments(embed: Embedder, bank: Tensor, *, device: torch.device) -> Moments:
    """Return the moments of stored pictures on a network's features."""
    parts = [embed(to_float(part).to(device)) for part in bank.split(100)]
    found = Moments.empty(parts[0].shape[1])
    for features_BE in parts:
        found.update(features_BE)
    return found


def frechet(a: Moments, b: Moments) -> float:
    """Return the Frechet distance of two sets. Raises ValueError where one has too few pictures."""
    found = distance(a, b)
    if found is None:
        raise ValueError(f"the Frechet distance needs two or more pictures on both sides, found {a.count} and {b.count}")
    return found


KIND = Kind(
    config=AdversarialConfig, objective=AdversarialObjective, network="generator",
    summary="StyleGAN2 generator on pictures from shards, against a discriminator", needs=("clip",), reads_shards=True,
)  # fmt: skip
