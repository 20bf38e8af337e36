"""Measure factorised weight offsets against kernels per sample: single convolutions, and a whole editing generator. Prints JSON.

python -m benchmarks.factorised [--rounds 7] [--batch 4]

Every figure is a ratio of medians, dense time over factorised time, of runs that take turns in one process. `layer_*` are convolutions of
the released width (512 channels) at several sizes, run factorised whatever the generator would choose; `edit_64` is the pack's generator
under HyperEditor's offsets, which chooses for each layer; `step_64` the same with gradients, as in training. Exit code 1 below a floor.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import jsonargparse
import torch
import yaml
from torch import Tensor

from models import modulated_conv
from models.hypereditor import HyperEditor
from models.modulated_conv import Layer, ModulatedConv
from models.pack import Pack
from models.state import FactorisedOffset, dense

FLOORS = Path(__file__).with_name("floors.yaml")
CHANNELS, SIZES = 512, (8, 16, 32)


@dataclass(frozen=True, kw_only=True)
class Options:
    """How to measure.

    Args:
        rounds: Runs of each form.
        batch: Samples.
        threads: Threads of torch.
        pack: Pack whose generator and HyperEditor are run.
    """

    rounds: int = 7
    batch: int = 4
    threads: int = 2
    pack: str = "packs/portraits64"


def ratio(slow: Callable[[], object], fast: Callable[[], object], *, rounds: int) -> float:
    """Return the median time of one over that of the other; the first turn warms both up."""
    turns = [(_seconds(slow), _seconds(fast)) for _ in range(rounds + 1)][1:]
    return statistics.median(turn[0] for turn in turns) / statistics.median(turn[1] for turn in turns)


def _seconds(run: Callable[[], object]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


@torch.no_grad()
def layer(size: int, *, batch: int, rounds: int) -> float:
    """Return the ratio for one 3x3 convolution of 512 channels."""
    shape = {"index": 0, "kind": "conv", "kernel": 3, "latent": 0, "upsample": False}
    conv = ModulatedConv(Layer(in_channels=CHANNELS, out_channels=CHANNELS, resolution=size, **shape), CHANNELS)  # type: ignore[arg-type]
    x, style = torch.randn(batch, CHANNELS, size, size), torch.randn(batch, CHANNELS)
    offset = FactorisedOffset(
        out_BO=torch.randn(batch, CHANNELS) * 0.1, in_BI=torch.randn(batch, CHANNELS), shared_OI=torch.randn(CHANNELS, CHANNELS) * 0.1
    )
    return ratio(lambda: conv(x, style, offset.dense()), lambda: conv(x, style, offset), rounds=rounds)


def end_to_end(pack: Pack, *, batch: int, rounds: int) -> dict[str, float]:
    """Return the ratios of the pack's editing generator, without and with gradients."""
    net, generator = pack.network("hypereditor", HyperEditor), pack.generator()
    direction = pack.clip().embed_texts(["a smiling face"]) - pack.clip().embed_texts(["a face"])
    w = generator.repeat(generator.mapping(torch.randn(batch, generator.style_dim)))
    image = generator.synthesis(w).clamp(-1, 1)

    def edited(*, multiplied: bool) -> Tensor:
        factors = net.factors(image, direction)
        return generator.synthesis(w, {i: dense(o) for i, o in factors.items()} if multiplied else factors)

    def step(*, multiplied: bool) -> None:
        with torch.autocast("cpu", torch.bfloat16):
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
    found = end_to_end(Pack.load(options.pack), batch=options.batch, rounds=options.rounds)
    modulated_conv.HEAVY_KERNELS = 0  # factorised at every size, to show where that pays
    found |= {f"layer_{size}": layer(size, batch=options.batch, rounds=options.rounds) for size in SIZES}
    floors: dict[str, float] = yaml.safe_load(FLOORS.read_text())["factorised"]
    below = [name for name, floor in floors.items() if found[name] < floor]
    rounded = {name: round(value, 2) for name, value in found.items()}
    print(json.dumps({"benchmark": "factorised", "batch": options.batch, **rounded, "floors": floors, "below_floor": below}))
    return 1 if below else 0


if __name__ == "__main__":
    sys.exit(main())
