"""The inverter and the editor of a run on a backend: what their networks compute goes through its graphs, the rest stays as it is.

Shape legend: B batch, L latent slots, D style width.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass

import torch
from torch import Tensor

from models.editors import Editor, HyperEditorEditor
from models.instruction import Instruction
from models.inversion import Inversion
from models.inverters import EncoderInverter, Inverter, pooled
from models.state import GeneratorState
from models.stylegan2 import Generator
from pipeline.backends import EAGER, choose
from pipeline.config import Backend
from trt_engines.graphs import Graph, Runner, encoder_graph, generator_graph, hypernetwork_graph


@dataclass(frozen=True, kw_only=True)
class Covered:
    """Which networks of a run are graphs, and in `eager` what stays outside and why."""

    graphs: tuple[Graph, ...]
    eager: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Backed:
    """Inverter and editor as a run uses them.

    `backend` is what the manifest says, `used` the name that `--backend` has for it, `notes` are what a user should hear.
    """

    inverter: Inverter
    editor: Editor | None
    backend: str
    used: Backend = EAGER
    notes: tuple[str, ...] = ()


class BackedInverter:
    """Invert as an `EncoderInverter` does, its encoder on a backend."""

    def __init__(self, plain: EncoderInverter, encoder: Runner) -> None:
        self.name = plain.name
        self._plain, self._encoder = plain, encoder

    @torch.no_grad()
    def invert(self, images_BCHW: Tensor) -> GeneratorState:
        """Return latents only."""
        (residual_BLD,) = self._encoder(pooled(images_BCHW, self._plain.encoder.input_size))
        return GeneratorState(latents_BLD=residual_BLD + self._plain.latent_avg.to(residual_BLD))


class BackedEditor:
    """Edit as `HyperEditorEditor` does, and draw the edited picture, hypernetwork and generator on a backend."""

    def __init__(self, plain: HyperEditorEditor, *, hypernetwork: Runner, generator: Runner) -> None:
        self.name = plain.name
        self._plain, self._hypernetwork, self._generator = plain, hypernetwork, generator

    def edit(self, inversion: Inversion, instruction: Instruction) -> GeneratorState:
        """Return the edited state as eager makes it."""
        return self._plain.edit(inversion, instruction)

    @torch.no_grad()
    def draw(self, inversion: Inversion, instruction: Instruction) -> Tensor:
        """Return the picture (B, 3, H, W) of the edited state, without making the state."""
        assert not inversion.state.offsets, "the editing generator knows no offsets but those of its hypernetwork"
        image = pooled(inversion.made_BCHW, self._plain.hypernetwork.input_size)
        direction = self._plain.direction(instruction.source, instruction.target).to(image).expand(len(image), -1)
        outs, ins = self._hypernetwork(image, direction)
        latents = inversion.state.latents_BLD
        strength = torch.full((len(image), 1), instruction.strength, dtype=latents.dtype, device=latents.device)
        (picture_BCHW,) = self._generator(latents, strength, outs, ins)
        return picture_BCHW


def covered(inverter: Inverter, editor: Editor | None, generator: Generator) -> Covered:
    """Return the graphs of a run: those of an encoder as inverter, and of a HyperEditor after one."""
    graphs: list[Graph] = []
    eager: list[str] = []
    if not isinstance(inverter, EncoderInverter):
        eager.append(f"inverter {inverter.name}: only encoders are graphs")
    else:
        graphs.append(encoder_graph(inverter.encoder))
    if editor is None:
        return Covered(graphs=tuple(graphs), eager=tuple(eager))
    if not isinstance(editor, HyperEditorEditor):
        eager.append(f"editor {editor.name}: only a HyperEditor and its generator are graphs")
    elif not graphs:
        eager.append(f"editor {editor.name}: its graphs start from an encoder's inversion, which has no weight offsets")
    else:
        try:
            graphs += [hypernetwork_graph(editor.hypernetwork), generator_graph(generator, editor.hypernetwork)]
        except ValueError as error:
            eager.append(f"editor {editor.name}: {error}")
    return Covered(graphs=tuple(graphs), eager=tuple(eager))


def on_backend(inverter: Inverter, editor: Editor | None, generator: Generator, *, wanted: Backend, device: str, batch_size: int) -> Backed:
    """Return what a run uses under `--backend wanted`, and say once what stays eager. Raises BackendError with the reason."""
    if wanted == EAGER:
        return Backed(inverter=inverter, editor=editor, backend=f"torch-{device}")
    found = covered(inverter, editor, generator)
    choice = choose(wanted, found.graphs, device=device, batch_size=batch_size)
    notes = (*choice.notes, *(f"--backend {wanted}: stays eager: {reason}" for reason in found.eager))
    for note in notes:
        print(f"WARNING: {note}", file=sys.stderr, flush=True)
    if choice.name == EAGER:
        return Backed(inverter=inverter, editor=editor, backend=f"torch-{device}", used=EAGER, notes=notes)
    assert isinstance(inverter, EncoderInverter)
    if "generator" in choice.runners:
        assert isinstance(editor, HyperEditorEditor)
        editor = BackedEditor(editor, hypernetwork=choice.runners["hypernetwork"], generator=choice.runners["generator"])
    whole = f"{choice.name}-{device}"
    return Backed(
        inverter=BackedInverter(inverter, choice.runners["encoder"]),
        editor=editor,
        backend=f"{whole} ({', '.join(choice.runners)}), torch-{device}" if found.eager else whole,
        used=choice.name,
        notes=notes,
    )
