"""Measure inversion and edit on a GPU against the form of the released code, and against what the device could do. Prints JSON.

python -m benchmarks.gpu [--size 1024] [--batch 16] [--kind bf16]

`images_per_s` is e4e, the first picture, HyperEditor's trunk and heads, and the edited picture, of the released shapes with random weights:
ours in half precision and batches with factorised offsets; theirs in float32, one picture at a time, offsets multiplied out and kernels per
sample (float32 as PyTorch has it by default: TensorFloat-32 in convolutions). `utilisation` is the share of the device's peak arithmetic in
half precision, `roofline` that of what arithmetic and memory allow operation by operation (benchmarks/roofline.py). Exit code 1 below a
floor of benchmarks/floors.yaml, 2 without a GPU.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import jsonargparse
import torch
import yaml
from torch import Tensor

from benchmarks.editing_step import multiplied_out
from benchmarks.roofline import counted, peak_of
from models.encoders import Encoder4Editing
from models.hypereditor import HyperEditor
from models.inverters import pooled
from models.stylegan2 import Generator

FLOORS = Path(__file__).with_name("floors.yaml")
KINDS = {"bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True, kw_only=True)
class Options:
    """How to measure.

    Args:
        size: Side of the pictures.
        batch: Pictures at a time in our form.
        kind: Half precision.
        rounds: Runs of each form.
    """

    size: int = 1024
    batch: int = 16
    kind: Literal["bf16", "fp16"] = "bf16"
    rounds: int = 7


class Networks:
    """Networks of the released shapes with random weights, and a text direction."""

    def __init__(self, size: int, *, device: str) -> None:
        torch.manual_seed(0)
        with torch.device(device):
            self.encoder, self.net, self.generator = Encoder4Editing(size), HyperEditor(size), Generator(size)
            self.direction_1E = torch.randn(1, 512) * 0.1
        for network in (self.encoder, self.net, self.generator):
            network.eval().requires_grad_(False)
        for network in (self.encoder, self.net):
            network.to(memory_format=torch.channels_last)
        self.device = device

    @torch.no_grad()
    def ours(self, image_BCHW: Tensor, kind: torch.dtype) -> Tensor:
        """Return edited pictures in half precision with factorised offsets; the generator has to be halved."""
        with torch.autocast(self.device, kind):
            latents = self.encoder(pooled(image_BCHW, self.encoder.input_size)).float()
        made = self.generator.synthesis(latents)
        with torch.autocast(self.device, kind):
            offsets = self.net.factors(pooled(made, self.net.input_size), self.direction_1E)
        return self.generator.synthesis(latents, offsets)

    @torch.no_grad()
    def theirs(self, image_BCHW: Tensor) -> Tensor:
        """Return edited pictures in full precision with offsets multiplied out; on a GPU kernels per sample are grouped anyway."""
        latents = self.encoder(pooled(image_BCHW, self.encoder.input_size))
        made = self.generator.synthesis(latents)
        seen = self.net.modulated(self.net.seen(pooled(made, self.net.input_size)), self.direction_1E)
        return self.generator.synthesis(latents, multiplied_out(self.net, seen))


def seconds(run: Callable[[], object], *, rounds: int) -> float:
    """Return the median time of a run on the GPU, warmed up three times."""
    found = []
    for _ in range(3 + rounds):
        torch.cuda.synchronize()
        start = time.perf_counter()
        run()
        torch.cuda.synchronize()
        found.append(time.perf_counter() - start)
    return statistics.median(found[3:])


def measured(options: Options) -> dict[str, float | str]:
    """Return every figure."""
    networks, kind = Networks(options.size, device="cuda"), KINDS[options.kind]
    images = torch.randn(options.batch, 3, options.size, options.size, device="cuda").clamp(-1, 1)
    theirs_s = seconds(lambda: networks.theirs(images[:1]), rounds=options.rounds)
    networks.generator.halved(kind)
    torch.cuda.reset_peak_memory_stats()
    ours_s = seconds(lambda: networks.ours(images, kind), rounds=options.rounds) / options.batch
    name = torch.cuda.get_device_name()
    found: dict[str, float | str] = {
        "device": name, "torch": torch.__version__, "size": options.size, "batch": options.batch, "kind": options.kind,
        "images_per_s": 1 / ours_s, "images_per_s_released": 1 / theirs_s, "speedup": theirs_s / ours_s,
        "memory_gib": torch.cuda.max_memory_allocated() / 2**30,
    }  # fmt: skip
    work, peak = counted(lambda: networks.ours(images, kind)), peak_of(name)
    found["tflop_per_image"] = work.flops / options.batch / 1e12
    if peak is not None:
        found["utilisation"] = work.flops / options.batch / ours_s / peak.flops
        found["roofline"] = work.bound_s(peak) / options.batch / ours_s
    return found


def main() -> int:
    """Measure; return 1 when a figure misses its floor."""
    options = jsonargparse.auto_cli(Options, as_positional=False)
    if not torch.cuda.is_available():
        print("gpu: torch finds no GPU on this machine; this benchmark needs one", file=sys.stderr)
        return 2
    found = measured(options)
    floors: dict[str, float] = yaml.safe_load(FLOORS.read_text())["gpu"]
    missed = [name for name, floor in floors.items() if float(found.get(name, floor)) < floor]
    rounded = {name: value if isinstance(value, str) else round(value, 4) for name, value in found.items()}
    print(json.dumps({"benchmark": "gpu", **rounded, "floors": floors, "missed": missed}))
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
