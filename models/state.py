"""The generator state: the one object that inverters make, editors change and generators render.

Shape legend: B batch, L latent slots (2*log2(size) - 2), D style width, O/I output/input channels of a convolution, k kernel width.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor


@dataclass(frozen=True, kw_only=True, eq=False)
class FactorisedOffset:
    """One factor per channel pair as `offset = out in^T + shared`, a vector each per sample and one matrix for all: what separable
    heads of kernel size 1 make (HyperEditor eq. 1), exactly.

    The generator runs it without kernels per sample where that is cheaper.
    """

    out_BO: Tensor
    in_BI: Tensor
    shared_OI: Tensor

    def __post_init__(self) -> None:
        found = [tuple(value.shape) for value in (self.out_BO, self.in_BI, self.shared_OI)]
        batch = self.out_BO.shape[0]  # len() would fix the batch of a graph that is traced
        wanted = [(batch, found[2][0]), (batch, found[2][-1])]
        if len(found[2]) != 2 or found[:2] != wanted:
            raise ValueError(f"factorised offset: expected shapes (B, O), (B, I), (O, I), found {found[0]}, {found[1]}, {found[2]}")

    @property
    def shape(self) -> tuple[int, int, int, int, int]:
        """Return the shape of the dense offset."""
        return (self.out_BO.shape[0], *self.shared_OI.shape, 1, 1)

    def dense(self) -> Tensor:
        """Return the offset (B, O, I, 1, 1)."""
        return (self.out_BO[:, :, None] * self.in_BI[:, None, :] + self.shared_OI)[..., None, None]

    def __mul__(self, strength: float) -> FactorisedOffset:
        """Return the offset multiplied by `strength`."""
        return replace(self, out_BO=self.out_BO * strength, shared_OI=self.shared_OI * strength)

    def __getitem__(self, rows: slice | Tensor) -> FactorisedOffset:
        """Return the offsets of some samples."""
        return replace(self, out_BO=self.out_BO[rows], in_BI=self.in_BI[rows])

    def to(self, device: torch.device | str) -> FactorisedOffset:
        """Return the offset on another device."""
        return FactorisedOffset(out_BO=self.out_BO.to(device), in_BI=self.in_BI.to(device), shared_OI=self.shared_OI.to(device))


AnyOffset = Tensor | FactorisedOffset
Offsets = Mapping[int, AnyOffset]


def dense(offset: AnyOffset) -> Tensor:
    """Return an offset multiplied out, (B or 1, O, I, k, k)."""
    return offset.dense() if isinstance(offset, FactorisedOffset) else offset


@dataclass(frozen=True, kw_only=True, eq=False)
class GeneratorState:
    """Hold the latents and the multiplicative weight offsets that a generator needs to make a batch of images.

    `latents_BLD` is W+. `offsets[i]` has shape (B or 1, O, I, k, k) with k 1 or 3 and applies to the convolution of output index i
    (conv1, toRGB, then conv, conv, toRGB per resolution): `theta_hat = theta * (1 + offset)`; it may be
    factorised. `domain` names the generator; the empty string is the pack's own. Raises ValueError when the shapes disagree.
    """

    latents_BLD: Tensor
    offsets: Offsets = field(default_factory=dict)
    domain: str = ""

    def __post_init__(self) -> None:
        if self.latents_BLD.ndim != 3:
            raise ValueError(f"generator state: latents must have shape (B, L, D), found {tuple(self.latents_BLD.shape)}")
        for index, offset in self.offsets.items():
            _check_offset(index, offset, batch=len(self))

    def __len__(self) -> int:
        return int(self.latents_BLD.shape[0])

    def scaled(self, strength: float) -> GeneratorState:
        """Return the state with every offset multiplied by `strength`: 0 removes the edit, 1 keeps it, -1 turns it round."""
        return replace(self, offsets=scale_offsets(self.offsets, strength))

    def composed(self, other: GeneratorState) -> GeneratorState:
        """Return `other` applied after this state: offsets multiply up, the later latents win, so does the later domain if it has one."""
        if len(self) != len(other):
            raise ValueError(f"cannot compose a state of {len(self)} images with one of {len(other)}: the batches must be equal")
        return GeneratorState(
            latents_BLD=other.latents_BLD, offsets=compose_offsets(self.offsets, other.offsets), domain=other.domain or self.domain
        )

    def slice(self, start: int, stop: int) -> GeneratorState:
        """Return images `start` to `stop` (exclusive) of the batch; an offset shared by the whole batch stays shared."""
        offsets = {i: o if o.shape[0] == 1 else o[start:stop] for i, o in self.offsets.items()}
        return replace(self, latents_BLD=self.latents_BLD[start:stop], offsets=offsets)

    def take(self, rows: Tensor) -> GeneratorState:
        """Return the images of an index (N,); an offset shared by the whole batch stays shared."""
        offsets = {i: o if o.shape[0] == 1 else o[rows] for i, o in self.offsets.items()}
        return replace(self, latents_BLD=self.latents_BLD[rows], offsets=offsets)

    @classmethod
    def joined(cls, parts: Sequence[GeneratorState]) -> GeneratorState:
        """Return the images of several states of one domain with offsets for the same layers, one after the other."""
        offsets: dict[int, AnyOffset] = {}
        for index in parts[0].offsets:
            offsets[index] = _joined_offset([part.offsets[index] for part in parts], [len(part) for part in parts])
        return replace(parts[0], latents_BLD=torch.cat([part.latents_BLD for part in parts]), offsets=offsets)

    def to(self, device: torch.device | str) -> GeneratorState:
        """Return the state on another device."""
        return replace(self, latents_BLD=self.latents_BLD.to(device), offsets={i: o.to(device) for i, o in self.offsets.items()})


def scale_offsets(offsets: Offsets, strength: float) -> dict[int, AnyOffset]:
    """Multiply every offset by `strength`."""
    return {index: offset * strength for index, offset in offsets.items()}


def compose_offsets(first: Offsets, second: Offsets) -> dict[int, AnyOffset]:
    """Chain two sets of offsets exactly: `(1 + a)(1 + b) - 1` where both exist, the one that exists elsewhere."""
    composed: dict[int, AnyOffset] = dict(first)
    for index, after in second.items():
        before = composed.get(index)
        if before is None:
            composed[index] = after
        else:
            a, b = dense(before), dense(after)
            composed[index] = a + b + a * b
    return composed


def _joined_offset(parts: Sequence[AnyOffset], sizes: Sequence[int]) -> AnyOffset:
    first = parts[0]
    if all(part is first for part in parts) and first.shape[0] == 1:
        return first
    factorised = [part for part in parts if isinstance(part, FactorisedOffset)]
    if (
        isinstance(first, FactorisedOffset)
        and all(part.shared_OI is first.shared_OI for part in factorised)
        and len(factorised) == len(parts)
    ):
        outs, ins = ([getattr(p, side).expand(size, -1) for p, size in zip(factorised, sizes, strict=True)] for side in ("out_BO", "in_BI"))
        return replace(first, out_BO=torch.cat(outs), in_BI=torch.cat(ins))
    return torch.cat([dense(part).expand(size, -1, -1, -1, -1) for part, size in zip(parts, sizes, strict=True)])


def _check_offset(index: int, offset: AnyOffset, *, batch: int) -> None:
    if len(offset.shape) != 5 or offset.shape[0] not in (1, batch) or tuple(offset.shape[3:]) not in ((1, 1), (3, 3)):
        raise ValueError(
            f"generator state: offset {index} must have shape ({batch} or 1, out, in, k, k) with k 1 or 3, found {tuple(offset.shape)}"
        )
