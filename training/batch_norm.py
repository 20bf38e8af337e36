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
        shift_C = self.bias - mean_C * scale_C
        return (wide_BCHW * scale_C[:, None, None] + shift_C[:, None, None]).to(x_BCHW.dtype)

    def _moments(self, x_BCHW: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean and biased variance: those of the workers, joined (Chan et al. 1979), in one exchange."""
        own_mean_C = x_BCHW.mean((0, 2, 3))
        own_variance_C = (x_BCHW - own_mean_C[:, None, None]).square().mean((0, 2, 3))
        parts_W2C = self.group.gather_with_gradient(torch.stack([own_mean_C, own_variance_C])[None])
        mean_C = parts_W2C[:, 0].mean(0)
        return mean_C, parts_W2C[:, 1].mean(0) + (parts_W2C[:, 0] - mean_C).square().mean(0)

    @torch.no_grad()
    def _remember(self, mean_C: Tensor, variance_C: Tensor, *, count: int) -> None:
        assert self.running_mean is not None and self.running_var is not None and self.momentum is not None
        self.running_mean.lerp_(mean_C, self.momentum)
        self.running_var.lerp_(variance_C * (count / (count - 1)), self.momentum)
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
