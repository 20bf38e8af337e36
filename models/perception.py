"""Networks that judge pictures: who is it (identity), what holds (attributes), where is the face (landmarks).

Shape legend: B batch, E embedding, A attributes, K landmarks, H/W rows/columns. Pictures are RGB in [-1, 1].
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Self

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Residual(nn.Module):
    """Two 3x3 convolutions with batch norm and PReLU beside a shortcut."""

    def __init__(self, c_in: int, c_out: int, *, stride: int) -> None:
        super().__init__()
        self.main = nn.Sequential(
            nn.Conv2d(c_in, c_out, 3, stride, 1, bias=False), nn.BatchNorm2d(c_out), nn.PReLU(c_out),
            nn.Conv2d(c_out, c_out, 3, 1, 1, bias=False), nn.BatchNorm2d(c_out),
        )  # fmt: skip
        plain = stride == 1 and c_in == c_out
        self.skip = nn.Identity() if plain else nn.Sequential(nn.Conv2d(c_in, c_out, 1, stride, bias=False), nn.BatchNorm2d(c_out))
        self.act = nn.PReLU(c_out)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Return (B, c_out, H / stride, W / stride)."""
        out: Tensor = self.act(self.main(x_BCHW) + self.skip(x_BCHW))
        return out


def trunk(widths: Sequence[int]) -> nn.Sequential:
    """Stack a stride-2 stem and one stride-2 residual block per further width."""
    stem = [nn.Conv2d(3, widths[0], 5, 2, 2, bias=False), nn.BatchNorm2d(widths[0]), nn.PReLU(widths[0])]
    blocks = [Residual(a, b, stride=2) for a, b in zip(widths, widths[1:], strict=False)]
    return nn.Sequential(*stem, *blocks)


def resized(image_BCHW: Tensor, size: int) -> Tensor:
    """Pool or enlarge square pictures to size x size."""
    if image_BCHW.shape[-1] > size:
        return F.adaptive_avg_pool2d(image_BCHW, (size, size))
    if image_BCHW.shape[-1] < size:
        return F.interpolate(image_BCHW, size=(size, size), mode="bilinear", align_corners=False)
    return image_BCHW


class IdentityNet(nn.Module):
    """Embed a face so that one person's pictures point the same way (trained with ArcFace)."""

    def __init__(self, *, size: int = 64, widths: Sequence[int] = (24, 48, 96, 160), embed_dim: int = 128) -> None:
        super().__init__()
        self.size = size
        self.trunk = trunk(widths)
        side = size // 2 ** len(widths)
        self.head = nn.Linear(widths[-1] * side * side, embed_dim)

    @classmethod
    def from_config(cls, config: Mapping[str, object]) -> Self:
        """Build from the `config` of a pack entry."""
        return cls(**config)  # type: ignore[arg-type]

    def forward(self, image_BCHW: Tensor) -> Tensor:
        """Return L2-normalised embeddings (B, E)."""
        return F.normalize(self.head(self.trunk(resized(image_BCHW, self.size)).flatten(1)), dim=1)


class AttributeNet(nn.Module):
    """Say which attributes hold: exclusive groups through a softmax, the others each through a sigmoid."""

    def __init__(
        self, *, groups: Mapping[str, Sequence[str]], binary: Sequence[str], size: int = 64, widths: Sequence[int] = (24, 48, 96, 160)
    ) -> None:
        super().__init__()
        self.size = size
        self.groups: dict[str, tuple[str, ...]] = {name: tuple(members) for name, members in groups.items()}
        self.binary = tuple(binary)
        self.names: tuple[str, ...] = (*(name for members in self.groups.values() for name in members), *self.binary)
        self.trunk = trunk(widths)
        side = size // 2 ** len(widths)
        self.head = nn.Linear(widths[-1] * side * side, len(self.names))

    @classmethod
    def from_config(cls, config: Mapping[str, object]) -> Self:
        """Build from the `config` of a pack entry."""
        return cls(**config)  # type: ignore[arg-type]

    def forward(self, image_BCHW: Tensor) -> Tensor:
        """Return logits (B, A) in the order of `names`."""
        logits: Tensor = self.head(self.trunk(resized(image_BCHW, self.size)).flatten(1))
        return logits

    def probabilities(self, image_BCHW: Tensor) -> Tensor:
        """Return probabilities (B, A) in the order of `names`."""
        logits = self(image_BCHW)
        parts, start = [], 0
        for members in self.groups.values():
            parts.append(logits[:, start : start + len(members)].softmax(1))
            start += len(members)
        return torch.cat([*parts, logits[:, start:].sigmoid()], 1)

    def loss(self, logits_BA: Tensor, truth_BA: Tensor) -> Tensor:
        """Return cross entropy over groups plus binary cross entropy; `truth_BA` is 0 or 1."""
        total, start = logits_BA.new_zeros(()), 0
        for members in self.groups.values():
            part = slice(start, start + len(members))
            total = total + F.cross_entropy(logits_BA[:, part], truth_BA[:, part].argmax(1))
            start += len(members)
        return total + F.binary_cross_entropy_with_logits(logits_BA[:, start:], truth_BA[:, start:]) * len(self.binary)


class LandmarkNet(nn.Module):
    """Find a face's landmarks in pictures of any size: heat maps whose centre of mass is the landmark, refined on a second, closer look."""

    def __init__(self, *, names: Sequence[str], size: int = 96, widths: Sequence[int] = (24, 40, 64, 96), zoom: float = 6.4) -> None:
        super().__init__()
        self.names = tuple(names)
        self.size, self.zoom = size, zoom
        self.trunk = trunk(widths)
        self.lateral = nn.ModuleList(nn.Conv2d(w, 48, 1) for w in widths[:-1])
        self.top = nn.Conv2d(widths[-1], 48, 1)
        self.smooth = nn.ModuleList(
            nn.Sequential(nn.Conv2d(48, 48, 3, 1, 1, bias=False), nn.BatchNorm2d(48), nn.PReLU(48)) for _ in widths[:-1]
        )
        self.heat = nn.Conv2d(48, len(names), 1)
        self.face = nn.Linear(widths[-1], 1)

    @classmethod
    def from_config(cls, config: Mapping[str, object]) -> Self:
        """Build from the `config` of a pack entry."""
        return cls(**config)  # type: ignore[arg-type]

    def forward(self, image_BCHW: Tensor) -> tuple[Tensor, Tensor]:
        """Return landmarks (B, K, 2) as x, y in [-1, 1] of the picture, and face logits (B,)."""
        weight_BKHW, score_B = self.heat_maps(image_BCHW)
        rows, columns = grid(weight_BKHW)
        return torch.stack([(weight_BKHW.sum(2) * columns).sum(2), (weight_BKHW.sum(3) * rows).sum(2)], 2), score_B

    def heat_maps(self, image_BCHW: Tensor) -> tuple[Tensor, Tensor]:
        """Return where each landmark may be, (B, K, H/2, W/2), each map summing to 1, and face logits (B,)."""
        levels, x = [], self.trunk[:3](image_BCHW)
        levels.append(x)
        for block in list(self.trunk)[3:]:
            x = block(x)
            levels.append(x)
        score = self.face(x.mean((2, 3)))[:, 0]
        y = self.top(x)
        for lateral, smooth, level in zip(reversed(self.lateral), reversed(self.smooth), reversed(levels[:-1]), strict=True):
            y = smooth(F.interpolate(y, size=level.shape[2:], mode="bilinear", align_corners=False) + lateral(level))
        heat = self.heat(y)
        b, k, h, w = heat.shape
        return heat.float().flatten(2).softmax(2).view(b, k, h, w), score

    @torch.no_grad()
    def locate(self, images: Sequence[np.ndarray]) -> tuple[Tensor, Tensor]:
        """Return landmarks (B, K, 2) in pixels of each uint8 (H, W, 3) picture and face scores (B,) in [0, 1]."""
        whole = [
            _window(image, centre=(image.shape[1] / 2, image.shape[0] / 2), side=float(max(image.shape[:2])), size=self.size)
            for image in images
        ]
        first, _ = self._look(whole, images)
        close = []
        for image, points in zip(images, first, strict=True):
            centre = points.mean(0)
            side = float((points - centre).norm(dim=1).mean()) * self.zoom
            close.append(_window(image, centre=(float(centre[0]), float(centre[1])), side=max(side, 8.0), size=self.size))
        second, score = self._look(close, images)
        return second, score

    def _look(self, windows: Sequence[tuple[Tensor, Tensor]], images: Sequence[np.ndarray]) -> tuple[Tensor, Tensor]:
        device = self.heat.weight.device
        batch = torch.stack([picture for picture, _ in windows]).to(device)
        points, logits = self(batch)
        place = torch.stack([place for _, place in windows])
        return points.cpu() * place[:, None, 2:] + place[:, None, :2], logits.sigmoid().cpu()


def grid(map_BKHW: Tensor) -> tuple[Tensor, Tensor]:
    """Return the y of each row and the x of each column of a map, in [-1, 1]."""
    h, w = map_BKHW.shape[2:]
    axis = [(torch.arange(n, device=map_BKHW.device) + 0.5) * (2 / n) - 1 for n in (h, w)]
    return axis[0], axis[1]


def _window(image: np.ndarray, *, centre: tuple[float, float], side: float, size: int) -> tuple[Tensor, Tensor]:
    """Cut a square window (padded with grey) and shrink it; return the picture (3, size, size) and centre x, centre y, half side twice."""
    x0, y0 = int(round(centre[0] - side / 2)), int(round(centre[1] - side / 2))
    span = max(int(round(side)), 2)
    h, w = image.shape[:2]
    left, top, right, bottom = max(x0, 0), max(y0, 0), min(x0 + span, w), min(y0 + span, h)
    if right - left < 2 or bottom - top < 2:
        x0, y0, span, left, top, right, bottom = 0, 0, max(h, w), 0, 0, w, h
    crop = torch.from_numpy(np.array(image[top:bottom, left:right])).permute(2, 0, 1).float() / 127.5 - 1
    crop = F.pad(crop, (left - x0, x0 + span - right, top - y0, y0 + span - bottom))
    picture = F.interpolate(crop[None], size=(size, size), mode="bilinear", align_corners=False, antialias=True)[0]
    return picture, torch.tensor([x0 + span / 2, y0 + span / 2, span / 2, span / 2])
