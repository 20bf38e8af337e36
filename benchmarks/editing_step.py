"""Measure an edit against the form of the released code: head products multiplied out, and kernels per sample in grouped convolutions.

python -m benchmarks.editing_step [--sizes '[64, 256]'] [--batches '[1, 4, 8]'] [--rounds 5] [--device cuda]

`step_SIZE_xBATCH` is the released time over ours for heads and edited synthesis together, of medians of runs that take turns, with networks
of the released shapes and random weights. `memory_256_x8` is our peak memory over theirs, each in a process of its own, above what the
networks and inputs take, `memory_gib_*` both in GiB; `heads_multiply_adds` counts theirs over ours. `whole_64_x16_4` is a whole edit with
the pack's networks, from aligned pictures, four instructions each: theirs inverts and runs the trunk for every one; `edits_64_x16_4` the
same from the inversion on.
Prints JSON; exit code 1 beyond a floor of benchmarks/floors.yaml.
"""

from __future__ import annotations

import multiprocessing
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import jsonargparse
import psutil
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.factorised import as_released
from benchmarks.measure import conclude, ratio, say
from models.hypereditor import HyperEditor
from models.instruction import Instruction
from models.inversion import Inversion
from models.inverters import pooled
from models.layers import longest
from models.pack import Pack
from models.refinement import SeparableKernel
from models.resnet import SHRINK
from models.state import AnyOffset
from models.stylegan2 import Generator
from pipeline.batch_probe import cuda_peak, give_back, resident_peak
from pipeline.invert import invert

TARGETS = ("a smiling face", "an old face", "a face with glasses", "a face with a hat")


@dataclass(frozen=True, kw_only=True)
class Options:
    """How to measure.

    Args:
        sizes: Sides of the pictures of the generators of released shapes.
        batches: Pictures at a time.
        rounds: Runs of each form.
        threads: Threads of torch.
        device: cpu or cuda.
        pack: Pack whose networks the whole edit is measured with.
    """

    sizes: tuple[int, ...] = (64, 256, 1024)
    batches: tuple[int, ...] = (1, 4, 8)
    rounds: int = 5
    threads: int = 2
    device: str = "cpu"
    pack: str = "packs/portraits64"


@dataclass(frozen=True, kw_only=True, eq=False)
class Step:
    """Heads and edited synthesis of one batch: a hypernetwork, a generator, the modulated trunk features and latents."""

    net: HyperEditor
    generator: Generator
    features_BCHW: Tensor
    latents_BLD: Tensor

    @classmethod
    def released(cls, size: int, batch: int, *, device: str = "cpu") -> Step:
        """Return one of the released shapes with random weights."""
        torch.manual_seed(0)
        with torch.device(device):
            net, generator = HyperEditor(size).eval().requires_grad_(False), Generator(size).eval().requires_grad_(False)
            features_BCHW = torch.randn(batch, 512, longest(net.input_size) // SHRINK, longest(net.input_size) // SHRINK) * 0.1
            return cls(net=net, generator=generator, features_BCHW=features_BCHW, latents_BLD=torch.randn(batch, generator.n_latents, 512))

    @torch.no_grad()
    def ours(self) -> Tensor:
        """Return the pictures by factorised offsets."""
        return self.generator.synthesis(self.latents_BLD, self.net.factors_of(self.features_BCHW, None))

    @torch.no_grad()
    def theirs(self) -> Tensor:
        """Return the pictures by offsets multiplied out as by their definition, one grouped convolution per layer."""
        with as_released():
            return self.generator.synthesis(self.latents_BLD, multiplied_out(self.net, self.features_BCHW))


def multiplied_out(net: HyperEditor, features_BCHW: Tensor) -> dict[int, AnyOffset]:
    """Return the offsets as the definition has them: two products of matrices for every sample and layer."""
    found: dict[int, AnyOffset] = {}
    for layer, kernel, features in last_parts(net, features_BCHW):
        found[layer] = kernel.plain(features) if isinstance(kernel, SeparableKernel) else kernel(features)
    return found


def last_parts(net: HyperEditor, features_BCHW: Tensor) -> Iterator[tuple[int, nn.Module, Tensor]]:
    """Yield the layer, the last part of its head, and what the shrinking convolutions before it make (B, F)."""
    for layer in net.tuned:
        head = net.head(layer.index)
        yield layer.index, head.output[0], head.convs(features_BCHW).flatten(1)


def multiply_adds(run: Callable[[], object]) -> int:
    """Return the floating point operations of matrix products and convolutions."""
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        run()
    return counter.get_total_flops()


def heads(step: Step) -> float:
    """Return the multiply-adds of the heads' last parts, theirs over ours: what follows the shrinking convolutions, which both have."""
    parts = last_parts(step.net, step.features_BCHW)
    kernels = [(kernel, features) for _, kernel, features in parts if isinstance(kernel, SeparableKernel)]
    theirs = multiply_adds(lambda: [kernel.plain(features) for kernel, features in kernels])
    return theirs / multiply_adds(lambda: [kernel.factors(features) for kernel, features in kernels])


def peak(form: str, size: int, batch: int, *, device: str = "cpu") -> int:
    """Return the bytes that a form takes at most above what its networks and inputs take, in a new process."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(_peak, (form, size, batch, device))


def _peak(form: str, size: int, batch: int, device: str) -> int:
    torch.set_num_threads(1)
    step = Step.released(size, batch, device=device)
    run = step.ours if form == "ours" else step.theirs
    if device != "cpu":
        run()  # what libraries take once is no part of a batch
        return max(1, cuda_peak(run) - torch.cuda.memory_allocated())
    give_back()
    before = psutil.Process().memory_info().rss
    return max(1, resident_peak(run) - before)


def whole(pack: Pack, *, batch: int, rounds: int) -> dict[str, float]:
    """Return the time of editing pictures by four instructions as released over ours, with the pack's networks.

    `whole_*` is from aligned pictures to edited ones: the released form inverts a picture, makes it again and runs the trunk for every
    instruction. `edits_*` is the same from the inversion on.
    """
    generator, net, editor, inverter = (
        pack.generator(),
        pack.network("hypereditor", HyperEditor),
        pack.editor("hypereditor"),
        pack.inverter(),
    )
    z_BD = torch.randn(batch, generator.style_dim).to(generator.input.input)
    aligned = generator.synthesis(generator.repeat(generator.mapping(z_BD))).clamp(-1, 1)
    asked = [Instruction(name=str(place), source="a face", target=target) for place, target in enumerate(TARGETS)]
    texts = [pack.clip().embed_texts([one.target]) - pack.clip().embed_texts([one.source]) for one in asked]
    found = invert(inverter, generator, aligned)

    def ours(inversion: Inversion) -> None:
        fresh = replace(inversion)  # nothing is kept from the round before
        for one in asked:
            generator(editor.edit(fresh, one))

    def theirs(inversion: Inversion | None) -> None:
        with as_released():
            for text in texts:
                one = inversion or invert(inverter, generator, aligned)
                seen = net.seen(pooled(one.made_BCHW, net.input_size))
                generator.synthesis(one.state.latents_BLD, multiplied_out(net, net.modulated(seen, text)))

    with torch.no_grad():
        size = f"{pack.size}_x{batch}_{len(asked)}"
        return {
            f"whole_{size}": ratio(lambda: theirs(None), lambda: ours(invert(inverter, generator, aligned)), rounds=rounds),
            f"edits_{size}": ratio(lambda: theirs(found), lambda: ours(found), rounds=rounds),
        }


def measured(options: Options) -> dict[str, float]:
    """Return every figure."""
    found: dict[str, float] = {}
    for size in options.sizes:
        for batch in options.batches:
            step = Step.released(size, batch, device=options.device)
            found[f"step_{size}_x{batch}"] = ratio(step.theirs, step.ours, rounds=options.rounds)
            say(f"step_{size}_x{batch}: {found[f'step_{size}_x{batch}']:.2f}")
    with torch.no_grad():
        found["heads_multiply_adds"] = heads(Step.released(256, 1))
    for batch in options.batches:
        ours, theirs = (peak(form, 256, batch, device=options.device) for form in ("ours", "theirs"))
        found[f"memory_256_x{batch}"] = ours / theirs
        found |= {f"memory_gib_256_x{batch}": ours / 2**30, f"memory_gib_256_x{batch}_released": theirs / 2**30}
    with torch.no_grad():
        found |= whole(Pack.load(options.pack, device=options.device), batch=16, rounds=options.rounds)
    return found


def main() -> int:
    """Measure; return 1 when a figure misses its floor."""
    options = jsonargparse.auto_cli(Options, as_positional=False)
    torch.set_num_threads(options.threads)
    found = measured(options)
    memory = [name for name in found if name.startswith("memory_256")]
    return conclude("editing_step", found, about={"device": options.device}, at_most=memory, judged=options.device == "cpu")


if __name__ == "__main__":
    sys.exit(main())
