"""LPIPS with stated features: AlexNet as released where the machine has it, otherwise AlexNet with random weights of a fixed seed.

Shape legend: B batch, C channels, H/W height and width of a feature map.
"""

from __future__ import annotations

import hashlib
import logging
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import lpips
import torch
from torch import Tensor
from torchvision.models import AlexNet_Weights

RANDOM_SEED = 0
SMALLEST = 1e-20
MIN_SIZE = 32  # below this AlexNet's pooling leaves nothing

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class PerceptualFeatures:
    """Hold the unit-length AlexNet feature maps of a batch, one (B, C, H, W) tensor per layer."""

    maps: tuple[Tensor, ...]


class PerceptualDistance:
    """Measure LPIPS (Zhang et al. 2018) between batches of images; `.description` says which features it rests on.

    The features of a picture that is compared many times are computed once: `distance(features(a), features(b))` equals
    `lpips.LPIPS()(a, b)`. With random AlexNet weights the layers are averaged without the calibrated channel weights, which only fit the
    released ones (the package's `lpips=False`). `allow_download` lets torchvision fetch the released weights.
    """

    def __init__(self, *, device: str | torch.device = "cpu", allow_download: bool = False) -> None:
        cached = _cached_weights()
        problem = None if cached is None else _problem_with(cached)
        if (cached is not None and problem is None) or (cached is None and allow_download):
            self.description = "alexnet, released ImageNet weights, LPIPS 0.1 calibration"
            self.network = _quietly(random=False)
        else:
            reason = problem or "no pretrained AlexNet on this machine"
            self.description = f"alexnet, random weights (seed {RANDOM_SEED}), not calibrated: {reason}"
            logger.warning("LPIPS rests on %s", self.description)
            self.network = _quietly(random=True)
        self.network.to(device)

    def __call__(self, a_BCHW: Tensor, b_BCHW: Tensor) -> Tensor:
        """Return the distance of each pair of RGB pictures in [-1, 1], (B,), with gradients where they are on."""
        return self.distance(self.features(a_BCHW), self.features(b_BCHW))

    def features(self, image_BCHW: Tensor) -> PerceptualFeatures:
        """Return the features of RGB pictures in [-1, 1]. Raises ValueError when they are too small for AlexNet."""
        height, width = image_BCHW.shape[-2:]
        if min(height, width) < MIN_SIZE:
            raise ValueError(f"LPIPS needs pictures of at least {MIN_SIZE}x{MIN_SIZE} pixels, found {width}x{height}")
        maps = self.network.net(self.network.scaling_layer(image_BCHW))
        return PerceptualFeatures(maps=tuple(_unit(layer) for layer in maps))

    def distance(self, a: PerceptualFeatures, b: PerceptualFeatures) -> Tensor:
        """Return the distance of each pair, shape (B,); 0 is equal, larger is further."""
        total = torch.zeros(a.maps[0].shape[0], device=a.maps[0].device)
        for layer, (first, second) in enumerate(zip(a.maps, b.maps, strict=True)):
            difference = (first - second) ** 2
            weighted = self.network.lins[layer](difference) if self.network.lpips else difference.sum(dim=1, keepdim=True)
            total = total + lpips.spatial_average(weighted, keepdim=False).flatten()
        return total


def _unit(map_BCHW: Tensor) -> Tensor:
    """Divide by the length along the channels; unlike `lpips.normalize_tensor` with a gradient where all channels are zero."""
    return map_BCHW * map_BCHW.square().sum(dim=1, keepdim=True).clamp_min(SMALLEST).rsqrt()


def _cached_weights() -> Path | None:
    path = Path(torch.hub.get_dir()) / "checkpoints" / Path(AlexNet_Weights.IMAGENET1K_V1.url).name
    return path if path.is_file() else None


def _problem_with(path: Path) -> str | None:
    """Say what is wrong with a cached weight file, whose name ends in the first digits of its sha256; None when it is right."""
    expected = path.stem.rsplit("-", 1)[-1]
    with path.open("rb") as stream:
        found = hashlib.file_digest(stream, "sha256").hexdigest()[: len(expected)]
    return None if found == expected else f"the cached {path.name} is damaged (sha256 starts with {found}, expected {expected}); delete it"


def _quietly(*, random: bool) -> lpips.LPIPS:
    """Build the package's network without its prints and without torchvision's warnings about the spelling of its arguments."""
    with warnings.catch_warnings(), torch.random.fork_rng(devices=[]):
        warnings.simplefilter("ignore", UserWarning)
        torch.manual_seed(RANDOM_SEED)
        network = lpips.LPIPS(net="alex", pretrained=not random, pnet_rand=random, lpips=not random, verbose=False)
    return cast(lpips.LPIPS, network.eval().requires_grad_(False))
