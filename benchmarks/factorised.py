"""Measure factorised weight offsets against kernels per sample: single convolutions, and a whole editing generator. Prints JSON.

python -m benchmarks.factorised [--rounds 7] [--batch 4] [--layers '[8, 64]'] [--batches '[1, 4, 8]'] [--device cuda]

Every figure is a ratio of medians of runs that take turns in one process. `layer_SIZE_xBATCH` and `up_SIZE_xBATCH` are convolutions of the
released widths (512 channels up to 64 pixels, then half at each step), plain and upsampling: the released code's kernels per sample in one
grouped convolution over factorised offsets, run so whatever the generator would choose; `dense_layer_*` and `dense_up_*` the same over the
generator's own form for offsets that do not factorise, such as HyperStyle's. `edit_64` is the pack's generator under HyperEditor's offsets
multiplied out, over factorised, which chooses for each layer; `step_64` the same with gradients, as in training. Exit code 1 below a floor.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import partial

import jsonargparse
import torch
from torch import Tensor

from benchmarks.measure import conclude, ratio, say
from models import modulated_conv, stylegan2
from models.hypereditor import HyperEditor
from models.layers import EPSILON
from models.modulated_conv import Layer, ModulatedConv, convolve_grouped
from models.pack import Pack
from models.state import AnyOffset, FactorisedOffset, dense
from models.stylegan2 import default_channels

SMALLEST, LARGEST, STYLE = 4, 1024, 512
WHOLE = 1 << 60


@dataclass(frozen=True, kw_only=True)
class Options:
    """How to measure.

    Args:
        rounds: Runs of each form.
        batch: Samples of the pack's generator.
        layers: Sizes of the single convolutions, in pixels.
        batches: Samples of the single convolutions.
        whole: Measure the pack's generator too.
        threads: Threads of torch.
        device: cpu or cuda.
        pack: Pack whose generator and HyperEditor are run.
    """

    rounds: int = 7
    batch: int = 4
    layers: tuple[int, ...] = (4, 8, 16, 32, 64, 128, 256, 512, 1024)
    batches: tuple[int, ...] = (1, 4, 8)
    whole: bool = True
    threads: int = 2
    device: str = "cpu"
    pack: str = "packs/portraits64"


@torch.no_grad()
def layer(size: int, *, batch: int, rounds: int, device: str = "cpu") -> dict[str, float]:
    """Return the ratios for 3x3 convolutions of the released width at a size, plain and upsampling."""
    with torch.device(device):
        return _layer(size, batch=batch, rounds=rounds)


def _layer(size: int, *, batch: int, rounds: int) -> dict[str, float]:
    found, widths = {}, default_channels(LARGEST)
    for name, up in (("layer", False), ("up", True)):
        if up and size == SMALLEST:
            continue
        before, after, side = (widths[size // 2], widths[size], size // 2) if up else (widths[size], widths[size], size)
        shape = {"index": 0, "kind": "conv", "kernel": 3, "latent": 0, "upsample": up}
        conv = ModulatedConv(Layer(in_channels=before, out_channels=after, resolution=size, **shape), STYLE)  # type: ignore[arg-type]
        offset = FactorisedOffset(
            out_BO=torch.randn(batch, after) * 0.1, in_BI=torch.randn(batch, before), shared_OI=torch.randn(after, before) * 0.1
        )
        x = torch.randn(batch, before, side, side).contiguous(memory_format=torch.channels_last)
        style, multiplied = torch.randn(batch, before), offset.dense()

        def released(conv: ModulatedConv = conv, x: Tensor = x, style: Tensor = style, multiplied: Tensor = multiplied) -> None:
            with as_released():
                conv(x, style, multiplied)

        def ours(offset: AnyOffset, conv: ModulatedConv = conv, x: Tensor = x, style: Tensor = style) -> None:
            with always_factorised():
                conv(x, style, offset)

        found[f"{name}_{size}_x{batch}"] = ratio(released, partial(ours, offset), rounds=rounds)
        found[f"dense_{name}_{size}_x{batch}"] = ratio(released, partial(ours, multiplied), rounds=rounds)
    return found


@contextmanager
def as_released() -> Iterator[None]:
    """Run every modulated convolution as the released code does: style, offset and demodulation in kernels of every sample, one grouped
    convolution for the whole batch."""
    own, cached = ModulatedConv.forward, stylegan2.CACHED
    ModulatedConv.forward, stylegan2.CACHED = _released, WHOLE  # type: ignore[method-assign]
    try:
        yield
    finally:
        ModulatedConv.forward, stylegan2.CACHED = own, cached  # type: ignore[method-assign]


def _released(self: ModulatedConv, x_BIHW: Tensor, style_BI: Tensor, offset: AnyOffset | None = None) -> tuple[Tensor, Tensor | None]:
    """Return what `ModulatedConv.forward` returns, its factor one: demodulation is in the kernels."""
    kernels = self.weight if offset is None else self.weight * (1 + dense(offset))
    kernels = self.scale * kernels * style_BI[:, None, :, None, None]
    if self.demodulate:
        kernels = kernels * (kernels.square().sum((2, 3, 4)) + EPSILON).rsqrt()[:, :, None, None, None]
    y = convolve_grouped(x_BIHW, kernels, up=self.layer.upsample)
    return self.blur(y, pad=1) if self.layer.upsample else y, style_BI.new_ones(kernels.shape[:2]) if self.demodulate else None


def always_factorised() -> AbstractContextManager[None]:
    """Run factorised offsets without kernels per sample at every size, to show where that pays."""
    return _factorised_from(0)


def never_factorised() -> AbstractContextManager[None]:
    """Run factorised offsets with kernels per sample at every size: one convolution per layer, which is what a model's operations are."""
    return _factorised_from(math.inf)


@contextmanager
def _factorised_from(ratio: float) -> Iterator[None]:
    heavy, modulated_conv.HEAVY_KERNELS = modulated_conv.HEAVY_KERNELS, ratio
    try:
        yield
    finally:
        modulated_conv.HEAVY_KERNELS = heavy


def end_to_end(pack: Pack, *, batch: int, rounds: int) -> dict[str, float]:
    """Return the ratios of the pack's editing generator, without and with gradients."""
    net, generator = pack.network("hypereditor", HyperEditor), pack.generator()
    direction = pack.clip().embed_texts(["a smiling face"]) - pack.clip().embed_texts(["a face"])
    w = generator.repeat(generator.mapping(torch.randn(batch, generator.style_dim).to(direction)))
    image = generator.synthesis(w).clamp(-1, 1)

    def edited(*, multiplied: bool) -> Tensor:
        factors = net.factors(image, direction)
        return generator.synthesis(w, {i: dense(o) for i, o in factors.items()} if multiplied else factors)

    def step(*, multiplied: bool) -> None:
        with torch.autocast(w.device.type, torch.bfloat16):
            picture = edited(multiplied=multiplied)
        picture.float().square().mean().backward()

    with torch.no_grad():
        found = {"edit_64": ratio(lambda: edited(multiplied=True), lambda: edited(multiplied=False), rounds=rounds)}
    net.requires_grad_(True)
    return found | {"step_64": ratio(lambda: step(multiplied=True), lambda: step(multiplied=False), rounds=rounds)}


def main() -> int:
    """Measure; return 1 when a ratio is below its floor."""
    options = jsonargparse.auto_cli(Options, as_positional=False)
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    found = dict[str, float]()
    if options.whole:
        found |= end_to_end(Pack.load(options.pack, device=options.device), batch=options.batch, rounds=options.rounds)
    for size in options.layers:
        for batch in options.batches:
            found |= layer(size, batch=batch, rounds=options.rounds, device=options.device)
            say(f"{size} pixels, {batch} samples: done")
    return conclude("factorised", found, about={"device": options.device, "batch": options.batch}, judged=options.device == "cpu")


if __name__ == "__main__":
    sys.exit(main())
