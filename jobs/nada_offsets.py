"""Put generators that StyleGAN-NADA fine-tuned into a pack, as one editor that knows their texts.

    python jobs/train.py --network nada --settings.target 'a pencil sketch of a face' --output out/sketch
    python jobs/nada_offsets.py --pack packs/portraits64 --tuned '{a pencil sketch of a face: out/sketch/pack}' --output packs/mine
    python jobs/edit_dataset.py --pack packs/mine --editor nada ...

The fine-tuned generators become weight offsets of the pack's own (models/nada.py), so that they go with any inverter. `--output` may be the
pack itself. The last line printed is JSON; exit codes: 0 done, 2 wrong arguments or packs.
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path

import jsonargparse

from models.nada import NadaOffsets
from models.pack import Pack
from models.pack_format import PackError
from pipeline.lock import OutputError
from training.merge import add
from training.pack_place import output_problem


@dataclass(frozen=True, kw_only=True)
class Options:
    """What to put together.

    Args:
        pack: Folder of the pack whose generator was fine-tuned.
        tuned: Packs with the fine-tuned generators, by target text.
        output: Folder of the new pack; an older pack there is replaced.
    """

    pack: Path
    tuned: dict[str, str]
    output: Path


def main() -> int:
    """Run the job; return its exit code."""
    options = jsonargparse.auto_cli(Options, as_positional=False)
    if not options.tuned:
        print("nada_offsets: --tuned {}: expected one text or more, such as '{a sketch of a face: out/sketch/pack}'", file=sys.stderr)
        return 2
    try:
        if wrong := output_problem(options.output):
            raise OutputError(wrong)
        base, packs = Pack.load(options.pack), {text: Pack.load(path) for text, path in options.tuned.items()}
        found = NadaOffsets.between(base.generator(), {text: pack.generator() for text, pack in packs.items()})
        config = {"texts": list(found.texts), "size": base.info.size, "channels": dict(base.generator().channels)}
        told = {"packs": {text: pack.sha256 for text, pack in packs.items()}}
        took = [info.numbers.get("training_s") for info in (pack.info.networks["generator"] for pack in packs.values())]
        numbers = {"training_s": sum(seconds for seconds in took if seconds)} if all(took) else {}
        sha256 = add(base, options.output, name="nada", module=found, config=config, settings=told, numbers=numbers)
    except (PackError, OutputError, ValueError) as error:
        print(f"nada_offsets: {error}", file=sys.stderr)
        return 2
    print(json.dumps({"pack": str(options.output), "sha256": sha256, "texts": list(found.texts)}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
