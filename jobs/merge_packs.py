"""Put networks that were trained by themselves into a pack.

    python jobs/train.py --network psp --output out/psp
    python jobs/merge_packs.py --base packs/portraits64 --take '{psp: out/psp/pack}' --output packs/mine

The other networks keep their bytes; those taken are stored in half precision, unless others are bound to their bytes. A network that is
bound to another generator, CLIP or W encoder than the new pack has is refused. `--output` may be the base itself. The last line printed is
JSON; exit codes: 0 done, 2 wrong arguments or packs.
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path

import jsonargparse

from models.pack_format import PackError
from pipeline.lock import OutputError
from training.merge import merge


@dataclass(frozen=True, kw_only=True)
class Options:
    """What to put together.

    Args:
        base: Folder of the pack whose networks stay.
        take: Packs by the network that is taken from each.
        output: Folder of the new pack; an older pack there is replaced.
    """

    base: Path
    take: dict[str, str]
    output: Path


def main() -> int:
    """Run the job; return its exit code."""
    options = jsonargparse.auto_cli(Options, as_positional=False)
    if not options.take:
        print("merge_packs: --take {}: expected one network or more, such as '{psp: out/psp/pack}'", file=sys.stderr)
        return 2
    try:
        sha256, left_out = merge(options.base, {name: Path(path) for name, path in options.take.items()}, options.output)
    except (PackError, OutputError) as error:
        print(f"merge_packs: {error}", file=sys.stderr)
        return 2
    if left_out:
        print(
            f"merge_packs: left out {', '.join(left_out)}: they speak of networks that are replaced; jobs/evaluate.py measures again "
            "(--suite pack) and chooses strengths (--suite strengths)",
            file=sys.stderr,
        )
    print(json.dumps({"pack": str(options.output), "sha256": sha256, "taken": sorted(options.take)}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
