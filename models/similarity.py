"""How alike two pictures look to frozen networks: what the inverters that optimise make small.

Shape legend: B batch, C channels, H/W rows/columns, E embedding. Pictures are RGB in [-1, 1].
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.losses.perceptual import cosine_distance
from models.losses.shapes import check_same_shape
from models.parser import FaceParser
from models.perceptual import PerceptualDistance, PerceptualFeatures

POOLED = 256
"""Side in pixels that larger pictures are pooled to (StyleGAN2's projector; HyperStyle section 4)."""
Pixel = Literal["l2", "smooth_l1"]


@dataclass(frozen=True, kw_only=True)
class SimilarityWeights:
    """Weigh the terms; 0 leaves one out. The defaults are GANI's (Table 1, as far as the column names are known)."""

    pixel: float = 1.0
    lpips: float = 0.8
    identity: float = 0.1
    parsing: float = 1.0

    def __post_init__(self) -> None:
        for field in fields(self):
            if not getattr(self, field.name) >= 0:
                raise ValueError(f"similarity weight {field.name}: expected 0 or more, found {getattr(self, field.name)}")


@dataclass(frozen=True, kw_only=True)
class Seen:
    """A batch of pictures as the terms see it; a term that is not asked for has None or no maps."""

    image_BCHW: Tensor
    lpips: PerceptualFeatures | None
    identity_BE: Tensor | None
    parsing: Sequence[Tensor]

    def __len__(self) -> int:
        return int(self.image_BCHW.shape[0])

    def rows(self, rows: Sequence[int]) -> Seen:
        """Return the pictures of these row numbers."""
        if list(rows) == list(range(len(self))):
            return self
        return replace(
            self,
            image_BCHW=self.image_BCHW[rows],
            lpips=self.lpips and PerceptualFeatures(maps=tuple(layer[rows] for layer in self.lpips.maps)),
            identity_BE=None if self.identity_BE is None else self.identity_BE[rows],
            parsing=[level[rows] for level in self.parsing],
        )


class Similarity:
    """Compare pictures by pixels, LPIPS, identity and face parsing, each picture for itself (GANI eq. 1).

    `terms` names what is compared: terms whose weight is 0 are left out, and so are those whose network is not given, which `missing`
    names. `identity` embeds faces, or any picture (MoCo) off faces. Pictures larger than 256 px are pooled first, smaller ones stay.
    Raises ValueError when no term is left.
    """

    def __init__(
        self, weights: SimilarityWeights, *, pixel: Pixel = "l2", lpips: PerceptualDistance | None = None,
        identity: nn.Module | None = None, parser: FaceParser | None = None,
    ) -> None:  # fmt: skip
        networks = {"pixel": pixel, "lpips": lpips, "identity": identity, "parsing": parser}
        wanted = [field.name for field in fields(weights) if getattr(weights, field.name) > 0]
        self.weights = weights
        self.pixel = pixel
        self.lpips, self.identity, self.parser = lpips, identity, parser
        self.terms = tuple(name for name in wanted if networks[name] is not None)
        self.missing = tuple(name for name in wanted if networks[name] is None)
        if not self.terms:
            raise ValueError(f"similarity: no term is left; weights {weights}, networks missing for {self.missing or 'none'}")

    def weighted(self, weights: SimilarityWeights) -> Similarity:
        """Return the same networks under other weights."""
        return Similarity(weights, pixel=self.pixel, lpips=self.lpips, identity=self.identity, parser=self.parser)

    def see(self, images_BCHW: Tensor) -> Seen:
        """Return what the terms compare: do it once for a picture that is compared many times."""
        image = F.adaptive_avg_pool2d(images_BCHW, POOLED) if min(images_BCHW.shape[2:]) > POOLED else images_BCHW
        has = self.terms.__contains__
        return Seen(
            image_BCHW=image,
            lpips=self.lpips.features(image) if self.lpips is not None and has("lpips") else None,
            identity_BE=self.identity(image) if self.identity is not None and has("identity") else None,
            parsing=self.parser.features(image) if self.parser is not None and has("parsing") else (),
        )

    def parts(self, made: Seen, wanted: Seen) -> dict[str, Tensor]:
        """Return the unweighted terms by name, each (B,): no picture's value depends on its neighbours."""
        found: dict[str, Tensor] = {}
        if "pixel" in self.terms:
            found["pixel"] = _pixel_distance(self.pixel, made.image_BCHW, wanted.image_BCHW)
        if self.lpips is not None and made.lpips is not None and wanted.lpips is not None:
            found["lpips"] = self.lpips.distance(made.lpips, wanted.lpips)
        if made.identity_BE is not None and wanted.identity_BE is not None:
            found["identity"] = cosine_distance("similarity, identity", made.identity_BE, wanted.identity_BE)
        if "parsing" in self.terms:
            levels = enumerate(zip(made.parsing, wanted.parsing, strict=True))
            found["parsing"] = torch.stack([cosine_distance(f"similarity, parsing level {i}", a, b) for i, (a, b) in levels]).sum(0)
        return found

    def total(self, parts: Mapping[str, Tensor]) -> Tensor:
        """Return the weighted sum of what `parts` returned, (B,)."""
        return torch.stack([value * float(getattr(self.weights, name)) for name, value in parts.items()]).sum(0)

    def __call__(self, made_BCHW: Tensor, wanted: Tensor | Seen) -> Tensor:
        """Return the loss of each picture, (B,); `wanted` may be what `see` returned."""
        return self.total(self.parts(self.see(made_BCHW), wanted if isinstance(wanted, Seen) else self.see(wanted)))


def _pixel_distance(kind: Pixel, made_BCHW: Tensor, wanted_BCHW: Tensor) -> Tensor:
    """Return per picture what `l2_loss` and `smooth_l1_loss` average over the batch."""
    check_same_shape(f"similarity, {kind}", made_BCHW, wanted_BCHW)
    compare = F.mse_loss if kind == "l2" else F.smooth_l1_loss
    return compare(made_BCHW, wanted_BCHW, reduction="none").flatten(1).mean(1)
