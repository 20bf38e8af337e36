"""The inverter and the editor of a run on a backend: what their networks compute goes through its graphs, the rest stays as it is.

Shape legend: B batch, L latent slots, D style width, O/I output/input channels.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from models.editors import Editor, HyperEditorEditor
from models.instruction import Instruction
from models.inversion import Inversion
from models.inverters import EncoderInverter, Inverter, pooled
from models.state import GeneratorState
from models.stylegan2 import Generator
from pipeline.backend_names import EAGER
from pipeline.backends import choose
from pipeline.precision import half_editor, half_inverter
from trt_engines.editing_generator import offsets_of, shared_offsets
from trt_engines.graphs import Graph, Runner, Tensors, encoder_graph, generator_graph, heads_graph, trunk_graph


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
    used: str = EAGER
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
    """Edit as `HyperEditorEditor` does, the hypernetwork's trunk and heads on a backend or, where they have no runner, eager."""

    def __init__(self, plain: HyperEditorEditor, graphs: Mapping[str, Graph], runners: Mapping[str, Runner]) -> None:
        self.name = plain.name
        self._plain = plain
        self._trunk, self._heads = (runners.get(name, graphs[name].plain) for name in ("trunk", "heads"))
        self._shared = shared_offsets(plain.hypernetwork)

    @torch.no_grad()
    def edit(self, inversion: Inversion, instruction: Instruction) -> GeneratorState:
        """Return the state with the edit's offsets."""
        offsets = offsets_of(self._shared, *self._vectors(inversion, instruction))
        edit = GeneratorState(latents_BLD=inversion.state.latents_BLD, offsets=offsets).scaled(instruction.strength)
        return inversion.state.composed(edit)

    def _vectors(self, inversion: Inversion, instruction: Instruction) -> Tensors:
        """Return the vectors of all layers' offsets side by side, (B, sum O) and (B, sum I)."""
        (seen,) = inversion.once(self, lambda: self._trunk(pooled(inversion.made_BCHW, self._plain.hypernetwork.input_size)))
        direction = self._plain.direction(instruction.source, instruction.target).to(seen).expand(len(seen), -1)
        return self._heads(seen, direction)


class DrawingEditor(BackedEditor):
    """The same, and draw the edited picture on a backend too."""

    def __init__(self, plain: HyperEditorEditor, graphs: Mapping[str, Graph], runners: Mapping[str, Runner]) -> None:
        super().__init__(plain, graphs, runners)
        self._generator = runners["generator"]

    @torch.no_grad()
    def draw(self, inversion: Inversion, instruction: Instruction) -> Tensor:
        """Return the picture (B, 3, H, W) of the edited state, without making the state."""
        assert not inversion.state.offsets, "the editing generator knows no offsets but those of its hypernetwork"
        outs, ins = self._vectors(inversion, instruction)
        latents = inversion.state.latents_BLD
        strength = torch.full((len(latents), 1), instruction.strength, dtype=latents.dtype, device=latents.device)
        (picture_BCHW,) = self._generator(latents, strength, outs, ins)
        return picture_BCHW


def covered(inverter: Inverter, editor: Editor | None, generator: Generator) -> Covered:
    """Return the graphs of a run: those of an encoder as inverter, of a HyperEditor, and of the generator after both.

    All are in the precision that the generator runs in.
    """
    graphs: list[Graph] = []
    kind = generator.kind
    eager: list[str] = []
    encodes = isinstance(inverter, EncoderInverter)
    if isinstance(inverter, EncoderInverter):
        graphs.append(encoder_graph(inverter.encoder, kind))
    else:
        eager.append(f"inverter {inverter.name}: only encoders are graphs")
    if editor is None:
        return Covered(graphs=tuple(graphs), eager=tuple(eager))
    if not isinstance(editor, HyperEditorEditor):
        eager.append(f"editor {editor.name}: only a HyperEditor and its generator are graphs")
        return Covered(graphs=tuple(graphs), eager=tuple(eager))
    try:
        drawn = generator_graph(generator, editor.hypernetwork, kind)
    except ValueError as error:
        eager.append(f"editor {editor.name}: {error}")
        return Covered(graphs=tuple(graphs), eager=tuple(eager))
    graphs += [trunk_graph(editor.hypernetwork, kind), heads_graph(editor.hypernetwork, kind)]
    if encodes:
        graphs.append(drawn)
    else:
        eager.append("generator: its graph starts from an encoder's inversion, which has no weight offsets")
    return Covered(graphs=tuple(graphs), eager=tuple(eager))


def on_backend(inverter: Inverter, editor: Editor | None, generator: Generator, *, wanted: str, device: str, batch_size: int) -> Backed:
    """Return what a run uses under `--backend wanted`, and say once what stays eager. Raises BackendError with the reason.

    The generator says the precision: where it was halved, the networks of inverter and editor compute in half precision too.
    """
    kind = generator.kind
    half = half_inverter(inverter, kind, device=device), half_editor(editor, kind, device=device)
    if wanted == EAGER:
        return Backed(inverter=half[0], editor=half[1], backend=f"torch-{device}")
    found = covered(inverter, editor, generator)
    choice = choose(wanted, found.graphs, device=device, batch_size=batch_size)
    notes = (*choice.notes, *(f"--backend {wanted}: stays eager: {reason}" for reason in found.eager))
    for note in notes:
        print(f"WARNING: {note}", file=sys.stderr, flush=True)
    graphs: dict[str, Graph] = {graph.name: graph for graph in found.graphs}
    runners = choice.runners
    inverting, editing = half
    if "encoder" in runners:
        assert isinstance(inverter, EncoderInverter)
        inverting = BackedInverter(inverter, runners["encoder"])
    if isinstance(editor, HyperEditorEditor) and runners.keys() & {"trunk", "heads", "generator"}:
        editing = (DrawingEditor if "generator" in runners else BackedEditor)(editor, graphs, runners)
    return Backed(
        inverter=inverting, editor=editing, backend=_name(choice.name, runners, found, device=device), used=choice.name, notes=notes
    )


def _name(used: str, runners: Mapping[str, Runner], found: Covered, *, device: str) -> str:
    """Return the backend as the manifest says it: with the graphs it ran where something of the run stayed eager."""
    if not runners:
        return f"torch-{device}"
    if "=" in used:
        return f"{used} on {device}, torch-{device}"
    return f"{used}-{device} ({', '.join(runners)}), torch-{device}" if found.eager else f"{used}-{device}"
