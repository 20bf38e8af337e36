"""Measure what every style channel of a pack's generator does to CLIP: StyleCLIP's global directions, as a network of the pack.

    python jobs/fit_directions.py --pack packs/portraits64 --output out/directions
    python jobs/edit_dataset.py --pack out/directions --editor styleclip_global --input SHARDS --output OUT --instructions FILE

No training: each channel is moved both ways under `--pictures` random latents. `--output` may be the pack itself. The last line printed is
JSON; exit codes: 0 done, 2 wrong arguments or packs.
"""

from __future__ import annotations

import json
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import jsonargparse
import torch

from models.global_directions import fit
from models.pack import Pack
from models.pack_format import PackError
from pipeline.lock import OutputError
from training.merge import add
from training.pack_place import output_problem

NETWORK = "styleclip_global"


@dataclass(frozen=True, kw_only=True)
class Options:
    """What to measure.

    Args:
        pack: Folder or URL of the pack with the generator and CLIP.
        output: Folder of the new pack, which has the network styleclip_global too; an older pack there is replaced.
        pictures: Random latents under which each channel is moved.
        seed: Seed of these.
        device: Where the networks run: auto, cpu or cuda; auto takes a GPU where there is one.
        threads: CPU threads; null leaves torch's choice.
    """

    pack: str
    output: Path
    pictures: int = 100
    seed: int = 0
    device: Literal["auto", "cpu", "cuda"] = "auto"
    threads: int | None = None


def main() -> int:
    """Run the job; return its exit code."""
    options = jsonargparse.auto_cli(Options, as_positional=False)
    if options.pictures < 1:
        print(f"fit_directions: --pictures {options.pictures}: expected 1 or more", file=sys.stderr)
        return 2
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    device = ("cuda" if torch.cuda.is_available() else "cpu") if options.device == "auto" else options.device
    start = time.monotonic()
    try:
        pack = Pack.load(options.pack, device=device)
        if wrong := output_problem(options.output):
            raise OutputError(wrong)
        found = fit(pack.generator(), pack.clip(), pictures=options.pictures, seed=options.seed, report=_say)
        seconds = round(time.monotonic() - start, 1)
        generator = pack.generator()
        config = {"size": generator.size, "channels": generator.channels, "text_dim": found.direction_SE.shape[1]}
        told = {"pictures": options.pictures, "seed": options.seed, "seconds": seconds}
        sha256 = add(pack, options.output, name=NETWORK, module=found, config=config, settings=told, numbers={"training_s": seconds})
    except (PackError, OutputError) as error:
        print(f"fit_directions: {error}", file=sys.stderr)
        return 2
    print(json.dumps({"pack": str(options.output), "sha256": sha256, "network": NETWORK, "seconds": seconds, "device": device}))
    return 0


def _say(done: int, total: int) -> None:
    if done % 100 == 0 or done == total:
        print(f"fit_directions: channel {done} of {total}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
