"""Suite `editing`: what editors do to held-out portraits, whether it is what was asked for, and what else changed.

The columns are those of HyperEditor Table 1 and CLIPInverter Table 1, before and after being the aligned input and the edited picture.

Shape legend: N pictures, B batch, C channels, H/W rows/columns, E embedding, A attributes, S styles. Pictures are RGB in [-1, 1].
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional as F

from evaluation.editing_plan import ATTRIBUTES, PAIRS, STYLES, Prepared, Say, group
from models.editor_names import TEXT_OPTIMISERS
from models.instruction import Instruction
from models.inversion import Inversion
from models.inverters import Inverter
from models.pack import Pack
from models.state import FactorisedOffset, GeneratorState, dense
from models.stylegan2 import Generator
from pipeline.attributes import DECISION
from pipeline.frechet import Moments, distance

if TYPE_CHECKING:
    from pipeline.score import EditScores

NAME = "editing"
BATCH = 50
SURE = 0.90
"""How sure the classifier has to be of an attribute that AMA counts (CLIPInverter section 4.3)."""
INDEPENDENT = "independent_"
"""What the columns of the judge that no editor was trained with begin with."""
SCORED: Mapping[str, str] = {
    "psnr": "psnr_db", "lpips": "lpips", "ssim": "ssim", "identity": "ids", "same_person": "same_person", "clip_score": "cs",
    "clip_directional": "clip_directional", "success": "success", "collateral": "collateral",
}  # fmt: skip
"""Score of the pipeline -> our column."""
COLUMNS = frozenset({*SCORED.values(), "cmp", "ama", "fid", "seconds"})
"""What a row of attributes or pairs is measured by."""
Numbers = dict[str, float]


@dataclass(frozen=True, kw_only=True)
class Cell:
    """What a method did with an instruction: means over the portraits, their standard errors (`*_se`), and the share of unasked changes."""

    group: str
    portraits: int
    numbers: Numbers
    flips: Numbers = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Row:
    """What a method did altogether; `attributes`, `styles` and `pairs` are means over the instructions of each kind.

    `heads` are the parameters of a hypernetwork's heads, `reworded` says whether the instructions were given in other words.
    """

    editor: str
    inverter: str
    kind: str = ""
    ablates: str | None = None
    worse_on: str = "ama"
    sweep: float | None = None
    parameters: int | None = None
    heads: int | None = None
    reworded: bool = False
    training_s: float | None = None
    inversion_s: float = 0.0
    cells: Mapping[str, Cell]
    attributes: Numbers = field(default_factory=dict)
    styles: Numbers = field(default_factory=dict)
    pairs: Numbers = field(default_factory=dict)

    def summed(self) -> Row:
        """Return the row with the means of its cells."""
        parts = {kind: means([cell for cell in self.cells.values() if cell.group == kind]) for kind in (ATTRIBUTES, STYLES, PAIRS)}
        return replace(self, **parts)  # type: ignore[arg-type]


@dataclass(frozen=True, kw_only=True, eq=False)
class Measured:
    """A row, its first pictures by instruction, and each measure of every portrait by instruction and column, (N,)."""

    row: Row
    shown: Mapping[str, Tensor]
    columns: Mapping[str, Mapping[str, Tensor]]


def means(cells: Sequence[Cell]) -> Numbers:
    """Return the mean of every column that all cells have, with the standard error that the number of portraits leaves."""
    found: Numbers = {}
    names = [name for name in cells[0].numbers if not name.endswith("_se")] if cells else []
    for name in names:
        if all(name in cell.numbers for cell in cells):
            found[name] = sum(cell.numbers[name] for cell in cells) / len(cells)
            errors = [cell.numbers.get(f"{name}_se") for cell in cells]
            if all(error is not None for error in errors):
                found[f"{name}_se"] = sum(error**2 for error in errors if error is not None) ** 0.5 / len(cells)
    return found


class Inversions:
    """What an inverter made of the portraits, each found once, when it is first asked for, and kept in CPU memory."""

    def __init__(self, inverter: Inverter, generator: Generator, images_NCHW: Tensor) -> None:
        self.inverter, self.generator, self.images_NCHW = inverter, generator, images_NCHW
        self.seconds = 0.0
        self._found: dict[int, Inversion] = {}

    @property
    def seconds_each(self) -> float:
        """Return the seconds that a picture took."""
        return self.seconds / max(1, len(self._found))

    def rows(self, rows: Sequence[int]) -> Inversion:
        """Return the inversions of some portraits, on their device."""
        missing = [row for row in rows if row not in self._found]
        for first in range(0, len(missing), BATCH):
            self._find(missing[first : first + BATCH])
        device = self.images_NCHW.device
        found = [self._found[row] for row in rows]
        made = torch.cat([one.made_BCHW for one in found]).to(device)
        state = joined([one.state for one in found]).to(device)
        return Inversion(aligned_BCHW=self.images_NCHW[list(rows)], state=state, made_BCHW=made)

    def _find(self, rows: Sequence[int]) -> None:
        image = self.images_NCHW[list(rows)]
        finish(image.device)
        start = time.perf_counter()
        state = self.inverter.invert(image)
        finish(image.device)
        self.seconds += time.perf_counter() - start
        with torch.no_grad():
            made = self.generator(state).cpu()
        whole = Inversion(aligned_BCHW=image.cpu(), state=state.to("cpu"), made_BCHW=made)
        self._found |= {row: whole.slice(place, place + 1) for place, row in enumerate(rows)}


def joined(states: Sequence[GeneratorState]) -> GeneratorState:
    """Return states of equal structure as one batch. Raises ValueError where they differ in layers or domain."""
    first = states[0]
    if any(one.offsets.keys() != first.offsets.keys() or one.domain != first.domain for one in states):
        raise ValueError("cannot join states whose offsets are of other layers or whose domains differ")
    offsets: dict[int, Tensor | FactorisedOffset] = {}
    for index in first.offsets:
        parts = [one.offsets[index] for one in states]
        offsets[index] = torch.cat([dense(part).expand(len(one), *part.shape[1:]) for part, one in zip(parts, states, strict=True)])
    return replace(first, latents_BLD=torch.cat([one.latents_BLD for one in states]), offsets=offsets)


def finish(device: torch.device) -> None:
    """Wait until a GPU has done what it was told, so that a clock tells the truth."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


class Judge:
    """The networks that edits are judged with, built once, and the texts that styles are told apart by."""

    def __init__(self, pack: Pack, instructions: Sequence[Instruction], *, independent: Pack | None = None) -> None:
        from pipeline.score import Scorer  # takes torchmetrics along

        self.scorer = Scorer(pack, device=pack.device)
        self.attributes = pack.attributes()
        self.own = Reader(pack, instructions)
        self.independent = Reader(independent, instructions, other_than=pack) if independent is not None else None

    def empty(self) -> Moments:
        """Return the moments of no picture."""
        return Moments.empty(self.own.clip.embed_dim)

    @torch.no_grad()
    def columns(
        self, inversion: Inversion, edited_BCHW: Tensor, instruction: Instruction, *, before: Moments, after: Moments
    ) -> tuple[dict[str, Tensor], list[tuple[str, ...]]]:
        """Return every measure of each picture, (B,), and the attributes that changed unasked; add the pictures to the moments."""
        edited = edited_BCHW.clamp(-1, 1)
        source = self.scorer.source(inversion.aligned_BCHW, inversion.made_BCHW, moments=before)
        scores = self.scorer.edit(source, edited, instruction, moments=after)
        found = {ours: _column(scores, name) for name, ours in SCORED.items()}
        found["cmp"] = cmp(inversion.aligned_BCHW.cpu(), edited.cpu(), found["cs"] / 100)
        found["ama"] = ama(self.attributes.probabilities(edited).cpu(), self.attributes.names, instruction.expects)
        found |= self.own.style(edited, instruction)
        if self.independent is not None:
            found |= {f"{INDEPENDENT}{name}": column for name, column in self.independent.columns(edited, instruction).items()}
        return found, [score.flips for score in scores]


class Reader:
    """What the CLIP of a pack sees in edited pictures, and its classifier, where it has one that is not the pack's `other_than`."""

    def __init__(self, pack: Pack, instructions: Sequence[Instruction], *, other_than: Pack | None = None) -> None:
        self.clip = pack.clip()
        known = pack.info.networks.get("attributes")
        same = known is not None and other_than is not None and known.sha256 == other_than.info.networks["attributes"].sha256
        self.attributes = pack.attributes() if known is not None and not same else None
        styles = [one for one in instructions if group(one) == STYLES]
        self.styles = [one.name for one in styles]
        with torch.no_grad():
            texts = [one.target for one in styles] + ([styles[0].source] if styles else ["a face"])
            self._texts_SE = F.normalize(self.clip.embed_texts(texts), dim=1)

    def style(self, edited_BCHW: Tensor, instruction: Instruction) -> dict[str, Tensor]:
        """Return whether CLIP chooses the style asked for among all styles and the photo; nothing for other instructions."""
        return self._chosen(self.clip.embed_images(edited_BCHW), instruction) if instruction.name in self.styles else {}

    def _chosen(self, embedded_BE: Tensor, instruction: Instruction) -> dict[str, Tensor]:
        if instruction.name not in self.styles:
            return {}
        nearest = (embedded_BE @ self._texts_SE.T).argmax(1).cpu()
        return {"style_zero_shot": (nearest == self.styles.index(instruction.name)).float()}

    def columns(self, edited_BCHW: Tensor, instruction: Instruction) -> dict[str, Tensor]:
        """Return the CLIP score, the success and AMA of each picture, and what `style` says."""
        text_1E = F.normalize(self.clip.embed_texts([instruction.target]), dim=1)
        embedded_BE = self.clip.embed_images(edited_BCHW)
        cosine = (F.normalize(embedded_BE, dim=1) * text_1E).sum(1).cpu()
        found = {"cs": 100 * cosine}
        if self.attributes is not None:
            said, names = self.attributes.probabilities(edited_BCHW).cpu(), self.attributes.names
            found["success"] = shown(said, names, instruction.expects, sure=DECISION)
            found["ama"] = ama(said, names, instruction.expects)
        return found | self._chosen(embedded_BE, instruction)


def _column(scores: Sequence[EditScores], name: str) -> Tensor:
    return torch.tensor([float(getattr(score, name) or 0.0) for score in scores])


def cmp(before_BCHW: Tensor, after_BCHW: Tensor, cosine_B: Tensor) -> Tensor:
    """Return the manipulative precision (B,): what stayed of the pixels, in [0, 1], times CLIP's cosine to the target.

    Source: CLIPInverter eq. 14.
    """
    return (1 - (before_BCHW - after_BCHW).abs().mean((1, 2, 3)) / 2) * cosine_B


def ama(probability_BA: Tensor, names: Sequence[str], expects: Mapping[str, bool]) -> Tensor:
    """Return 1 where the classifier is more than 90 % sure of everything expected, else 0, (B,) (CLIPInverter, section 4.3)."""
    return shown(probability_BA, names, expects, sure=SURE)


def shown(probability_BA: Tensor, names: Sequence[str], expects: Mapping[str, bool], *, sure: float) -> Tensor:
    """Return 1 where everything that is expected has more than the probability `sure`, else 0, (B,)."""
    wanted = [(probability_BA[:, names.index(name)] if on else 1 - probability_BA[:, names.index(name)]) for name, on in expects.items()]
    return (torch.stack(wanted) > sure).all(0).float()


def measure_row(
    row: Prepared, judge: Judge, inversions: Inversions, chosen: Mapping[str, Sequence[int]], *, say: Say, shown: int = 0
) -> Measured:
    """Return what a method did on the portraits `chosen` for each instruction, with its first `shown` pictures."""
    cells, pictures, measured, prepared_s = dict[str, Cell](), dict[str, Tensor](), dict[str, dict[str, Tensor]](), 0.0
    for instruction in row.instructions:
        rows = list(chosen[instruction.name][: row.pictures])
        if row.method.editor not in TEXT_OPTIMISERS:
            first = inversions.rows(rows).slice(0, 1)
            finish(first.made_BCHW.device)
            start = time.perf_counter()
            row.editor.edit(first, instruction)  # what is done once, such as finding a direction, has no part in the rest
            finish(first.made_BCHW.device)
            prepared_s += time.perf_counter() - start
        cells[instruction.name], made, measured[instruction.name] = _cell(row, judge, inversions, rows, instruction)
        pictures[instruction.name] = made[:shown]
        numbers = cells[instruction.name].numbers
        told = ", ".join(f"{name} {numbers[name]:.3f}" for name in ("success", "style_zero_shot", "ids", "lpips", "cs") if name in numbers)
        say(f"{row.label}, {instruction.name}: {told} on {len(rows)} portraits")
    method = row.method
    trained = row.training_s if row.networks or method.editor in TEXT_OPTIMISERS else prepared_s
    found = Row(
        editor=method.editor, inverter=method.inverter, kind=row.kind, ablates=method.ablates, worse_on=method.worse_on, sweep=method.sweep,
        parameters=row.parameters, heads=row.heads, reworded=method.wordings is not None, training_s=trained,
        inversion_s=inversions.seconds_each, cells=cells,
    )  # fmt: skip
    return Measured(row=found.summed(), shown=pictures, columns=measured)


def _cell(
    row: Prepared, judge: Judge, inversions: Inversions, rows: Sequence[int], instruction: Instruction
) -> tuple[Cell, Tensor, dict[str, Tensor]]:
    parts, flips, made = list[dict[str, Tensor]](), list[tuple[str, ...]](), list[Tensor]()
    before, after, seconds = judge.empty(), judge.empty(), 0.0
    for first in range(0, len(rows), BATCH):
        inversion = inversions.rows(rows[first : first + BATCH])
        finish(inversion.made_BCHW.device)
        start = time.perf_counter()
        state = row.editor.edit(inversion, instruction)
        with torch.no_grad():
            edited = inversions.generator(state)
        finish(edited.device)
        seconds += time.perf_counter() - start
        columns, changed = judge.columns(inversion, edited, instruction, before=before, after=after)
        parts.append(columns)
        flips += changed
        made.append(edited.detach().cpu())
    numbers = {"seconds": seconds / len(rows)}
    measured = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
    for name, values in measured.items():
        numbers |= _mean(name, values)
    fid = distance(before, after)
    numbers |= {"fid": fid} if fid is not None else {}
    shares = {name: sum(name in one for one in flips) / len(rows) for name in judge.attributes.names if any(name in one for one in flips)}
    return Cell(group=group(instruction), portraits=len(rows), numbers=numbers, flips=shares), torch.cat(made), measured


def _mean(name: str, values: Tensor) -> Numbers:
    error = float(values.std() / len(values) ** 0.5) if len(values) > 1 else 0.0
    return {name: float(values.mean()), f"{name}_se": error}
