"""Train StyleGAN-NADA: a generator moved to a text's domain by the direction between the pictures of two generators in CLIP.

Both generators paint the same latents; one stays as it is, the other learns that CLIP's direction from its twin's picture to its own is
that from the source text to the target text (StyleGAN-NADA eq. 3). Mapping network and toRGB stay, and of the convolutions only those of
the slots that matter most to the text are trained in a step: the slots that a step of latent optimisation would move furthest (section
4.2, one such step). Differs: style maps, noise strengths and biases stay too; Adam's settings are not scaled for lazy regularisation; CLIP
sees both pictures through one random window and worn alike, as in HyperEditor's training (training/windows.py).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.func import functional_call

from models.clip import ClipModel
from models.losses import directional_clip_loss, global_clip_loss
from models.pack import Pack
from models.perception import IdentityNet
from models.stylegan2 import Generator
from training.data import SEEDS, VALIDATION, seeded, wear
from training.objective import Kind, Objective, Setting, SettingError, Split
from training.share import Share
from training.windows import seen_through, windows


@dataclass(frozen=True, kw_only=True)
class NadaConfig:
    """Settings of StyleGAN-NADA's training; `layers` 0 trains all convolutions in every step (the paper: 2/3 of them for textures)."""

    target: str = "a cartoon of a face"
    source: str = "a face"
    layers: int = 6
    """Slots of W+ whose convolutions a step trains."""
    probes: int = 8
    """Random latents that choose them."""
    steps: int = 300
    batch: int = 8
    rate: float = 2e-3
    zoom: float = 0.25
    wear: float = 1.0
    seed: int = 91
    measured: int = 500

    def __post_init__(self) -> None:
        if not self.target.strip() or not self.source.strip() or self.layers < 0 or self.probes < 1:
            raise ValueError(f"target {self.target!r}, source {self.source!r}, layers {self.layers}, probes {self.probes}: "
                             "expected two texts, 0 or more and 1 or more")  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Latents of the pictures and of the probes, windows and seeds of wear."""

    z_BD: Tensor
    probe_PD: Tensor
    window_B3: Tensor
    wear_seeds: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class Frozen:
    """The twin that stays, and the networks that judge."""

    generator: Generator
    clip: ClipModel
    identity: IdentityNet | None

    @classmethod
    def of(cls, pack: Pack) -> Frozen:
        """Take them out of a pack."""
        return cls(generator=pack.generator(), clip=pack.clip(), identity=pack.identity() if "identity" in pack.info.networks else None)


class NadaObjective(Objective[Batch]):
    """Directional CLIP loss between the twins' pictures."""

    def __init__(self, config: NadaConfig, setting: Setting) -> None:
        super().__init__(setting)
        self.config, self.steps, self.batch, self.seed = config, config.steps, config.batch, config.seed
        pack = setting.needed("StyleGAN-NADA's training")
        self.frozen = Frozen.of(pack)
        self.shape = dict(pack.info.networks["generator"].config)
        self.net: Generator = Generator.from_config(self.shape)
        self.net.load_state_dict(self.frozen.generator.state_dict())
        self.target_1E = self.frozen.clip.embed_texts([config.target])
        self.direction_1E = self.target_1E - self.frozen.clip.embed_texts([config.source])
        self.slot_of = {f"{name}.conv.weight": module.conv.layer.latent for name, module in self.net.named_modules() if is_conv(module)}
        self.slots = sorted(set(self.slot_of.values()))  # the last slot styles toRGB alone
        if config.layers > len(self.slots):
            raise SettingError(f"settings.layers {config.layers}: this generator's convolutions have {len(self.slots)} slots")
        for name, parameter in self.net.named_parameters():
            parameter.requires_grad_(name in self.slot_of)

    def optimizer(self) -> torch.optim.Optimizer:
        """Return Adam of the convolutions' weights."""
        return torch.optim.Adam([p for p in self.net.parameters() if p.requires_grad], lr=self.config.rate, betas=(0.0, 0.99))

    def rate(self, step: int) -> float:
        """Return a constant rate."""
        return self.config.rate

    def draw(self, share: Share) -> Batch:
        """Draw latents and windows; all workers choose layers by the same probes."""
        dim, device, stream = self.net.style_dim, self.setting.group.device, share.stream()
        z = torch.randn(share.batch, dim, generator=stream)
        window = share.own(windows(share.batch, zoom=self.config.zoom, whole=0.0, generator=share.stream(2)))
        probe = torch.randn(self.config.probes, dim, generator=share.stream(1))
        return Batch(z_BD=share.own(z).to(device), probe_PD=probe.to(device), window_B3=window.to(device), wear_seeds=share.seeds(3))

    def forward(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the mean directional loss, with gradients for the chosen layers alone."""
        chosen = self.chosen_slots(batch.probe_PD)
        weights = dict(self.net.named_parameters())
        used = {name: p if self.slot_of.get(name) in chosen else p.detach() for name, p in weights.items()}
        with torch.no_grad(), self.mixed_precision():
            w = self.frozen.generator.repeat(self.frozen.generator.mapping(batch.z_BD))
            before = self.frozen.generator.synthesis(w).float()
        with self.mixed_precision():
            after = functional_call(_Painter(self.net), {f"net.{name}": p for name, p in used.items()}, (w,)).float()
        embedded = [self._embedded(picture, batch) for picture in (after, before)]
        loss = directional_clip_loss(embedded[0], embedded[1].detach(), self.direction_1E).mean()
        held = sum((p.sum() * 0 for name, p in weights.items() if p.requires_grad and self.slot_of[name] not in chosen), loss * 0)
        return loss + held, {"clip": loss}

    def chosen_slots(self, probe_PD: Tensor) -> set[int]:
        """Return the slots of W+ whose latents the text pulls at most."""
        if not self.config.layers:
            return set(self.slots)
        with torch.enable_grad():
            w = self.net.repeat(self.net.mapping(probe_PD)).detach().clone().requires_grad_()
            loss = global_clip_loss(self.frozen.clip.embed_images(self.net.synthesis(w).clamp(-1, 1)), self.target_1E).mean()
            (gradient,) = torch.autograd.grad(loss, [w])
        pull = gradient.norm(dim=2).mean(0).tolist()
        return set(sorted(self.slots, key=lambda slot: -pull[slot])[: self.config.layers])

    def _embedded(self, picture_BCHW: Tensor, batch: Batch) -> Tensor:
        seen = seen_through(picture_BCHW, batch.window_B3)
        if self.config.wear:
            seen = wear(seen, streams=[seeded(seed) for seed in batch.wear_seeds], amount=self.config.wear)
        with self.mixed_precision():
            return self.frozen.clip.embed_images(seen).float()

    @torch.no_grad()
    def measure(self, split: Split) -> dict[str, float]:
        """Return how well the twins' difference follows the text (cosine), its similarity to the target, and what stays of the person."""
        frozen, totals = self.frozen, list[Tensor]()
        z = torch.randn(self.config.measured, self.net.style_dim, generator=seeded(SEEDS[split] + 9)).to(self.setting.group.device)
        for part in z.split(100):
            w = frozen.generator.repeat(frozen.generator.mapping(part))
            before, after = (net.synthesis(w).clamp(-1, 1) for net in (frozen.generator, self.net))
            embedded = [frozen.clip.embed_images(picture) for picture in (after, before)]
            columns = [
                1 - directional_clip_loss(embedded[0], embedded[1], self.direction_1E),
                1 - global_clip_loss(embedded[0], self.target_1E),
                1 - global_clip_loss(embedded[1], self.target_1E),
            ]
            if frozen.identity is not None:
                columns.append((frozen.identity(after) * frozen.identity(before)).sum(1))
            totals.append(torch.stack(columns, 1))
        names = ("direction", "style", "style_before", "identity")
        return dict(zip(names, torch.cat(totals).mean(0).tolist(), strict=False))

    def score(self, numbers: Mapping[str, float]) -> float:
        """Return the similarity to the target text."""
        return numbers["style"]

    def network_config(self) -> Mapping[str, object]:
        """Return the generator's shape."""
        return self.shape

    def extra(self) -> Mapping[str, Tensor]:
        """Return the mean latent."""
        return {"latent_avg": self.net.mean_latent()}

    @torch.no_grad()
    def sheet(self) -> Tensor:
        """Return eight pictures of either twin."""
        z = torch.randn(8, self.net.style_dim, generator=seeded(VALIDATION)).to(self.setting.group.device)
        w = self.net.repeat(self.net.mapping(z))
        return torch.stack([net.synthesis(w).clamp(-1, 1) for net in (self.frozen.generator, self.net)], 1)


class _Painter(torch.nn.Module):
    """Run a generator's synthesis as `forward`, which functional_call needs."""

    def __init__(self, net: Generator) -> None:
        super().__init__()
        self.net = net

    def forward(self, latents_BLD: Tensor) -> Tensor:
        return self.net.synthesis(latents_BLD)


def is_conv(module: torch.nn.Module) -> bool:
    """Say whether a module is a styled convolution, not toRGB."""
    from models.stylegan2 import StyledConv

    return isinstance(module, StyledConv)


KIND = Kind(
    config=NadaConfig, objective=NadaObjective, network="generator", summary="generator moved to a text's domain (StyleGAN-NADA)",
    needs=("generator", "clip"),
)  # fmt: skip
