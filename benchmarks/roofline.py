"""Count what a run has to do at least: floating point operations and bytes of every tensor operation, and what a device needs for them.

The bound of an operation is the longer of its arithmetic at the device's peak and its inputs and outputs once through memory; a run's is
the sum over its operations, as they are issued: fused ones need less, so a share of the bound may pass 1 under a compiler.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten
from torch.utils.flop_counter import flop_registry

from benchmarks.measure import seconds

MIB = 1 << 20
TRIES = 5
VIEWS = frozenset(
    {"view", "expand", "transpose", "permute", "t", "unsqueeze", "squeeze", "select", "slice", "detach", "alias", "split", "as_strided"}
)
"""Operations that move nothing."""


@dataclass(frozen=True, kw_only=True)
class Peak:
    """What a device can do at most: operations per second in half precision on its matrix units, dense, and bytes per second of memory."""

    flops: float
    bytes: float


PEAKS: Mapping[str, Peak] = {
    "H200": Peak(flops=989e12, bytes=4.8e12),
    "H100": Peak(flops=989e12, bytes=3.35e12),
    "A100": Peak(flops=312e12, bytes=2.0e12),
    "L40S": Peak(flops=362e12, bytes=0.86e12),
    "L4": Peak(flops=121e12, bytes=0.3e12),
    "T4": Peak(flops=65e12, bytes=0.32e12),
}
"""By a word of the device's name; the makers' data sheets (SXM versions, without sparsity). Slower versions are measured."""


@dataclass(frozen=True, kw_only=True)
class Work:
    """What a run did: operations, bytes, and of each tensor operation both."""

    flops: int
    bytes: int
    each: Sequence[tuple[int, int]]

    def bound_s(self, peak: Peak) -> float:
        """Return the seconds that a device needs at least."""
        return sum(max(flops / peak.flops, moved / peak.bytes) for flops, moved in self.each)


def peak_of(device: str) -> Peak | None:
    """Return the peaks of a device by its name; None for one that is not listed."""
    words = re.split(r"[ -]", device)
    return next((peak for name, peak in PEAKS.items() if name in words and not {"PCIE", "NVL"} & {word.upper() for word in words}), None)


def measured_peak(device: str, kind: torch.dtype) -> Peak:
    """Return what a device that is not listed reaches in a large product of matrices and in a large copy: less than its peaks."""
    side, mib = (8192, 4096) if device != "cpu" else (1024, 256)  # far more than a cache holds
    factors, values = torch.randn(2, side, side, device=device).to(kind), torch.empty(mib * MIB, dtype=torch.uint8, device=device)
    product_s = min(seconds(lambda: factors[0] @ factors[1]) for _ in range(TRIES))
    copy_s = min(seconds(values.clone) for _ in range(TRIES))
    return Peak(flops=2 * side**3 / product_s, bytes=2 * values.numel() / copy_s)


def counted(run: Callable[[], object]) -> Work:
    """Run and count."""
    with torch.no_grad(), _Counting() as counting:
        run()
    each = counting.each
    return Work(flops=sum(flops for flops, _ in each), bytes=sum(moved for _, moved in each), each=each)


class _Counting(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.each: list[tuple[int, int]] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        out = func(*args, **(kwargs or {}))
        packet = func._overloadpacket
        if packet.__name__ not in VIEWS:
            counter = flop_registry.get(packet)
            flops = counter(*args, **(kwargs or {}), out_val=out) if counter is not None else 0
            tensors = [leaf for leaf in tree_flatten((args, kwargs, out))[0] if isinstance(leaf, Tensor)]
            self.each.append((int(flops), sum(tensor.numel() * tensor.element_size() for tensor in tensors)))
        return out
