"""Average the weights of a network in two packs, the later of which was trained on from the earlier.

    python jobs/train.py --network hypereditor --output out/first
    python jobs/train.py --network hypereditor --start out/first/pack --settings.towards 1.0 --output out/second
    python jobs/average_packs.py --network hypereditor --first out/first/pack --second out/second/pack --share 0.55 --output out/between

`--share` is that of the second: 0 is the first network, 1 the second. Between them lie networks that are between in what they do, too
(robust fine-tuning, Wortsman et al. 2022): here, how strongly HyperEditor edits and how much it leaves alone. Choose on validation people
(`jobs/evaluate.py --suite strengths`). The other networks are the second pack's; figures of either are left out, since they are of neither.
The last line printed is JSON; exit codes: 0 done, 2 wrong arguments or packs.
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path

import jsonargparse

from models.pack import Pack
from models.pack_format import PackError
from pipeline.lock import OutputError
from training.merge import add, between


@dataclass(frozen=True, kw_only=True)
class Options:
    """What to average.

    Args:
        network: Name of the network.
        first: Pack of the earlier one.
        second: Pack of the later one.
        share: Share of the second, from 0 to 1.
        output: Folder of the new pack; an older pack there is replaced.
    """

    network: str
    first: Path
    second: Path
    share: float
    output: Path


def average(options: Options) -> str:
    """Write the pack; return its hash. Raises PackError or OutputError."""
    if not 0 <= options.share <= 1:
        raise PackError(f"--share {options.share:g}: expected a number from 0 to 1")
    first, second = Pack.load(options.first), Pack.load(options.second)
    module = between(first, second, options.network, share=options.share)
    settings = {"first": first.sha256, "second": second.sha256, "share": options.share}
    config = second.info.networks[options.network].config
    return add(second, options.output, name=options.network, module=module, config=config, settings={"averaged": settings})


def main() -> int:
    """Run the job; return its exit code."""
    options = jsonargparse.auto_cli(Options, as_positional=False)
    try:
        sha256 = average(options)
    except (PackError, OutputError) as error:
        print(f"average_packs: {error}", file=sys.stderr)
        return 2
    print(json.dumps({"pack": str(options.output), "sha256": sha256, "averaged": options.network}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
