"""Half precision in a run: the generator's convolutions by `Generator.halved`, encoders and hypernetworks under autocast.

Latents and weight offsets stay float32 between them; what optimises or takes gradients runs in float32 only. Graphs of other backends
round for themselves (`trt_engines/half.py`).
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from models.editors import Editor
from models.instruction import Instruction
from models.inversion import Inversion
from models.inverters import Inverter
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


def kind_of(precision: str) -> torch.dtype | None:
    """Return the half precision of that name; None for float32. Raises KeyError for what is neither."""
    return None if precision == FLOAT32 else HALVES[precision]


def half_inverter(inverter: Inverter, kind: torch.dtype | None, *, device: str) -> Inverter:
    """Return an inverter whose networks compute in `kind`, None for as it is."""
    return inverter if kind is None else HalfInverter(inverter, device=device, kind=kind)


def half_editor(editor: Editor | None, kind: torch.dtype | None, *, device: str) -> Editor | None:
    """Return an editor whose networks compute in `kind`, None for as it is."""
    return editor if kind is None or editor is None else HalfEditor(editor, device=device, kind=kind)


def full(state: GeneratorState) -> GeneratorState:
    """Return a state in float32."""
    return replace(state, latents_BLD=state.latents_BLD.float(), offsets={index: _full(offset) for index, offset in state.offsets.items()})


def _full(offset: AnyOffset) -> AnyOffset:
    if not isinstance(offset, FactorisedOffset):
        return offset.float()
    return FactorisedOffset(out_BO=offset.out_BO.float(), in_BI=offset.in_BI.float(), shared_OI=offset.shared_OI.float())
