"""IR-SE residual blocks and trunk (ArcFace's improved ResNet with squeeze and excitation) in the released key layout.

Shape legend: B batch, C channels, H/W rows/columns.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

WIDTHS = (64, 128, 256, 512)
DEPTHS = (3, 4, 14, 3)
REDUCTION = 16


class SqueezeExcite(nn.Module):
    """Scale every channel by a gate in (0, 1) computed from the channel means."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        squeezed = max(channels // REDUCTION, 1)
        self.fc1 = nn.Conv2d(channels, squeezed, 1, bias=False)
        self.fc2 = nn.Conv2d(squeezed, channels, 1, bias=False)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Keep the shape."""
        gate: Tensor = self.fc2(self.fc1(x_BCHW.mean(dim=(2, 3), keepdim=True)).relu()).sigmoid()
        return x_BCHW * gate


class BottleneckIRSE(nn.Module):
    """BN, 3x3, PReLU, 3x3 with the stride, BN, squeeze-excite; plus the shortcut, with no activation after the sum."""

    def __init__(self, n_in: int, n_out: int, *, stride: int) -> None:
        super().__init__()
        # A 1x1 max-pool with a stride is plain subsampling.
        self.shortcut_layer: nn.Module = nn.MaxPool2d(1, stride)
        if n_in != n_out:
            self.shortcut_layer = nn.Sequential(nn.Conv2d(n_in, n_out, 1, stride, bias=False), nn.BatchNorm2d(n_out))
        self.res_layer = nn.Sequential(
            nn.BatchNorm2d(n_in),
            nn.Conv2d(n_in, n_out, 3, 1, 1, bias=False),
            nn.PReLU(n_out),
            nn.Conv2d(n_out, n_out, 3, stride, 1, bias=False),
            nn.BatchNorm2d(n_out),
            SqueezeExcite(n_out),
        )

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Map (B, n_in, H, W) to (B, n_out, H/stride, W/stride)."""
        out: Tensor = self.res_layer(x_BCHW) + self.shortcut_layer(x_BCHW)
        return out


def input_layer(width: int, *, n_in: int = 3) -> nn.Sequential:
    """Return the stem: 3x3 convolution, BN, PReLU, at full resolution."""
    return nn.Sequential(nn.Conv2d(n_in, width, 3, 1, 1, bias=False), nn.BatchNorm2d(width), nn.PReLU(width))


def body(widths: Sequence[int], depths: Sequence[int]) -> nn.Sequential:
    """Return the flat sequence of blocks; every stage, the first too, halves the resolution. Raises ValueError on bad sizes."""
    if not len(widths) == len(depths) == 4 or min(*widths, *depths) < 1:
        raise ValueError(f"IR-SE trunk: expected four widths and four depths, found widths {list(widths)}, depths {list(depths)}")
    blocks: list[nn.Module] = []
    n_in = widths[0]
    for n_out, depth in zip(widths, depths, strict=True):
        for block in range(depth):
            blocks.append(BottleneckIRSE(n_in, n_out, stride=2 if block == 0 else 1))
            n_in = n_out
    return nn.Sequential(*blocks)
