"""Turn checkpoints of the papers' authors into a pack, without any of their code: docs/official-weights.md says which files and where from.

    python jobs/import_weights.py --output packs/ffhq --domain faces --files stylegan2-ffhq-config-f.pt e4e_ffhq_encode.pt

Nothing that a file says is run. Standard error tells what each file holds, what every inverter and editor still lacks, who publishes that
and under which licence. The last line of standard output is JSON. Exit codes: 0 done, 2 wrong arguments, files or folder, 1 anything else.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import jsonargparse
import torch

from models.official import CheckpointFileError
from models.official_pack import Contents, Label, Source, assemble, check_output, read_sources, write_pack
from models.official_sources import METHODS, missing, where_from
from models.pack_format import PackError

FAILED, WRONG = 1, 2
Kind = Literal["e4e", "psp", "restyle_e4e", "restyle_psp"]


@dataclass(frozen=True, kw_only=True)
class Options:
    """What to import.

    Args:
        output: Folder of the pack: new, empty, or a pack that this command made, which is then replaced.
        name: Name of the pack; the folder's where left out.
        domain: What the generator shows.
        kind: What the encoder is in a file that does not say so.
        licence: Licence of the pack; that of every file's publisher where left out.
        threshold_far1: Similarity of ArcFace above which 1 % of pictures of two people lie, measured on your pictures; without it
            nobody says who is the same person.
    """

    output: Path
    name: str | None = None
    domain: str = "faces"
    kind: Kind | None = None
    licence: str | None = None
    threshold_far1: float | None = None


def parse(arguments: Sequence[str] | None) -> tuple[Options, list[Path]]:
    """Return the options and the files; ends the process with exit code 2 where they are wrong."""
    parser = jsonargparse.ArgumentParser(prog="import_weights.py", description="Turn checkpoints of the papers' authors into a pack.")
    parser.add_class_arguments(Options, fail_untyped=True)
    parser.add_argument("--files", nargs="+", type=str, required=True, help="Checkpoint files, each as its authors published it.")
    values = parser.instantiate(parser.parse_args(arguments))
    fields = {name: getattr(values, name) for name in Options.__dataclass_fields__}
    return Options(**fields), [Path(file) for file in values.files]


def say(text: str) -> None:
    """Tell the user something."""
    print(f"import_weights: {text}", file=sys.stderr, flush=True)


def tell_source(source: Source) -> None:
    """Say what a file holds."""
    options = ", ".join(f"{name} {value}" for name, value in source.options.items())
    say(f"{source.path.name}: {', '.join(source.networks)}" + (f" (trained with {options})" if options else ""))


def tell_missing(contents: Contents) -> dict[str, list[str]]:
    """Say what every inverter, editor and job lacks and where that is published; return it."""
    lacking = missing(contents.networks.keys())
    for method in METHODS:
        say(f"{method}: lacks {', '.join(lacking[method])}" if method in lacking else f"{method}: complete")
    for name in sorted({name for names in lacking.values() for name in names}):
        say(f"missing {name}: {where_from(name)}")
    return lacking


def import_weights(options: Options, files: Sequence[Path]) -> dict[str, object]:
    """Read the files and write the pack. Raises CheckpointFileError, PackError, OSError."""
    start = time.monotonic()
    check_output(options.output)
    sources = read_sources(files, kind=options.kind)
    for source in sources:
        tell_source(source)
    contents = assemble(sources)
    for note in contents.notes:
        say(note)
    label = Label(
        name=options.name or options.output.resolve().name, domain=options.domain, licence=options.licence,
        threshold_far1=options.threshold_far1,
    )  # fmt: skip
    pack = write_pack(contents, options.output, label=label, say=say)
    if "identity" in pack.info.networks and options.threshold_far1 is None:
        say("identity: has no threshold_far1 (nobody publishes one), so scores leave same_person empty: give --threshold_far1")
    lacking = tell_missing(contents)
    return {
        "output": str(options.output), "sha256": pack.sha256, "size": pack.size, "networks": list(pack.info.networks),
        "complete": [method for method in METHODS if method not in lacking], "missing": lacking,
        "seconds": round(time.monotonic() - start, 1),
    }  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the job; return its exit code."""
    options, files = parse(arguments)
    torch.set_num_threads(1)
    try:
        summary = import_weights(options, files)
    except (CheckpointFileError, PackError) as error:
        say(str(error))
        return WRONG
    except OSError as error:
        say(f"--output {options.output}: cannot be written: {error}")
        return FAILED
    print(json.dumps(summary, ensure_ascii=False))
    return 0


if __name__ == "__main__":
    sys.exit(main())
