"""What `--precision` may say, and which methods have to run in full precision. Imports no torch."""

from __future__ import annotations

from typing import Literal

from models.editor_names import TEXT_OPTIMISERS
from models.inverter_names import OPTIMISERS
from pipeline.backend_names import AUTO, per_graph

Arithmetic = Literal["float32", "bfloat16", "float16"]
Precision = Literal["auto", Arithmetic]
FLOAT32: Arithmetic = "float32"
GRADIENT_EDITORS = (*TEXT_OPTIMISERS, "stylemc")
"""Editors that take gradients through the generator."""


def needs_float32(*, backend: str, inverter: str, editor: str | None) -> str | None:
    """Return why a run has to be in float32, if so."""
    if backend != AUTO and "onnxruntime" in per_graph(backend).values():
        return "onnxruntime computes in float32 on CPUs; leave it out of --backend, or leave --precision out"
    for option, name, known in (("inverter", inverter, OPTIMISERS), ("editor", editor, GRADIENT_EDITORS)):
        if name in known:
            return f"--{option} {name} takes gradients through the generator; leave --precision out"
    return None
