"""Networks of a graph in half precision: weights and activations rounded, float32 at both ends, one type for every operand.

Strongly typed engines compute in the types that a graph states, so the casts are part of it. The editing generator rounds what it may
by itself (`trt_engines/editing_generator.py`).

Shape legend: B batch, C channels, H/W rows/columns.
"""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
from torch import Tensor, nn

Tensors = tuple[Tensor, ...]
"""Inputs or outputs of a graph."""


class HalfNetwork(nn.Module):
    """Run a copy of a network in `kind`, bfloat16 or float16, for inference: inputs and outputs are float32."""

    def __init__(self, network: nn.Module, kind: torch.dtype) -> None:
        super().__init__()
        self.kind = kind
        self.network = with_affine_norms(copy.deepcopy(network).eval().requires_grad_(False)).to(kind)

    def forward(self, first: Tensor, second: Tensor | None = None) -> Tensor | Tensors:
        """Return what the network makes of one or two inputs: the exporter takes no `*inputs`."""
        made = self.network(*(value.to(self.kind) for value in (first, second) if value is not None))
        return tuple(value.float() for value in made) if isinstance(made, tuple) else made.float()


class Affine(nn.Module):
    """Scale and shift every channel: batch norm in inference, whose variances are no numbers to round."""

    scale: Tensor
    shift: Tensor

    def __init__(self, norm: nn.BatchNorm2d) -> None:
        super().__init__()
        assert norm.running_mean is not None and norm.running_var is not None
        scale_C = norm.weight * (norm.running_var + norm.eps).rsqrt()
        self.register_buffer("scale", scale_C.detach()[:, None, None].clone())
        self.register_buffer("shift", (norm.bias - norm.running_mean * scale_C).detach()[:, None, None].clone())

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Keep the shape."""
        return x_BCHW * self.scale + self.shift


def with_affine_norms(network: nn.Module) -> nn.Module:
    """Replace every batch norm of a network in place, and return it."""
    for module in list(network.modules()):
        for name, child in module.named_children():
            if isinstance(child, nn.BatchNorm2d):
                setattr(module, name, Affine(child))
    return network


def autocast(run: Callable[..., Tensor | Tensors], kind: torch.dtype) -> Callable[..., Tensors]:
    """Return the same under autocast, as eager runs in half precision: the reference of a graph in it. Outputs are float32."""

    def cast(*inputs: Tensor) -> Tensors:
        with torch.autocast(inputs[0].device.type, kind):
            made = run(*inputs)
        return tuple(value.float() for value in (made if isinstance(made, tuple) else (made,)))

    return cast
