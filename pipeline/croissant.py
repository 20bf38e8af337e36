"""The Croissant file of an output: what files there are and what the columns of the manifests mean, for tools that read datasets."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime

import mlcroissant as mlc
import pyarrow as pa

from pipeline.dataset_card import CARD, about, title_of
from pipeline.manifest import SCHEMA
from pipeline.storage import Storage

CROISSANT = "croissant.json"
SHARDS, MANIFESTS, EDITS = "shards", "manifests", "edits"
VERSION = "1.0.0"
MEANINGS: Mapping[str, str] = {
    "key": "Name of the sample; its members in the shard begin with it.",
    "shard": "Shard that holds the sample: shards/NAME.tar.",
    "index": "Place of the sample in the input shard, from 0.",
    "instruction": "Name of the instruction; the picture is KEY.<instruction>.png. Empty for a sample in quarantine.",
    "source": "What the instruction says that the picture shows.",
    "target": "What the instruction asks for.",
    "strength": "How strongly: 1 is the whole edit, 0 nothing.",
    "status": "ok or quarantined.",
    "stage": "Stage at which a sample failed.",
    "reason": "Why a sample failed.",
    "image_sha256": "SHA-256 of the edited picture's PNG file.",
    "psnr": "PSNR in dB, aligned picture to edit.",
    "ssim": "SSIM, aligned picture to edit.",
    "lpips": "LPIPS, aligned picture to edit.",
    "psnr_inversion": "PSNR in dB, inversion to edit.",
    "lpips_inversion": "LPIPS, inversion to edit.",
    "identity": "Cosine of the identity network's embeddings, aligned picture to edit.",
    "same_person": "Whether that cosine is above the network's threshold.",
    "clip_score": "Cosine of CLIP's embeddings of the edit and of the target's text.",
    "clip_directional": "Cosine of the change in picture and in text, from the aligned picture.",
    "clip_directional_inversion": "The same from the inversion.",
    "success": "Whether the attribute classifier sees what was asked for.",
    "collateral": "How many attributes changed that were not asked for.",
    "flips": "Which.",
    "attributes_reliable": "Whether the classifier is reliable on what the instruction asks for.",
    "inverter": "Inverter.",
    "editor": "Editor.",
    "backend": "What ran the networks.",
}
"""Column of the manifests -> what it holds."""


@dataclass(frozen=True, kw_only=True)
class Layout:
    """What a kind of output holds: the columns of its manifests, and what shards, rows and the whole are."""

    schema: pa.Schema
    meanings: Mapping[str, str]
    shards: str
    rows: str
    about: Callable[[Mapping[str, object]], str]
    """Describes the output of a run in a paragraph, from its run.json."""


EDITED = Layout(
    schema=SCHEMA,
    meanings=MEANINGS,
    shards="WebDataset shards: pictures, edits.json and members of the input.",
    rows="One row per sample and instruction; one per sample in quarantine.",
    about=about,
)
"""The output of edit_dataset."""


def write_croissant(storage: Storage, layout: Layout) -> None:
    """Write OUT/croissant.json from OUT/run.json. Raises mlcroissant.ValidationError where the library finds it wrong."""
    storage.write(CROISSANT, croissant(json.loads(storage.read("run.json")), layout).encode())


def croissant(record: Mapping[str, object], layout: Layout) -> str:
    """Return the file of a run, checked by the library of the format."""
    title = title_of(record)
    metadata = mlc.Metadata(
        name=title, description=layout.about(record), version=VERSION, license="that of the input", url=str(record["output"]),
        date_published=datetime.strptime(str(record["ended"]), "%Y-%m-%d %H:%M:%S %Z"), cite_as=f"{title}, made by hyperedit; see {CARD}",
        distribution=[
            mlc.FileSet(id=SHARDS, name=SHARDS, description=layout.shards,
                        encoding_formats=["application/x-tar"], includes=["shards/*.tar"]),
            mlc.FileSet(id=MANIFESTS, name=MANIFESTS, description="Scores and status.",
                        encoding_formats=["application/x-parquet"], includes=["manifests/*.parquet"]),
        ],
        record_sets=[
            mlc.RecordSet(id=EDITS, name=EDITS, description=layout.rows, fields=[_field(column, layout) for column in layout.schema])
        ],
    )  # fmt: skip
    return json.dumps(metadata.to_json(), ensure_ascii=False, indent=1, default=str) + "\n"


def _field(column: pa.Field, layout: Layout) -> mlc.Field:
    source = mlc.Source(file_set=MANIFESTS, extract=mlc.Extract(column=column.name))
    repeated = pa.types.is_list(column.type)
    kind = column.type.value_type if repeated else column.type
    return mlc.Field(
        id=f"{EDITS}/{column.name}", name=column.name, description=layout.meanings[column.name], data_types=[_data_type(kind)],
        source=source, **({"repeated": True} if repeated else {}),
    )  # fmt: skip


def _data_type(kind: pa.DataType) -> mlc.DataType:
    if pa.types.is_boolean(kind):
        return mlc.DataType.BOOL
    if pa.types.is_integer(kind):
        return mlc.DataType.INTEGER
    return mlc.DataType.FLOAT if pa.types.is_floating(kind) else mlc.DataType.TEXT
