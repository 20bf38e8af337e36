"""Image sheets of the editing suite: methods side by side, and HyperEditor's Figures 7, 9, 20, 22 and 24.

Shape legend: N pictures, B batch, 3 colours, H/W rows/columns. Pictures are RGB in [-1, 1].
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from evaluation.drawing import labelled_sheet, new_figure, plotted
from models.editors import Editor
from models.instruction import Instruction
from models.inversion import Inversion
from models.state import GeneratorState, dense
from models.stylegan2 import Generator

ETAS = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
PEOPLE = 2
"""People of each instruction on a sheet."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Subject:
    """An editor, a few inverted portraits and the generator, which the figures of one method are made from."""

    editor: Editor
    inversion: Inversion
    generator: Generator

    def state(self, instruction: Instruction) -> GeneratorState:
        """Return the edited states."""
        return self.editor.edit(self.inversion, instruction)

    @torch.no_grad()
    def edited(self, instruction: Instruction, generator: Generator | None = None) -> Tensor:
        """Return the edited pictures, by another generator where one is given."""
        return (generator or self.generator)(self.state(instruction)).cpu()


def interpolated(a: GeneratorState, b: GeneratorState, eta: float) -> GeneratorState:
    """Return `eta a + (1 - eta) b` of latents and offsets (HyperEditor, Figure 22); offsets become dense.

    Raises ValueError where the states are not of equal structure.
    """
    if a.offsets.keys() != b.offsets.keys() or a.latents_BLD.shape != b.latents_BLD.shape or a.domain != b.domain:
        raise ValueError("cannot interpolate between states of other shapes, layers or domains: edit both with the same method")
    offsets = {index: eta * dense(offset) + (1 - eta) * dense(b.offsets[index]) for index, offset in a.offsets.items()}
    return replace(a, latents_BLD=eta * a.latents_BLD + (1 - eta) * b.latents_BLD, offsets=offsets)


def swapped(instruction: Instruction) -> Instruction:
    """Return the instruction from the target to the source."""
    return replace(instruction, source=instruction.target, target=instruction.source)


def overview(
    instructions: Sequence[Instruction], before: Mapping[str, Mapping[str, Tensor]], after: Mapping[str, Mapping[str, Tensor]]
) -> bytes:
    """Return a PNG: rows of people under each instruction; the input, what each inverter made of it, then every method.

    `before` holds the pictures by column and instruction, `after` by method and instruction.
    """
    columns = {
        label: by_name for label, by_name in (dict(before) | dict(after)).items() if any(one.name in by_name for one in instructions)
    }
    height = {one.name: min(PEOPLE, len(before["input"][one.name])) for one in instructions}
    blank = torch.ones_like(next(iter(before["input"].values()))[:1])
    pictures = {
        label: torch.cat([_padded(by_name.get(one.name), blank, height[one.name]) for one in instructions])
        for label, by_name in columns.items()
    }
    return labelled_sheet(pictures, [one.target for one in instructions for _ in range(height[one.name])])


def _padded(picture_NCHW: Tensor | None, blank_1CHW: Tensor, rows: int) -> Tensor:
    """Return `rows` pictures, white where a method has none."""
    found = [] if picture_NCHW is None else [picture_NCHW[:rows].to(blank_1CHW)]
    missing = rows - sum(map(len, found))
    return torch.cat([*found, blank_1CHW.expand(missing, -1, -1, -1)])


@torch.no_grad()
def interpolation(subject: Subject, a: Instruction, b: Instruction) -> bytes:
    """Return a PNG that walks from edit b to edit a (HyperEditor, Figure 22)."""
    first, second = subject.state(a), subject.state(b)
    columns = {"input": subject.inversion.aligned_BCHW, "inversion": subject.inversion.made_BCHW}
    for eta in ETAS:
        ends = {0.0: f": {b.name}", 1.0: f": {a.name}"}.get(eta, "")
        columns[f"η = {eta:g}{ends}"] = subject.generator(interpolated(first, second, eta))
    return labelled_sheet(columns, [""] * len(subject.inversion))


def reversal(subject: Subject, instructions: Sequence[Instruction]) -> bytes:
    """Return a PNG of edits, and of the same with source and target swapped (HyperEditor, Figure 24)."""
    one = Subject(editor=subject.editor, inversion=subject.inversion.slice(0, PEOPLE), generator=subject.generator)
    names = [f"{each.source} → {each.target}" for each in instructions for _ in range(len(one.inversion))]
    columns = {
        "input": torch.cat([one.inversion.aligned_BCHW] * len(instructions)),
        "inversion": torch.cat([one.inversion.made_BCHW] * len(instructions)),
        "as asked": torch.cat([one.edited(each) for each in instructions]),
        "swapped": torch.cat([one.edited(swapped(each)) for each in instructions]),
    }
    return labelled_sheet(columns, names)


@torch.no_grad()
def transferred(subject: Subject, others: Mapping[str, Generator], instructions: Sequence[Instruction]) -> bytes:
    """Return a PNG of the same offsets on other generators (HyperEditor, Figure 7): a row per generator and person."""
    one = Subject(editor=subject.editor, inversion=subject.inversion.slice(0, PEOPLE), generator=subject.generator)
    generators = {"its own": one.generator, **others}
    columns = {"input": torch.cat([one.inversion.aligned_BCHW.cpu()] * len(generators))}
    columns["unedited"] = torch.cat([generator(one.inversion.state).cpu() for generator in generators.values()])
    for each in instructions:
        columns[each.name] = torch.cat([one.edited(each, generator) for generator in generators.values()])
    return labelled_sheet(columns, [label for label in generators for _ in range(len(one.inversion))])


@torch.no_grad()
def offset_means(subject: Subject, instructions: Sequence[Instruction]) -> dict[str, dict[int, float]]:
    """Return the mean size of the offsets by instruction and layer (HyperEditor, Figure 9)."""
    return {
        each.name: {index: float(dense(offset).abs().mean()) for index, offset in sorted(subject.state(each).offsets.items())}
        for each in instructions
    }


def offset_plot(sizes: Mapping[str, Mapping[int, float]]) -> bytes:
    """Return a PNG with a bar for every layer and instruction."""
    figure, axes = new_figure(10.5, 3.8)
    layers = sorted({index for by_layer in sizes.values() for index in by_layer})
    width = 0.84 / len(sizes)
    for place, (name, by_layer) in enumerate(sizes.items()):
        x = [layers.index(index) - 0.42 + (place + 0.5) * width for index in by_layer]
        axes.bar(x, list(by_layer.values()), width=width, label=name, color=_colour(place))
    axes.set_xticks(range(len(layers)), [str(index) for index in layers])
    axes.set_xlabel("layer (index of the convolution)")
    axes.set_ylabel("mean |offset|")
    axes.legend(frameon=False, fontsize=8, ncols=max(1, (len(sizes) + 3) // 4))
    return plotted(figure)


def _colour(place: int) -> tuple[float, float, float, float]:
    from matplotlib import colormaps

    red, green, blue, alpha = colormaps["tab20"](place % 20)
    return float(red), float(green), float(blue), float(alpha)
