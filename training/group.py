"""The workers of one training: who is there, and the few things they tell each other. One worker alone needs no process group."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed.nn.functional as with_gradient
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel

TIMEOUT = timedelta(minutes=30)  # the others wait while the first worker measures


@dataclass(frozen=True, kw_only=True)
class Group:
    """This worker's rank among `world` workers, and its device. With more than one, torch.distributed must be initialised."""

    rank: int = 0
    world: int = 1
    device: torch.device = torch.device("cpu")

    @property
    def is_first(self) -> bool:
        """Say whether this is the worker that writes."""
        return self.rank == 0

    def gather(self, own: Tensor) -> Tensor:
        """Return the workers' tensors of equal shape, one after the other by rank, without gradient."""
        if self.world == 1:
            return own.detach()
        parts = [torch.empty_like(own) for _ in range(self.world)]
        distributed.all_gather(parts, own.detach().contiguous())
        return torch.cat(parts)

    def gather_with_gradient(self, own: Tensor) -> Tensor:
        """Return the workers' tensors one after the other; a loss of all of them that every worker computes is differentiated right."""
        return own if self.world == 1 else torch.cat(with_gradient.all_gather(own.contiguous()))

    def mean(self, figures: Mapping[str, float]) -> dict[str, float]:
        """Return every figure's mean over the workers, which must all name the same figures."""
        if self.world == 1 or not figures:
            return dict(figures)
        values = torch.tensor(list(figures.values()), dtype=torch.float64, device=self.device)
        distributed.all_reduce(values)
        return dict(zip(figures, (values / self.world).tolist(), strict=True))

    def any(self, flag: bool) -> bool:
        """Say whether the flag is set on any worker; all workers get the same answer."""
        if self.world == 1:
            return flag
        value = torch.tensor(int(flag), device=self.device)
        distributed.all_reduce(value, op=distributed.ReduceOp.MAX)
        return bool(value.item())

    def wait(self) -> None:
        """Wait until all workers are here."""
        if self.world > 1:
            distributed.barrier()

    def wrap(self, module: nn.Module, *, uses_all: bool = True) -> nn.Module:
        """Return the module with gradients averaged over the workers; call it instead of the module.

        `uses_all` false says that a batch may leave parameters out, other ones on every worker.
        """
        if self.world == 1:
            return module
        return DistributedDataParallel(module, broadcast_buffers=False, gradient_as_bucket_view=True, find_unused_parameters=not uses_all)


def launched_group(device: torch.device | None = None) -> Group:
    """Return the group that torchrun's variables describe (RANK, WORLD_SIZE, LOCAL_RANK), initialised; alone, one worker."""
    rank, world = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    cuda = torch.cuda.is_available() if device is None else device.type == "cuda"
    own = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0"))) if cuda else torch.device("cpu")
    if world > 1 and not distributed.is_initialized():
        distributed.init_process_group("nccl" if cuda else "gloo", timeout=TIMEOUT)
    return Group(rank=rank, world=world, device=own)
