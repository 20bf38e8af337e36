"""Half precision in a run: the generator's convolutions by `Generator.halved`, encoders and hypernetworks under autocast.

Latents and weight offsets stay float32 between them; what optimises or takes gradients runs in float32 only.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from models.editors import Editor
from models.instruction import Instruction
from models.inversion import Inversion
from models.inverters import Inverter
from models.pack import Pack
from models.state import AnyOffset, FactorisedOffset, GeneratorState
from pipeline.precision_names import FLOAT32, Precision
from trt_engines.graphs import BackendError

HALVES = {"bfloat16": torch.bfloat16, "float16": torch.float16}


def best(device: str) -> Precision:
    """Return the precision that a device multiplies matrices fastest in: bfloat16, else float16 on GPUs from Volta on, else float32."""
    if device == "cpu":
        return "bfloat16" if torch.cpu._is_amx_tile_supported() else FLOAT32
    if torch.cuda.is_bf16_supported(including_emulation=False):
        return "bfloat16"
    return "float16" if torch.cuda.get_device_capability() >= (7, 0) else FLOAT32


def check(precision: str, *, device: str) -> None:
    """Raise BackendError where a GPU cannot compute in a precision that was asked for."""
    if precision == "bfloat16" and device != "cpu" and not torch.cuda.is_bf16_supported(including_emulation=False):
        raise BackendError(f"--precision bfloat16: {torch.cuda.get_device_name()} does not compute in it; take float16, float32 or auto")


class HalfInverter:
    """Invert with the networks of an inverter in half precision."""

    def __init__(self, plain: Inverter, *, device: str, kind: torch.dtype) -> None:
        self.name = plain.name
        self._plain, self._device, self._kind = plain, device, kind

    def invert(self, images_BCHW: Tensor) -> GeneratorState:
        """Return the state in float32."""
        with torch.autocast(self._device, self._kind):
            return full(self._plain.invert(images_BCHW))


class HalfEditor:
    """Edit with the networks of an editor in half precision."""

    def __init__(self, plain: Editor, *, device: str, kind: torch.dtype) -> None:
        self.name = plain.name
        self._plain, self._device, self._kind = plain, device, kind

    def edit(self, inversion: Inversion, instruction: Instruction) -> GeneratorState:
        """Return the state in float32."""
        with torch.autocast(self._device, self._kind):
            return full(self._plain.edit(inversion, instruction))


def in_precision(pack: Pack, inverter: Inverter, editor: Editor | None, *, precision: str, device: str) -> tuple[Inverter, Editor | None]:
    """Return both in a precision, and put the pack's generator into it, which it stays in."""
    if precision == FLOAT32:
        return inverter, editor
    kind = HALVES[precision]
    pack.generator().halved(kind)
    half = HalfEditor(editor, device=device, kind=kind) if editor is not None else None
    return HalfInverter(inverter, device=device, kind=kind), half


def full(state: GeneratorState) -> GeneratorState:
    """Return a state in float32."""
    return replace(state, latents_BLD=state.latents_BLD.float(), offsets={index: _full(offset) for index, offset in state.offsets.items()})


def _full(offset: AnyOffset) -> AnyOffset:
    if not isinstance(offset, FactorisedOffset):
        return offset.float()
    return FactorisedOffset(out_BO=offset.out_BO.float(), in_BI=offset.in_BI.float(), shared_OI=offset.shared_OI.float())
