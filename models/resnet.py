"""The ResNet-34 trunk of the hypernetworks and of ReStyle's second encoder, in the released key layout.

Shape legend: B batch, C channels, H/W rows/columns.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

WIDTHS = (64, 128, 256, 512)
DEPTHS = (3, 4, 6, 3)
SHRINK = 16  # side of a picture over side of its feature map


class BasicBlock(nn.Module):
    """ResNet's basic block: two 3x3 convolutions with batch norm beside a shortcut, ReLU after the sum."""

    def __init__(self, n_in: int, n_out: int, *, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(n_in, n_out, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(n_out)
        self.conv2 = nn.Conv2d(n_out, n_out, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(n_out)
        self.downsample: nn.Module | None = None
        if stride != 1 or n_in != n_out:
            self.downsample = nn.Sequential(nn.Conv2d(n_in, n_out, 1, stride, bias=False), nn.BatchNorm2d(n_out))

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Map (B, n_in, H, W) to (B, n_out, H/stride, W/stride)."""
        shortcut = x_BCHW if self.downsample is None else self.downsample(x_BCHW)
        y = self.bn2(self.conv2(self.bn1(self.conv1(x_BCHW)).relu_()))
        out: Tensor = (y + shortcut).relu_()
        return out


class ResNetTrunk(nn.Module):
    """Map pictures to features a sixteenth of their side: 7x7/2 convolution, batch norm, PReLU, four stages of blocks, no max-pool.

    `n_in` is the number of channels that go in: 3, or 6 for a picture beside its reconstruction. Raises ValueError on bad sizes.
    """

    def __init__(self, n_in: int = 3, *, widths: Sequence[int] = WIDTHS, depths: Sequence[int] = DEPTHS) -> None:
        super().__init__()
        if not len(widths) == len(depths) == 4 or min(*widths, *depths) < 1:
            raise ValueError(f"ResNet trunk: expected four widths and four depths, found widths {list(widths)}, depths {list(depths)}")
        self.conv1 = nn.Conv2d(n_in, widths[0], 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(widths[0])
        self.relu = nn.PReLU(widths[0])
        self.body = _body(widths, depths)

    def features(self, x_BCHW: Tensor) -> Tensor:
        """Return (B, widths[3], H/16, W/16)."""
        x = self.relu(self.bn1(self.conv1(x_BCHW.contiguous(memory_format=torch.channels_last))))
        out: Tensor = self.body(x)
        return out


def _body(widths: Sequence[int], depths: Sequence[int]) -> nn.Sequential:
    blocks: list[nn.Module] = []
    n_in = widths[0]
    for stage, (n_out, depth) in enumerate(zip(widths, depths, strict=True)):
        for block in range(depth):
            blocks.append(BasicBlock(n_in, n_out, stride=2 if stage > 0 and block == 0 else 1))
            n_in = n_out
    body = nn.Sequential(*blocks)
    for module in body.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    return body
