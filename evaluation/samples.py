"""What was measured on every single portrait: kept beside the figures, so that later runs can be compared portrait by portrait."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

FILE = "samples.parquet"
ABOUT = ("method", "group", "instruction", "key")
Values = NDArray[np.float64]


class SamplesError(ValueError):
    """A file is no table of samples."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Samples:
    """What a method did to the portraits of one instruction: `keys` name the N portraits, `columns` hold each measure of them, (N,)."""

    group: str
    keys: tuple[str, ...]
    columns: Mapping[str, Values]


SampleTable = dict[tuple[str, str], Samples]
"""Samples by method and instruction."""


def key_of(seed: int, made: int, number: int) -> str:
    """Name a portrait: number `number` of the `made` ones of a seed; with another count the same seed draws other people."""
    return f"{seed}-{made}-{number:06d}"


def write(table: SampleTable, path: Path) -> Path:
    """Write one row per method, instruction and portrait, one column per measure; what was not measured is null."""
    measures = sorted({name for samples in table.values() for name in samples.columns})
    rows: dict[str, list[object]] = {name: [] for name in (*ABOUT, *measures)}
    for (method, instruction), samples in table.items():
        count = len(samples.keys)
        for name, values in zip(ABOUT, ([method] * count, [samples.group] * count, [instruction] * count, samples.keys), strict=True):
            rows[name] += values
        for name in measures:
            rows[name] += samples.columns[name].tolist() if name in samples.columns else [None] * count
    types = {**dict.fromkeys(ABOUT, pa.string()), **dict.fromkeys(measures, pa.float64())}
    pq.write_table(pa.table(rows, schema=pa.schema(list(types.items()))), path, compression="zstd")
    return path


def read(path: Path) -> SampleTable:
    """Return what `write` wrote. Raises SamplesError."""
    try:
        table = pq.read_table(path)
    except (OSError, pa.ArrowInvalid) as error:
        raise SamplesError(f"{path}: expected a table of samples in parquet: {' '.join(str(error).split())}") from None
    missing = [name for name in ABOUT if name not in table.column_names]
    if missing:
        raise SamplesError(f"{path}: expected the columns {', '.join(ABOUT)}, found {', '.join(table.column_names)}")
    return dict(_cells(table))


def _cells(table: pa.Table) -> Iterator[tuple[tuple[str, str], Samples]]:
    """Yield the samples of each method and instruction, in the order of their first row."""
    frame = table.to_pandas()
    measures = [name for name in table.column_names if name not in ABOUT]
    for (method, instruction), part in frame.groupby(["method", "instruction"], sort=False):
        columns = {name: part[name].to_numpy(np.float64) for name in measures if not part[name].isna().any()}
        yield (str(method), str(instruction)), Samples(group=str(part["group"].iloc[0]), keys=tuple(part["key"]), columns=columns)
