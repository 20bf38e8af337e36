"""CLIPInverter as an editor: the picture's feature maps, modulated by a text, move its latents; the remapper corrects those.

Shape legend: B batch, L latent slots, D style width, E embedding, N convolutions of the generator.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Self

import torch
from torch import Tensor

from models.clipinverter import CLIPAdapter, CLIPRemapper
from models.encoders import Encoder4Editing, Maps
from models.instruction import Instruction
from models.inversion import Inversion
from models.inverters import pooled
from models.pack_format import PackError
from models.reference import wanted
from models.state import GeneratorState

if TYPE_CHECKING:
    from models.clip import ClipModel
    from models.pack import Pack


@dataclass(frozen=True, kw_only=True)
class ClipInverterSettings:
    """Settings of clipinverter: `adapter` and `remapper` may each be left out, as the paper's ablations do."""

    adapter: bool = True
    remapper: bool = True

    def __post_init__(self) -> None:
        if not self.adapter and not self.remapper:
            raise ValueError("adapter and remapper are both false, so that nothing would be edited: leave one of them on")


def adapted(latents_BLD: Tensor, maps: Maps, text_BE: Tensor, *, encoder: Encoder4Editing, adapter: CLIPAdapter) -> Tensor:
    """Return latents moved by a share of the codes of the encoder's modulated maps (CLIPInverter eq. 1).

    `text_BE` is a raw CLIP embedding, one row per sample.
    """
    return latents_BLD + adapter.residual * encoder.codes(adapter(maps, text_BE))


class ClipInverterEditor:
    """Edit by the target text (CLIPInverter section 3); strength walks from the given latents to the edited ones."""

    Settings = ClipInverterSettings

    def __init__(
        self, name: str, *, encoder: Encoder4Editing, adapter: CLIPAdapter | None, remapper: CLIPRemapper | None, clip: ClipModel
    ) -> None:
        self.name = name
        self.encoder, self.adapter, self.remapper, self.clip = encoder, adapter, remapper, clip

    @classmethod
    def of(cls, name: str, pack: Pack, settings: ClipInverterSettings) -> Self:
        """Return the editor on a pack's networks; one without a remapper edits by the adapter alone."""
        remapped = settings.remapper and "clip_remapper" in pack.info.networks
        if not settings.adapter and not remapped:
            raise PackError(f"editor {name!r}: adapter is false and {pack.path} has no clip_remapper, so that nothing would be edited")
        remapper = pack.network("clip_remapper", CLIPRemapper) if remapped else None
        if remapper is not None and remapper.variant == "paper" and not settings.adapter:
            raise PackError(f"editor {name!r}: adapter is false, and the remapper of {pack.path} only corrects what one did")
        return cls(
            name, encoder=pack.network("e4e", Encoder4Editing), clip=pack.clip(), remapper=remapper,
            adapter=pack.network("clip_adapter", CLIPAdapter) if settings.adapter else None,
        )  # fmt: skip

    @torch.no_grad()
    def edit(self, inversion: Inversion, instruction: Instruction) -> GeneratorState:
        """Return the state with moved latents, one per convolution after the released remapper. Raises ValueError for too long a text."""
        before = inversion.state.latents_BLD
        text = wanted(self.clip, instruction, templated=False).to(before).expand(len(before), -1)
        after = before
        if self.adapter is not None:
            after = adapted(before, self._maps(inversion), text, encoder=self.encoder, adapter=self.adapter)
        if self.remapper is not None:
            after = self.remapper(after, text, before_BLD=before)
            if self.remapper.variant == "released":
                before = torch.stack([before[:, layer.latent] for layer in self.remapper.layers], 1)
        return replace(inversion.state, latents_BLD=before + instruction.strength * (after - before))

    def _maps(self, inversion: Inversion) -> Maps:
        """Return the encoder's maps of the pictures, one pass for all instructions."""
        encoder = self.encoder
        return inversion.once(encoder, lambda: encoder.maps(pooled(inversion.aligned_BCHW, encoder.input_size)))
