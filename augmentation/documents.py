"""What an augmentation leaves for people and tools beside its data: report, card and Croissant file."""

from __future__ import annotations

import json
from collections.abc import Mapping

from augmentation.report import write_report
from augmentation.rows import AUGMENTED, MORE
from pipeline.croissant import MEANINGS, Layout, write_croissant
from pipeline.dataset_card import CARD, card_template, size_category, title_of
from pipeline.report_figures import counted
from pipeline.storage import Storage

DIFFERENT = {
    "shard": "Shard of the input that the sample, or its source, is from; the manifest's own name is that of the tar in shards/.",
    "instruction": "Name of the edit; empty for originals and drawn pictures.",
    "status": "ok, rejected (by a gate) or quarantined.",
    "stage": "Stage at which a sample failed; gate for a rejected edit.",
    "reason": "Why a sample failed, or the gate that an edit did not pass.",
}
"""Columns that mean something else than in the output of edit_dataset."""


def about(record: Mapping[str, object]) -> str:
    """Return what the dataset of a run is, in a paragraph."""
    augmentation = record["augmentation"]
    assert isinstance(augmentation, dict)
    edits = ", ".join(str(edit["name"]) for edit in augmentation["recipe"]["edits"])
    made = f"edits of them ({edits}) that passed gates" if edits else "nothing edited"
    drawn = " and pictures that a generator drew" if augmentation["recipe"]["drawn"] else ""
    source = f"Pictures of `{record['input']}` with {made}{drawn}." if record["input"] else "Pictures that a generator drew."
    return f"{source} Whatever says `synthetic: true` in its JSON file and its metadata was made by a generator."


LAYOUT = Layout(
    schema=AUGMENTED,
    meanings={**MEANINGS, **DIFFERENT, **{name: meaning for name, (_, meaning) in MORE.items()}},
    shards="WebDataset shards: a picture, a caption and a JSON file of labels and provenance per sample.",
    rows="One row per original, tried edit and drawn picture; one per sample in quarantine.",
    about=about,
)


def write_documents(out_url: str) -> str:
    """Write report.html with sheet.png, README.md and croissant.json from what the run left in OUT; return the URL of the page."""
    storage = Storage(out_url)
    storage.write(CARD, card(json.loads(storage.read("run.json"))).encode())
    write_croissant(storage, LAYOUT)
    return write_report(storage)


def card(record: Mapping[str, object]) -> str:
    """Return the card of a run, by the conventions of Hugging Face."""
    counts, pack, augmentation = record["counts"], record["pack"], record["augmentation"]
    assert isinstance(counts, dict) and isinstance(pack, dict) and isinstance(augmentation, dict)
    samples = sum(int(counts.get(name, 0)) for name in ("originals", "accepted", "drawn"))
    return card_template("augmentation", "augmented_card.md.j2").render(
        record=record, counts={name: counts.get(name, 0) for name in ("originals", "accepted", "rejected", "drawn", "quarantined")},
        samples=samples, pack=pack, title=title_of(record), about=about(record), recipe=augmentation["recipe"],
        yields=augmentation["yields"], targets=augmentation["targets"], size_category=size_category(samples),
        licence=pack.get("licence") or "not recorded", counted=counted,
    )  # fmt: skip
