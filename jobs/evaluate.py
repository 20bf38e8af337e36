"""Measure a pack on held-out data and print the figures as JSON.

    python jobs/evaluate.py --suite pack --pack packs/portraits64

`pack`: landmarks, attribute classifier, inversion and editing on raw portraits of people that no network was trained on. The last thing
printed is the JSON; `--output FILE` also writes it.
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path

import jsonargparse
import torch

from evaluation import pack_suite
from models.instruction import InstructionError, load_instructions
from models.pack import Pack, PackError
from pipeline.config import ConfigError
from pipeline.registry import resolve_pack

SUITES = (pack_suite.NAME,)


@dataclass(frozen=True, kw_only=True)
class Options:
    """What to measure.

    Args:
        suite: One of: pack.
        pack: Folder or URL of the pack, or models:/NAME@ALIAS or models:/NAME/VERSION in MLflow's model registry.
        tracking_uri: MLflow server or database with that registry; by default MLFLOW_TRACKING_URI.
        instructions: YAML file of the instructions to measure.
        pictures: Held-out portraits for landmarks, attributes and inversion.
        edits: Held-out portraits per instruction.
        inverter: Inverter to measure.
        editor: Editor to measure.
        threads: Threads of torch.
        output: File for the JSON as well.
    """

    suite: str = "pack"
    pack: str = "packs/portraits64"
    tracking_uri: str | None = None
    instructions: str = "configs/instructions/portraits.yaml"
    pictures: int = 1000
    edits: int = 200
    inverter: str = "e4e"
    editor: str = "hypereditor"
    threads: int = 1
    output: Path | None = None


def say(text: str) -> None:
    """Report progress."""
    print(text, file=sys.stderr, flush=True)


def evaluate(options: Options) -> dict[str, object]:
    """Run the suite; return its figures."""
    pack, instructions = Pack.load(resolve_pack(options.pack, uri=options.tracking_uri)), load_instructions(options.instructions)
    figures = pack_suite.measure(
        pack, instructions, editor=options.editor, inverter=options.inverter, pictures=options.pictures, edits=options.edits, say=say
    )  # fmt: skip
    return {"suite": options.suite, "pack": pack.sha256, **figures}


def main() -> int:
    """Run the job; return its exit code."""
    options = jsonargparse.auto_cli(Options, as_positional=False)
    if options.suite not in SUITES:
        print(f"evaluate: --suite {options.suite}: expected one of {', '.join(SUITES)}", file=sys.stderr)
        return 2
    torch.set_num_threads(options.threads)
    try:
        result = evaluate(options)
    except (PackError, InstructionError, ConfigError) as error:
        print(f"evaluate: {error}", file=sys.stderr)
        return 2
    text = json.dumps(result, indent=1)
    if options.output is not None:
        options.output.write_text(text + "\n")
    print(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
