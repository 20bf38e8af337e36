"""The card of an output (README.md, by the conventions of Hugging Face): what is in it, how it was made, what it is not good for."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

import jinja2

from pipeline.storage import Storage

CARD = "README.md"
SIZES = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"), (10_000_000, "1M<n<10M"))
LARGEST = "n>10M"
NOT_MEASURED = ""


def write_card(storage: Storage) -> None:
    """Write OUT/README.md from OUT/run.json."""
    storage.write(CARD, card(json.loads(storage.read("run.json"))).encode())


def card(record: Mapping[str, object]) -> str:
    """Return the card of a run."""
    counts, scores = record["counts"], record["scores"]
    assert isinstance(counts, dict) and isinstance(scores, dict)
    instructions = record["instructions"]
    assert isinstance(instructions, list)
    return card_template("pipeline", "dataset_card.md.j2").render(
        record=record, counts=counts, pack=record["pack"], title=title_of(record), about=about(record), rows=_rows(instructions, scores),
        size_category=size_category(int(counts["samples"])), licence=_licence(record),
    )  # fmt: skip


def size_category(samples: int) -> str:
    """Return the bin of Hugging Face for a number of samples."""
    return next((name for limit, name in SIZES if samples < limit), LARGEST)


def title_of(record: Mapping[str, object]) -> str:
    """Return what the dataset of a run is called: its folder."""
    return str(record["output"]).rstrip("/").split("/")[-1]


def about(record: Mapping[str, object]) -> str:
    """Return what the dataset of a run is, in a paragraph."""
    instructions = record["instructions"]
    assert isinstance(instructions, list)
    names = ", ".join(str(one["name"]) for one in instructions)
    made = f"aligned, inverted and edited by {len(instructions)} instructions: {names}." if instructions else (
        "aligned and inverted: each as the generator of a pack makes it again."
    )  # fmt: skip
    synthetic = "Every picture in it but the `aligned.png` of each sample was made by a generator: treat it as synthetic."
    return f"Pictures of `{record['input']}`, {made} {synthetic}"


def _rows(instructions: Sequence[Mapping[str, object]], scores: Mapping[str, Mapping[str, float]]) -> list[dict[str, str]]:
    rows = []
    for one in instructions:
        means = scores.get(str(one["name"]), {})
        rows.append({
            "name": str(one["name"]), "source": _cell(str(one["source"])), "target": _cell(str(one["target"])),
            "strength": f"{float(str(one.get('strength', 1.0))):g}",
            "success": _percent(means.get("success_rate")), "same_person": _percent(means.get("same_person_rate")),
            "lpips": f"{means['lpips']:.3f}" if "lpips" in means else NOT_MEASURED,
        })  # fmt: skip
    return rows


def _cell(text: str) -> str:
    """Return a text that cannot end the cell of a table that it stands in."""
    return " ".join(text.split()).replace("|", "\\|")


def _percent(share: float | None) -> str:
    return NOT_MEASURED if share is None else f"{100 * share:.1f} %"


def _licence(record: Mapping[str, object]) -> str:
    pack = record["pack"]
    assert isinstance(pack, dict)
    return str(pack.get("licence") or "not recorded")


def card_template(package: str, name: str) -> jinja2.Template:
    """Return the template of a card in a package's folder `templates`."""
    loader = jinja2.PackageLoader(package, "templates")
    environment = jinja2.Environment(loader=loader, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    return environment.get_template(name)
