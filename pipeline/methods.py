"""The networks that a worker holds: built for a device, a backend and a precision, with the batch size that fits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import nn

from models.editors import Editor
from models.instruction import Instruction
from models.inverters import Inverter
from models.pack import Pack
from models.stylegan2 import Generator
from pipeline.backed import on_backend
from pipeline.backend_names import AUTO, EAGER
from pipeline.batch_probe import fitting_batch
from pipeline.edit import edit
from pipeline.invert import invert
from pipeline.manifest import Method
from pipeline.precision import best, check, kind_of
from pipeline.precision_names import FLOAT32, Precision, needs_float32
from pipeline.score import Scorer
from pipeline.settings import Running

PLAIN = Running()


@dataclass(frozen=True, kw_only=True)
class Methods:
    """What edits and judges pictures."""

    pack: Pack
    inverter: Inverter
    editor: Editor | None
    """None where there is nothing to edit."""
    scorer: Scorer
    names: Method
    device: str
    running: Running
    """What `--backend`, `--precision` and `--batch_size` came to."""
    backend_notes: tuple[str, ...] = ()
    """Why the backend does not run all, or is not a better one."""


def load_methods(
    pack: Pack, *, inverter: str, editor: str | None, device: str, inverter_settings: Mapping[str, object] | None = None,
    editor_settings: Mapping[str, object] | None = None, allow_lpips_download: bool = False, running: Running = PLAIN,
    instructions: Sequence[Instruction] = (), part: float = 1.0,
) -> Methods:  # fmt: skip
    """Build the networks that the configuration names; without an editor where nothing is edited.

    Where `running` says auto, find out: `instructions` and `part`, the worker's share of the device, are for that. Raises PackError,
    BackendError.
    """
    scorer = Scorer(pack, device=device, allow_lpips_download=allow_lpips_download)  # first: it may fetch what others then use
    precision = _precision(running, inverter=inverter, editor=editor, device=device)
    inverting, editing = pack.inverter(inverter, inverter_settings), pack.editor(editor, editor_settings) if editor is not None else None
    for method in (inverting, editing):
        lay_out(method)
    pack.generator().halved(kind_of(precision))
    batch_size = running.batch_size
    if batch_size == AUTO:
        eager = on_backend(inverting, editing, pack.generator(), wanted=EAGER, device=device, batch_size=1)
        batch_size = _fitting(pack, eager.inverter, eager.editor, scorer, instructions=instructions, device=device, part=part)
    run = on_backend(inverting, editing, pack.generator(), wanted=running.backend, device=device, batch_size=int(batch_size))
    names = Method(inverter=inverter, editor=editor or "", backend=run.backend if precision == FLOAT32 else f"{run.backend} {precision}")
    return Methods(
        pack=pack, inverter=run.inverter, editor=run.editor, scorer=scorer, names=names, device=device,
        running=replace(running, backend=run.used, precision=precision, batch_size=int(batch_size)), backend_notes=run.notes,
    )  # fmt: skip


def lay_out(method: object) -> None:
    """Put the convolutions of a method's own networks into the layout that GPUs multiply fastest; the generator chooses for itself."""
    for value in vars(method).values() if hasattr(method, "__dict__") else ():
        if hasattr(value, "invert"):
            lay_out(value)
        elif isinstance(value, nn.Module) and not isinstance(value, Generator):
            for module in value.modules():
                if isinstance(module, nn.Conv2d):
                    module.to(memory_format=torch.channels_last)


def _precision(running: Running, *, inverter: str, editor: str | None, device: str) -> Precision:
    if running.precision != AUTO:
        check(running.precision, device=device)
        return running.precision
    return FLOAT32 if needs_float32(backend=running.backend, inverter=inverter, editor=editor) else best(device)


def _fitting(
    pack: Pack, inverter: Inverter, editor: Editor | None, scorer: Scorer, *, instructions: Sequence[Instruction], device: str, part: float
) -> int:
    """Return how many pictures go through inversion, one edit and scoring at a time."""

    @torch.no_grad()
    def run(batch: int) -> None:
        aligned_BCHW = torch.rand(batch, 3, pack.size, pack.size, device=device) * 2 - 1
        inversion = invert(inverter, pack.generator(), aligned_BCHW)
        source = scorer.source(aligned_BCHW, inversion.made_BCHW)
        for instruction in instructions[:1]:
            assert editor is not None
            scorer.edit(source, edit(editor, pack.generator(), inversion, instruction=instruction).clamp(-1, 1), instruction)

    return fitting_batch(run, device=device, part=part)
