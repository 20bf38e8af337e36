"""Train CLIPInverter: pictures are edited by the caption of another portrait, and edited back by their own (CLIPInverter section 3.4).

The first stage trains the CLIPAdapter, the second the CLIPRemapper behind it, by the same two passes. A quarter of the captions are the
picture's own, which ask for nothing. Differs: portraits are rendered, with captions from templates; the source caption's embedding and the
reconstruction stand for the picture before the edit in the directional loss; CLIP sees both through one window and worn
(training/windows.py); where no pretrained AlexNet is on the machine, LPIPS rests on a random one (models/perceptual.py).
"""

from __future__ import annotations

import random
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from models.clipinverter import CLIPAdapter, CLIPRemapper
from models.clipinverter_editor import ClipInverterEditor, adapted
from models.editors import Editor
from models.encoders import Encoder4Editing
from models.inverters import pooled
from models.losses import LatentPair, View, cycle_terms, global_clip_loss, l2_loss, lpips_loss, manipulation_terms, weighted_sum
from models.pack import Pack
from portraits import captions, sample_parameters
from training.data import seeded
from training.editing import EditingConfig, EditorObjective
from training.edits import invert
from training.objective import Setting
from training.share import Share
from training.windows import windows

CAPTIONS = 3
"""Captions that are made of every portrait."""
SHARE_WITHOUT = 0.35
"""Weight of the distance to the picture without the remapper, in the second stage (as released)."""


@dataclass(frozen=True, kw_only=True)
class ClipInverterConfig(EditingConfig):
    """Settings of both stages; `instructions` are what its edits are measured on.

    Differs from the paper, whose weights (L2 1, LPIPS 0.6, rate 5e-4) let 30 % of the edits succeed after 4,000 steps: pictures weigh less,
    since LPIPS rests on a random AlexNet here, and the rate is that of 2,000 steps, not 200,000.
    """

    phases: Sequence[tuple[int, float]] = ((2000, 0.3),)
    batch: int = 16
    rate: float = 3e-3
    lpips: float = 0.1
    mean_latent: float = 0.005
    cycle: float = 1.0
    """Weight of the way back; 0 leaves it out, as an ablation does."""
    own: float = 0.25
    """Share of the pictures that get their own caption."""
    loss: Literal["directional", "global"] = "directional"
    seed: int = 97


@dataclass(frozen=True, kw_only=True)
class Captioned:
    """Pictures, reconstructions, latents, raw embeddings of their own and the wanted caption, windows and seeds of wear."""

    image_BCHW: Tensor
    made_BCHW: Tensor
    latents_BLD: Tensor
    own_BE: Tensor
    wanted_BE: Tensor
    window_B3: Tensor
    wear_seeds: tuple[int, ...]
    l2: float


@dataclass(frozen=True, kw_only=True)
class Frozen:
    """The encoder, the mean latent, and the adapter of the first stage where there is one."""

    encoder: Encoder4Editing
    mean_LD: Tensor
    adapter: CLIPAdapter | None

    @classmethod
    def of(cls, pack: Pack, *, adapter: bool) -> Frozen:
        """Take them out of a pack."""
        return cls(
            encoder=pack.network("e4e", Encoder4Editing), mean_LD=pack.mean_latent(),
            adapter=pack.network("clip_adapter", CLIPAdapter) if adapter else None,
        )  # fmt: skip


class ClipInverterObjective(EditorObjective[Captioned]):
    """Both passes of a stage; subclasses have the network that is trained."""

    what = "CLIPInverter's training"
    frozen: Frozen

    def __init__(self, config: ClipInverterConfig, setting: Setting) -> None:
        super().__init__(config, setting)
        self.stage = config

    @abstractmethod
    def networks(self) -> tuple[CLIPAdapter | None, CLIPRemapper | None]:
        """Return adapter and remapper, the trained one among them."""

    def editor(self) -> Editor:
        """Return the editor that the networks are."""
        adapter, remapper = self.networks()
        return ClipInverterEditor("clipinverter", encoder=self.frozen.encoder, adapter=adapter, remapper=remapper, clip=self.judges.clip)

    @torch.no_grad()
    def prepare(self) -> None:
        """Render and invert portraits, write captions, and embed those."""
        from models.perceptual import PerceptualDistance

        people = sample_parameters(self.config.pictures, seeded(self.seed))
        self.data = invert(people, self.judges, seed=self.seed)
        rng, clip, parts = random.Random(self.seed), self.judges.clip, list[Tensor]()
        for _ in range(CAPTIONS):
            texts = [caption.text for caption in captions(people, rng=rng)]
            parts.append(torch.cat([clip.embed_tokens(clip.tokenize(texts[i : i + 500])).cpu() for i in range(0, len(texts), 500)]))
        self.captions_NKE = torch.stack(parts, 1)
        self.lpips = (PerceptualDistance(device=self.setting.group.device),)  # a tuple: it is not trained

    def draw(self, share: Share) -> Captioned:
        """Draw portraits, one caption of each, and one of another portrait (or the same caption)."""
        n, stream, device = len(self.data.pictures), share.stream(1), self.setting.group.device
        rows = share.rows(n)
        other = share.own(torch.randint(n, (share.batch,), generator=stream))
        which = share.own(torch.randint(CAPTIONS, (share.batch, 2), generator=stream))
        same = share.own(torch.rand(share.batch, generator=stream) < self.stage.own)
        own = self.captions_NKE[rows, which[:, 0]]
        wanted = torch.where(same[:, None], own, self.captions_NKE[other, which[:, 1]])
        batch = self.data.batch(rows, device=device)
        return Captioned(
            image_BCHW=batch.aligned_BCHW, made_BCHW=batch.made_BCHW, latents_BLD=batch.state.latents_BLD, own_BE=own.to(device),
            wanted_BE=wanted.to(device), wear_seeds=share.seeds(3), l2=self.config.phases[self.phase_at(share.step)[0]][1],
            window_B3=share.own(windows(share.batch, zoom=self.config.zoom, whole=0.0, generator=share.stream(2))).to(device),
        )  # fmt: skip

    def forward(self, batch: Captioned) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss of both passes (CLIPInverter eq. 12 and 13) and its terms."""
        weights = {
            "l2": batch.l2, "lpips": self.stage.lpips, "identity": self.stage.identity, "mean_latent": self.stage.mean_latent,
            "clip": self.stage.clip,
        }  # fmt: skip
        change = torch.where((batch.wanted_BE == batch.own_BE).all(1, keepdim=True), 0.0, batch.wanted_BE - batch.own_BE)
        with torch.no_grad():
            original = self._view(batch.image_BCHW, batch)
            start = View(image_BCHW=original.image_BCHW, identity_BE=original.identity_BE, clip_BE=self._embedded(batch.made_BCHW, batch))
        latents, edited, beside = self._pass(batch.image_BCHW, batch.latents_BLD, batch.wanted_BE, batch)
        there = manipulation_terms(edited, start, latents=latents, change_BE=change, network=self.lpips[0])
        if self.stage.loss == "global":
            there["clip"] = global_clip_loss(edited.clip_BE, batch.wanted_BE).mean()
        loss = weighted_sum(there, weights) + self._beside(edited.image_BCHW, beside, batch.l2)
        figures = {name: value.detach() for name, value in there.items()}
        if self.stage.cycle:
            back = self._back(batch, start, edited, change)
            loss = loss + self.stage.cycle * weighted_sum(back, weights)
            figures["cycle"] = weighted_sum(back, weights).detach()
        return loss, figures

    def _back(self, batch: Captioned, start: View, edited: View, change_BE: Tensor) -> dict[str, Tensor]:
        """Return the terms of the way back: the edited picture, its gradient cut, by the picture's own caption."""
        made = edited.image_BCHW.detach()
        with torch.no_grad():
            latents = self.judges.inverter.invert(made).latents_BLD
        pair, returned, _ = self._pass(made, latents, batch.own_BE, batch)
        back = cycle_terms(returned, start, edited=edited, latents=pair, change_BE=change_BE, network=self.lpips[0])
        if self.stage.loss == "global":
            back["clip"] = global_clip_loss(returned.clip_BE, batch.own_BE).mean()
        return back

    def _pass(self, image_BCHW: Tensor, latents_BLD: Tensor, text_BE: Tensor, batch: Captioned) -> tuple[LatentPair, View, Tensor]:
        """Return latents and view of an edit, and the latents that the remapper was given."""
        adapter, remapper = self.networks()
        with self.mixed_precision():
            moved = latents_BLD
            if adapter is not None:
                encoder = self.frozen.encoder
                with torch.no_grad():
                    maps = encoder.maps(pooled(image_BCHW, encoder.input_size))
                moved = adapted(latents_BLD, maps, text_BE, encoder=encoder, adapter=adapter)
            latents = moved if remapper is None else remapper(moved, text_BE, before_BLD=latents_BLD)
            made = self.judges.generator.synthesis(latents).float().clamp(-1, 1)
        return LatentPair(w_BLD=latents.float(), mean_LD=self.frozen.mean_LD), self._view(made, batch), moved

    def _beside(self, made_BCHW: Tensor, adapted_BLD: Tensor, l2: float) -> Tensor:
        """Return the weighted distance to the picture of the latents that the remapper was given, 0 in the first stage."""
        if self.networks()[1] is None:
            return made_BCHW.new_zeros(())
        with torch.no_grad():
            plain = self.judges.generator.synthesis(adapted_BLD.float()).clamp(-1, 1)
        distance = l2 * l2_loss(made_BCHW, plain) + self.stage.lpips * lpips_loss(made_BCHW, plain, network=self.lpips[0])
        return SHARE_WITHOUT * distance

    def _view(self, image_BCHW: Tensor, batch: Captioned) -> View:
        with self.mixed_precision():
            who = self.judges.identity(image_BCHW).float()
        return View(image_BCHW=image_BCHW, identity_BE=who, clip_BE=self._embedded(image_BCHW, batch))

    def _embedded(self, image_BCHW: Tensor, batch: Captioned) -> Tensor:
        with self.mixed_precision():
            return self.judges.clip.embed_images(self.shown_to_clip(image_BCHW, batch.window_B3, batch.wear_seeds)).float()
