"""Rows that a stopped run of the editing suite measured, kept beside its page so that the same command goes on where it stopped."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import safetensors
from safetensors.torch import save
from torch import Tensor

from evaluation.editing_plan import Plan, Prepared
from evaluation.editing_suite import Cell, Measured, Row
from models.pack import Pack
from models.pack_format import write_atomically

FOLDER = ".measured-rows"
ENDING = ".safetensors"
CODE = ("evaluation", "models", "pipeline", "portraits", "training")
LIBRARIES = ("torch", "torchmetrics", "open_clip_torch", "lpips")
"""What decides what is measured: after a change of theirs every row is measured anew."""
SHOWN, COLUMNS = "shown", "measured"


@dataclass(frozen=True, kw_only=True)
class KeptRows:
    """The rows in a folder whose figures were made from `inputs`: packs, portraits, instructions and code; others are not seen."""

    folder: Path
    inputs: str

    @classmethod
    def of(cls, output: Path, *, pack: Pack, plan: Plan, judge: Pack | None, features: Mapping[str, str]) -> KeptRows:
        """Return the rows that a run with this output folder may have left; `features` say what LPIPS and the like rest on."""
        asked = replace(plan, methods={}, transfer={}, fid=(), interpolated=(), reasons={})
        inputs = {
            "pack": pack.sha256, "judge": judge.sha256 if judge is not None else None, "plan": asdict(asked), "code": _code(),
            "features": dict(features), "libraries": {name: importlib.metadata.version(name) for name in LIBRARIES},
        }  # fmt: skip
        return cls(folder=output / FOLDER, inputs=json.dumps(inputs, sort_keys=True))

    def load(self, row: Prepared) -> Measured | None:
        """Return a row as it was measured, or None where it was not."""
        path = self._path(row)
        try:
            with safetensors.safe_open(path, framework="pt") as file:
                about, tensors = json.loads(file.metadata()["row"]), {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        except (OSError, safetensors.SafetensorError):
            return None
        return _measured(about, tensors)

    def save(self, row: Prepared, measured: Measured) -> None:
        """Keep a row."""
        tensors = {f"{SHOWN}/{name}": tensor.contiguous() for name, tensor in measured.shown.items()}
        for name, columns in measured.columns.items():
            tensors |= {f"{COLUMNS}/{name}/{column}": values.contiguous() for column, values in columns.items()}
        self.folder.mkdir(parents=True, exist_ok=True)
        write_atomically(self._path(row), save(tensors, {"row": json.dumps(asdict(measured.row))}))

    def _path(self, row: Prepared) -> Path:
        """Return the file of a row, named by everything that decides its figures; its label is none of it."""
        instructions = [asdict(one) for one in row.instructions]
        key = json.dumps([self.inputs, asdict(row.method), instructions, row.pictures, row.packs], sort_keys=True)
        return self.folder / f"{hashlib.sha256(key.encode()).hexdigest()[:32]}{ENDING}"


def forget(output: Path) -> None:
    """Remove the rows of an output folder: its run has ended and is recorded, and another one measures for itself."""
    folder = output / FOLDER
    if folder.is_dir():
        for path in folder.glob(f"*{ENDING}*"):
            path.unlink(missing_ok=True)
        if not any(folder.iterdir()):
            folder.rmdir()


def _measured(about: Mapping[str, object], tensors: Mapping[str, Tensor]) -> Measured:
    cells = about["cells"]
    assert isinstance(cells, Mapping)
    row = Row(**{**about, "cells": {name: Cell(**cell) for name, cell in cells.items()}})  # type: ignore[arg-type]
    shown, columns = dict[str, Tensor](), dict[str, dict[str, Tensor]]()
    for key, tensor in tensors.items():
        kind, _, name = key.partition("/")
        if kind == SHOWN:
            shown[name] = tensor
        else:
            instruction, _, column = name.rpartition("/")
            columns.setdefault(instruction, {})[column] = tensor
    return Measured(row=row, shown={name: shown[name] for name in row.cells}, columns={name: columns[name] for name in row.cells})


def _code() -> str:
    """Return the hash of the code that measures."""
    root, found = Path(__file__).parents[1], hashlib.sha256()
    for path in sorted(path for package in CODE for path in (root / package).rglob("*.py")):
        found.update(path.relative_to(root).as_posix().encode() + b"\0" + path.read_bytes() + b"\0")
    return found.hexdigest()
