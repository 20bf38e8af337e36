"""Batch normalisation over the batches of all workers, also on CPUs, for which torch's SyncBatchNorm is not made.

With it, several workers train the same network as one worker with the whole batch.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from training.group import Group


class GlobalBatchNorm2d(nn.BatchNorm2d):
    """Normalise by the mean and variance over all workers' batches, which must be of equal size; otherwise like BatchNorm2d."""

    group: Group

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Keep the shape; in evaluation the running statistics are used."""
        if not self.training or self.group.world == 1:
            return super().forward(x_BCHW)
        wide_BCHW = x_BCHW.to(torch.promote_types(x_BCHW.dtype, torch.float32))
        mean_C, variance_C = self._moments(wide_BCHW)
        self._remember(mean_C.detach(), variance_C.detach(), count=x_BCHW.numel() // x_BCHW.shape[1] * self.group.world)
        scale_C = self.weight * (variance_C + self.eps).rsqrt()
        scale_C, shift_C = scale_C.to(wide_BCHW.dtype), (self.bias - mean_C * scale_C).to(wide_BCHW.dtype)
        return (wide_BCHW * scale_C[:, None, None] + shift_C[:, None, None]).to(x_BCHW.dtype)

    def _moments(self, x_BCHW: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean and biased variance in float64: those of the workers, joined (Chan et al. 1979), in one exchange.

        Summed in float64, as one worker's BatchNorm2d does on a CPU: the rounding of another split would grow with every step.
        """
        own_mean_C = x_BCHW.mean((0, 2, 3), dtype=torch.float64)
        own_variance_C = (x_BCHW - own_mean_C.to(x_BCHW.dtype)[:, None, None]).square().mean((0, 2, 3), dtype=torch.float64)
        parts_W2C = self.group.gather_with_gradient(torch.stack([own_mean_C, own_variance_C])[None])
        mean_C = parts_W2C[:, 0].mean(0)
        return mean_C, parts_W2C[:, 1].mean(0) + (parts_W2C[:, 0] - mean_C).square().mean(0)

    @torch.no_grad()
    def _remember(self, mean_C: Tensor, variance_C: Tensor, *, count: int) -> None:
        assert self.running_mean is not None and self.running_var is not None and self.momentum is not None
        self.running_mean.lerp_(mean_C.to(self.running_mean.dtype), self.momentum)
        self.running_var.lerp_((variance_C * (count / (count - 1))).to(self.running_var.dtype), self.momentum)
        if self.num_batches_tracked is not None:
            self.num_batches_tracked.add_(1)


def share_batch_norms(module: nn.Module, group: Group) -> None:
    """Make every BatchNorm2d of a module a GlobalBatchNorm2d, in place; one worker alone keeps its own."""
    if group.world == 1:
        return
    for child in module.modules():
        if type(child) is nn.BatchNorm2d:
            child.__class__ = GlobalBatchNorm2d
            child.group = group  # type: ignore[assignment]


def settle(module: nn.Module, settled: bool) -> None:
    """Let batch normalisation use the running statistics from now on in training too, without moving them, or those of each batch."""
    for child in module.modules():
        if isinstance(child, nn.modules.batchnorm._BatchNorm):
            child.train(module.training and not settled)
