"""CLIP behind two functions, embed pictures and embed texts, on open_clip's implementation, imported when a CLIP is built.

Any open_clip architecture works (`model` is its config); the pack's own is a few million parameters with CLIP's byte-pair encoding cut
to its most frequent merges, since 49,408 embeddings would weigh more than all other networks of a small pack together.

Shape legend: B pictures, N texts, E embedding, T templates.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

if TYPE_CHECKING:
    from open_clip.tokenizer import SimpleTokenizer

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)


class ClipModel(nn.Module):
    """Embed pictures (B, 3, H, W) in [-1, 1] and texts with one CLIP; embeddings are raw (not normalised)."""

    mean: Tensor
    std: Tensor

    def __init__(self, *, model: Mapping[str, object], templates: Sequence[str] = ("{}",), merges: int | None = None) -> None:
        from open_clip.model import CLIP

        from models.clip_tokenizer import tokenizer_of

        super().__init__()
        text = dict(model["text_cfg"])  # type: ignore[call-overload]
        self.context_length = int(text.setdefault("context_length", 77))
        self.tokenizer: SimpleTokenizer = tokenizer_of(merges=merges, context_length=self.context_length)
        text["vocab_size"] = self.tokenizer.vocab_size
        vision = dict(model["vision_cfg"])  # type: ignore[call-overload]
        self.image_size = int(vision["image_size"])
        self.embed_dim = int(model["embed_dim"])  # type: ignore[call-overload]
        self.templates = tuple(templates)
        self.clip = CLIP(self.embed_dim, vision, text, quick_gelu=bool(model.get("quick_gelu", False)))
        self.register_buffer("mean", torch.tensor(CLIP_MEAN)[:, None, None], persistent=False)
        self.register_buffer("std", torch.tensor(CLIP_STD)[:, None, None], persistent=False)
        self._texts: dict[str, Tensor] = {}
        self.pictures: dict[str, Tensor] = {}
        """Embeddings of reference pictures, by their hash (models/reference.py)."""

    @classmethod
    def from_config(cls, config: Mapping[str, object]) -> Self:
        """Build from the `config` of a pack entry."""
        return cls(**config)  # type: ignore[arg-type]

    def embed_images(self, image_BCHW: Tensor) -> Tensor:
        """Return (B, E): pictures pooled to CLIP's size and normalised with its mean and deviation."""
        size = (self.image_size, self.image_size)
        if tuple(image_BCHW.shape[2:]) != size:
            image_BCHW = F.adaptive_avg_pool2d(image_BCHW, size)
        features: Tensor = self.clip.encode_image((image_BCHW * 0.5 + 0.5 - self.mean) / self.std)
        return features.float()

    def feature_maps(self, image_BCHW: Tensor) -> list[Tensor]:
        """Return the maps of the first three stages of a residual picture tower. Raises TypeError for any other tower."""
        from open_clip.modified_resnet import ModifiedResNet

        tower = self.clip.visual
        if not isinstance(tower, ModifiedResNet):
            raise TypeError(f"feature maps need a residual picture tower, found {type(tower).__name__}")
        x = tower.stem((image_BCHW * 0.5 + 0.5 - self.mean) / self.std)
        maps = []
        for stage in (tower.layer1, tower.layer2, tower.layer3):
            x = stage(x)
            maps.append(x)
        return maps

    def train(self, mode: bool = True) -> Self:
        """Forget the cached texts and pictures too: the weights may have changed."""
        self._texts.clear()
        self.pictures.clear()
        return super().train(mode)

    def embed_tokens(self, tokens_NT: Tensor) -> Tensor:
        """Return (N, E) of token rows, with gradients."""
        features: Tensor = self.clip.encode_text(tokens_NT)
        return features.float()

    def tokens(self, text: str) -> int:
        """Return how many tokens a text takes in the longest template; raise ValueError when it does not fit the context."""
        from models.clip_tokenizer import longest

        count = longest(text, self.templates, self.tokenizer)
        if count > self.context_length:
            raise ValueError(f"text {text!r}: found {count} tokens, expected at most {self.context_length}; use fewer words")
        return count

    def tokenize(self, texts: Sequence[str]) -> Tensor:
        """Return token rows (N, context_length)."""
        rows: Tensor = self.tokenizer(list(texts))
        return rows.to(self.mean.device)

    @torch.no_grad()
    def embed_texts(self, texts: Sequence[str]) -> Tensor:
        """Return (N, E): the raw mean of each text's embeddings over the prompt templates (HyperEditor), cached per text.

        Raises ValueError when a text is longer than the context.
        """
        for text in texts:
            if text not in self._texts:
                self.tokens(text)
                with torch.autocast(self.mean.device.type, enabled=False):  # kept for all: whoever asks first must not round them
                    self._texts[text] = self.embed_tokens(self.tokenize([template.format(text) for template in self.templates])).mean(0)
        return torch.stack([self._texts[text] for text in texts]).to(self.mean.device)

    @torch.no_grad()
    def embed_captions(self, texts: Sequence[str]) -> Tensor:
        """Return (N, E): the raw embeddings of texts as they are, without templates. Raises ValueError as `embed_texts` does."""
        for text in texts:
            self.tokens(text)
        with torch.autocast(self.mean.device.type, enabled=False):
            return self.embed_tokens(self.tokenize(texts))
