"""Measure inversion and edit on a GPU against the form of the released code, and against what the device could do. Prints JSON.

python -m benchmarks.gpu [--size 1024] [--batch 16] [--precision float16] [--compiled false]

`images_per_s` is e4e, the first picture, HyperEditor's trunk and heads, and the edited picture, of the released shapes with random weights:
ours in half precision and batches with factorised offsets; theirs in float32, one picture at a time, offsets multiplied out and kernels per
sample (float32 as PyTorch has it by default: TensorFloat-32 in convolutions). `utilisation` is the model's operations (one convolution per
layer and picture, whatever form ran) over what the device could do in half precision in that time, by the faster of eager and compiled, as
is `speedup`. The rest is about the eager form: `issued` counts the operations that ran, `roofline` is the share of what arithmetic and
memory allow operation by operation (benchmarks/roofline.py); a device that is not listed there is held against its own largest product and
copy, and `peak` says so. `share_STAGE`, `issued_STAGE` and `roofline_STAGE` are those of a stage. `compile_GRAPH` is eager's time over
torch.compile's, and `images_per_s_compiled` takes it where it pays, as `--backend auto` does. Exit code 1 below a floor of
benchmarks/floors.yaml, 2 without a GPU; `--device cpu` tries it out and is held against none.
"""

from __future__ import annotations

import statistics
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import jsonargparse
import torch
from torch import Tensor

from benchmarks.editing_step import multiplied_out
from benchmarks.factorised import as_released, never_factorised
from benchmarks.measure import conclude, say, seconds
from benchmarks.roofline import Peak, counted, measured_peak, peak_of
from models.encoders import Encoder4Editing
from models.hypereditor import HyperEditor
from models.inverters import pooled
from models.state import AnyOffset
from models.stylegan2 import Generator
from pipeline.backends import WORTH, load_checked, speedup
from pipeline.precision import HALVES
from trt_engines.graphs import BackendError, Graph, Runner, encoder_graph, generator_graph, heads_graph, trunk_graph
from trt_engines.half import autocast

WARM_UP = 3


@dataclass(frozen=True, kw_only=True)
class Options:
    """How to measure.

    Args:
        size: Side of the pictures.
        batch: Pictures at a time in our form.
        precision: Half precision.
        rounds: Runs of each form.
        compiled: Measure torch.compile too, which takes minutes.
        device: cuda; cpu to try the benchmark out.
    """

    size: int = 1024
    batch: int = 16
    precision: Literal["bfloat16", "float16"] = "bfloat16"
    rounds: int = 7
    compiled: bool = True
    device: Literal["cuda", "cpu"] = "cuda"


@dataclass(frozen=True, kw_only=True, eq=False)
class Networks:
    """The networks of an edit, and a text direction."""

    encoder: Encoder4Editing
    net: HyperEditor
    generator: Generator
    direction_1E: Tensor

    @classmethod
    def released(cls, size: int, *, device: str) -> Networks:
        """Return networks of the released shapes with random weights."""
        torch.manual_seed(0)
        with torch.device(device):
            encoder, net, generator = Encoder4Editing(size), HyperEditor(size), Generator(size)
            direction_1E = torch.randn(1, 512) * 0.1
        for network in (encoder, net, generator):
            network.eval().requires_grad_(False)
        for network in (encoder, net):
            network.to(memory_format=torch.channels_last)
        return cls(encoder=encoder, net=net, generator=generator, direction_1E=direction_1E)

    def graphs(self, kind: torch.dtype) -> tuple[Graph, ...]:
        """Return the graphs of an edit; the generator has to be halved."""
        net = self.net
        return encoder_graph(self.encoder, kind), trunk_graph(net, kind), heads_graph(net, kind), generator_graph(self.generator, net, kind)

    def latents(self, image_BCHW: Tensor, kind: torch.dtype) -> Tensor:
        """Return the encoder's latents (B, L, D) in half precision."""
        return autocast(self.encoder, kind)(pooled(image_BCHW, self.encoder.input_size))[0]

    def offsets(self, made_BCHW: Tensor, kind: torch.dtype) -> dict[int, AnyOffset]:
        """Return the hypernetwork's factorised offsets for first pictures, in half precision."""
        with torch.autocast(made_BCHW.device.type, kind):
            return self.net.factors(pooled(made_BCHW, self.net.input_size), self.direction_1E)

    @torch.no_grad()
    def stages(self, image_BCHW: Tensor, kind: torch.dtype) -> dict[str, Callable[[], object]]:
        """Return our stages of an edit by name, each on what those before it made; the generator has to be halved."""
        latents = self.latents(image_BCHW, kind)
        made = self.generator.synthesis(latents)
        offsets = self.offsets(made, kind)
        return {
            "encoder": lambda: self.latents(image_BCHW, kind), "first_picture": lambda: self.generator.synthesis(latents),
            "hypernetwork": lambda: self.offsets(made, kind), "edited_picture": lambda: self.generator.synthesis(latents, offsets),
        }  # fmt: skip

    @torch.no_grad()
    def ours(self, image_BCHW: Tensor, kind: torch.dtype) -> Tensor:
        """Return edited pictures in half precision with factorised offsets; the generator has to be halved."""
        latents = self.latents(image_BCHW, kind)
        return self.generator.synthesis(latents, self.offsets(self.generator.synthesis(latents), kind))

    @torch.no_grad()
    def compiled(self, image_BCHW: Tensor, runners: Mapping[str, Runner]) -> Tensor:
        """Return the same through the runners of graphs; the first picture is the generator's."""
        (latents,) = runners["encoder"](pooled(image_BCHW, self.encoder.input_size))
        (seen,) = runners["trunk"](pooled(self.generator.synthesis(latents), self.net.input_size))
        vectors = runners["heads"](seen, self.direction_1E.expand(len(seen), -1))
        return runners["generator"](latents, latents.new_ones(len(latents), 1), *vectors)[0]

    @torch.no_grad()
    def theirs(self, image_BCHW: Tensor) -> Tensor:
        """Return edited pictures in full precision with offsets multiplied out and kernels per sample."""
        with as_released():
            latents = self.encoder(pooled(image_BCHW, self.encoder.input_size))
            made = self.generator.synthesis(latents)
            seen = self.net.modulated(self.net.seen(pooled(made, self.net.input_size)), self.direction_1E)
            return self.generator.synthesis(latents, multiplied_out(self.net, seen))


@torch.no_grad()
def median_s(run: Callable[[], object], *, rounds: int) -> float:
    """Return the median time of a run without gradients, warmed up three times."""
    return statistics.median([seconds(run) for _ in range(WARM_UP + rounds)][WARM_UP:])


def measured(networks: Networks, options: Options) -> tuple[dict[str, float], dict[str, object]]:
    """Return every figure, and what they are about; the generator is halved afterwards."""
    kind, device = HALVES[options.precision], options.device
    images = torch.randn(options.batch, 3, options.size, options.size, device=device).clamp(-1, 1)
    theirs_s = median_s(lambda: networks.theirs(images[:1]), rounds=options.rounds)
    say(f"released form: {1 / theirs_s:.2f} images/s")
    networks.generator.halved(kind)
    name = torch.cuda.get_device_name() if device == "cuda" else "cpu"
    listed = peak_of(name)
    peak = listed or measured_peak(device, kind)
    found = {"images_per_s_released": 1 / theirs_s} | eager_figures(networks, images, peak, options)
    best_s = 1 / found["images_per_s"]
    if options.compiled:
        found |= compiled_figures(networks, images, options)
        best_s = min(best_s, 1 / found["images_per_s_compiled"])
    with never_factorised():
        model = counted(lambda: networks.ours(images, kind)).flops / options.batch
    found |= {"speedup": theirs_s / best_s, "utilisation": model / best_s / peak.flops, "tflop_per_image": model / 1e12}
    about = {
        "device": name, "torch": torch.__version__, "size": options.size, "batch": options.batch, "precision": options.precision,
        "peak": "listed" if listed else "measured", "peak_tflops": round(peak.flops / 1e12, 2), "peak_gb_per_s": round(peak.bytes / 1e9, 1),
    }  # fmt: skip
    return found, about


def eager_figures(networks: Networks, images: Tensor, peak: Peak, options: Options) -> dict[str, float]:
    """Return rate, memory, and the shares of the roofline, of all and of each stage."""
    kind = HALVES[options.precision]
    if images.is_cuda:
        torch.cuda.reset_peak_memory_stats()
    all_s = median_s(lambda: networks.ours(images, kind), rounds=options.rounds)
    found = {"images_per_s": options.batch / all_s}
    if images.is_cuda:
        found["memory_gib"] = torch.cuda.max_memory_allocated() / 2**30
    say(f"ours: {found['images_per_s']:.2f} images/s")
    work = counted(lambda: networks.ours(images, kind))
    found |= {"issued": work.flops / all_s / peak.flops, "roofline": work.bound_s(peak) / all_s}
    for name, stage in networks.stages(images, kind).items():
        stage_s, work = median_s(stage, rounds=options.rounds), counted(stage)
        found |= {
            f"share_{name}": stage_s / all_s, f"issued_{name}": work.flops / stage_s / peak.flops,
            f"roofline_{name}": work.bound_s(peak) / stage_s,
        }  # fmt: skip
    return found


def compiled_figures(networks: Networks, images: Tensor, options: Options) -> dict[str, float]:
    """Return what torch.compile makes of each graph, and the rate with those that pay."""
    found, runners = dict[str, float](), dict[str, Runner]()
    for graph in networks.graphs(HALVES[options.precision]):
        runners[graph.name] = graph.plain
        try:
            runner = load_checked("compile", graph, device=options.device, batch_size=options.batch)
        except BackendError as error:
            say(str(error))
            continue
        found[f"compile_{graph.name}"] = speedup(graph, runner, device=options.device, batch_size=options.batch)
        say(f"compile, {graph.name}: {found[f'compile_{graph.name}']:.2f} times as fast as eager")
        if found[f"compile_{graph.name}"] >= WORTH:
            runners[graph.name] = runner
    all_s = median_s(lambda: networks.compiled(images, runners), rounds=options.rounds)
    return found | {"images_per_s_compiled": options.batch / all_s}


def main() -> int:
    """Measure; return 1 when a figure misses its floor."""
    options = jsonargparse.auto_cli(Options, as_positional=False)
    if options.device == "cuda" and not torch.cuda.is_available():
        print("gpu: torch finds no GPU on this machine; this benchmark needs one", file=sys.stderr)
        return 2
    found, about = measured(Networks.released(options.size, device=options.device), options)
    return conclude("gpu", found, about=about, judged=options.device == "cuda" and options.size == Options.size)


if __name__ == "__main__":
    sys.exit(main())
