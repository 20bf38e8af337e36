"""Train e4e (into W+) and the W encoder on renders, with the generator and the identity net frozen.

Losses: the known code of every portrait, L1 and edges to the picture, identity (ArcFace features), and for e4e the size of the
differences between slots (e4e eq. 5), so that codes stay close to W where editing works. A third of each batch are the generator's own
pictures. Differs from e4e: LPIPS is replaced by the pictures' differences, since no pretrained AlexNet can ship; there is no latent
discriminator, since known codes hold W+ to W; the losses that need the generator are taken on every `picture_every`-th step.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from models.encoders import Encoder4Editing, WEncoder
from models.losses import delta_loss
from models.perception import AttributeNet, IdentityNet
from models.stylegan2 import Generator
from portraits import parameters_from_latent, sample_parameters
from training.data import SEEDS, VALIDATION, aligned_bank, device_of, seeded, to_float, wear
from training.kinds.generator import face_weight, picture_loss, portrait_latents
from training.objective import Kind, Objective, Setting, Split, cosine
from training.share import Share


@dataclass(frozen=True, kw_only=True)
class EncoderConfig:
    """Settings of an encoder's training."""

    kind: Literal["e4e", "w"] = "e4e"
    input_size: int = 64
    widths: Sequence[int] = (24, 48, 96, 128)
    depths: Sequence[int] = (1, 1, 2, 1)
    style_width: int = 64
    pictures: int = 24_000
    steps: int = 3000
    batch: int = 24
    rate: float = 1.5e-3
    identity: float = 0.5
    code: float = 10.0
    delta: float = 2e-4
    picture_every: int = 3
    seed: int = 61
    measured: int = 1000


def build(config: EncoderConfig, generator: Generator) -> Encoder4Editing | WEncoder:
    """Make the untrained encoder."""
    return (Encoder4Editing if config.kind == "e4e" else WEncoder).from_config(network_config(config, generator))


def network_config(config: EncoderConfig, generator: Generator) -> Mapping[str, object]:
    """Return the constructor arguments that the pack stores."""
    shared = {
        "size": generator.size,
        "input_size": config.input_size,
        "style_dim": generator.style_dim,
        "widths": list(config.widths),
        "depths": list(config.depths),
    }
    return shared | ({"style_width": config.style_width} if config.kind == "e4e" else {})


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Pictures in [-1, 1], those of the generator's own first, as given and as worn; codes in W where known, and the losses' weights."""

    image_BCHW: Tensor
    worn_BCHW: Tensor
    code_BD: Tensor
    known_B: Tensor
    with_picture: bool


class EncoderObjective(Objective[Batch]):
    """Regress known codes, and picture and identity through the frozen generator.

    Rendered portraits have known codes; pictures from shards have none, but the generator's own pictures among them do.
    """

    average, clip_norm = 0.997, 1.0

    def __init__(self, config: EncoderConfig, setting: Setting) -> None:
        super().__init__(setting)
        self.config, self.steps, self.batch, self.seed = config, config.steps, config.batch, config.seed
        self.frozen = Frozen.of(setting)
        self.ahead = 2 if setting.pictures is not None else 0
        torch.manual_seed(config.seed)
        self.net: Encoder4Editing | WEncoder = build(config, self.frozen.generator)
        self.weight = face_weight(self.frozen.generator.size)

    def prepare(self) -> None:
        """Render the training portraits, unless pictures come from shards."""
        if self.setting.pictures is None:
            size, dim = self.frozen.generator.size, self.frozen.generator.style_dim
            p = parameters_from_latent(torch.randn(self.config.pictures, dim, generator=seeded(self.seed)))
            self.bank, self.known = aligned_bank(p, size=size, seed=self.seed, jitter=0.008), portrait_latents(p, dim)

    def optimizer(self) -> torch.optim.Optimizer:
        """Return AdamW."""
        return torch.optim.AdamW(self.net.parameters(), lr=self.config.rate, weight_decay=0.01, betas=(0.9, 0.98))

    def rate(self, step: int) -> float:
        """Return a cosine schedule."""
        return self.config.rate * cosine(step, steps=self.steps)

    def draw(self, share: Share) -> Batch:
        """Draw pictures; every third is the generator's own."""
        own = share.places % 3 == 0
        if self.setting.pictures is None:
            rows = share.rows(len(self.bank))
            image, code, known = to_float(self.bank[rows]), self.known[rows], torch.ones(len(rows))
        else:
            rows = self.setting.rows.train
            image = to_float(self.setting.pictures.pictures(rows[share.rows(len(rows))]))
            code, known = self._sampled(share), own.float()
        device = self.setting.group.device
        image, code = image.to(device), code.to(device)
        image = self._with_own(image, code, own.to(device))
        worn = wear(image.cpu(), streams=share.streams(), amount=0.5).to(device)
        return Batch(
            image_BCHW=image, worn_BCHW=worn, code_BD=code, known_B=known.to(device),
            with_picture=share.step % self.config.picture_every == 0,
        )  # fmt: skip

    @torch.no_grad()
    def _sampled(self, share: Share) -> Tensor:
        """Return codes of the generator's mapping network."""
        z = share.own(torch.randn(share.batch, self.frozen.generator.style_dim, generator=share.stream(1)))
        return self.frozen.generator.mapping(z.to(self.setting.group.device))

    @torch.no_grad()
    def _with_own(self, image_BCHW: Tensor, code_BD: Tensor, own_B: Tensor) -> Tensor:
        """Replace the pictures at `own` by the generator's of the same codes."""
        generator = self.frozen.generator
        image_BCHW = image_BCHW.clone()
        image_BCHW[own_B] = generator.synthesis(generator.repeat(code_BD[own_B])).clamp(-1, 1)
        return image_BCHW

    def forward(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the weighted sum of code, delta, picture and identity losses."""
        config, frozen = self.config, self.frozen
        with self.mixed_precision():
            residual = self.net(batch.worn_BCHW).float()
        w = residual + frozen.mean_latent
        each = (w - frozen.generator.repeat(batch.code_BD)).square().mean((1, 2))
        code = (each * batch.known_B).mean()
        loss = config.code * code + config.delta * delta_loss(w)
        if not batch.with_picture:
            return loss, {"code": code}
        with self.mixed_precision():
            made = frozen.generator.synthesis(w).float()
            same = (frozen.identity(made).float() * frozen.identity(batch.image_BCHW).float()).sum(1).mean()
        pixel = picture_loss(made, batch.image_BCHW, self.weight.to(made), edges=1.0)
        return loss + pixel + config.identity * (1 - same), {"code": code, "picture": pixel, "identity": same}

    def measure(self, split: Split) -> dict[str, float]:
        """Return how well unseen pictures are inverted: held-out renders, or the shards' own pictures where there is no truth."""
        frozen = self.frozen
        if self.setting.pictures is not None:
            rows = self.setting.rows.unseen(split)
            return measure_pictures(self.net, frozen=frozen, bank=self.setting.pictures.pictures(rows))
        count = self.config.measured if split == "held_out" else min(300, self.config.measured)
        return measure(self.net, frozen=frozen, seed=SEEDS[split] + 6, pictures=count)

    def score(self, numbers: Mapping[str, float]) -> float:
        """Return the identity similarity."""
        return numbers["identity"]

    def network_config(self) -> Mapping[str, object]:
        """Return the encoder's shape."""
        return network_config(self.config, self.frozen.generator)

    def sheet(self) -> Tensor:
        """Return pictures beside their reconstructions."""
        if self.setting.pictures is not None:
            image = to_float(self.setting.pictures.pictures(self.setting.rows.validation[:8]))
        else:
            image = to_float(aligned_bank(sample_parameters(8, seeded(VALIDATION)), size=self.frozen.generator.size, seed=VALIDATION))
        image = image.to(self.setting.group.device)
        return torch.stack([image, self.frozen.generator.synthesis(self.net(image) + self.frozen.mean_latent).clamp(-1, 1)], 1)


@dataclass(frozen=True, kw_only=True)
class Frozen:
    """The networks that training leans on; `attributes` and `threshold` only where the pack has them."""

    generator: Generator
    mean_latent: Tensor
    identity: IdentityNet
    attributes: AttributeNet | None
    threshold: float

    @classmethod
    def of(cls, setting: Setting) -> Frozen:
        """Take them out of the setting's pack."""
        pack = setting.needed("an encoder's training")
        return cls(
            generator=pack.generator(), mean_latent=pack.mean_latent(), identity=pack.identity(),
            attributes=pack.attributes() if "attributes" in pack.info.networks else None,
            threshold=pack.info.networks["identity"].numbers.get("threshold_far1", 0.0),
        )  # fmt: skip


@torch.no_grad()
def measure(net: Encoder4Editing | WEncoder, *, frozen: Frozen, seed: int, pictures: int = 1000) -> dict[str, float]:
    """Return same-person rate, identity similarity, PSNR and how many attribute decisions survive, on aligned renders."""
    p = parameters_from_latent(torch.randn(pictures, frozen.generator.style_dim, generator=seeded(seed)))
    return measure_pictures(net, frozen=frozen, bank=aligned_bank(p, size=frozen.generator.size, seed=seed))


@torch.no_grad()
def measure_pictures(net: Encoder4Editing | WEncoder, *, frozen: Frozen, bank: Tensor) -> dict[str, float]:
    """Return the figures of `measure` on stored pictures (N, 3, H, W)."""
    totals: list[Tensor] = []
    for part in bank.split(100):
        picture = to_float(part).to(device_of(net))
        made = frozen.generator.synthesis(net(picture) + frozen.mean_latent).clamp(-1, 1)
        same = (frozen.identity(made) * frozen.identity(picture)).sum(1)
        psnr = 10 * torch.log10(4 / (made - picture).square().mean((1, 2, 3)))
        figures = [(same > frozen.threshold).float(), same, psnr]
        if frozen.attributes is not None:
            said = [frozen.attributes.probabilities(image) > 0.5 for image in (made, picture)]
            figures.append((said[0] == said[1]).float().mean(1))
        totals.append(torch.stack(figures, 1))
    names = ("same_person", "identity", "psnr_db", "attributes_kept")
    return dict(zip(names, torch.cat(totals).mean(0).tolist(), strict=False))


KIND = Kind(
    config=EncoderConfig, objective=EncoderObjective, network="e4e", summary="e4e encoder into W+",
    needs=("generator", "identity"), reads_shards=True,
    bound_to=("generator",),
)  # fmt: skip
