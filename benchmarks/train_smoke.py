"""Train HyperEditor on one attribute with two workers, from the committed pack. Prints JSON; exit 1 beyond a limit of floors.yaml.

python -m benchmarks.train_smoke [flags of jobs/train.py]

`success`: share of held-out portraits that show what was asked for. `seconds`: of the whole command, Ray and measuring included.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[1]
FLOORS = Path(__file__).with_name("floors.yaml")
CONFIG = ROOT / "configs" / "train" / "smoke.yaml"
OUTPUT = Path("out/smoke")


def main() -> int:
    """Train and look at the result; return the training's exit code, or 1 when a limit is not kept."""
    start = time.monotonic()
    command = [sys.executable, str(ROOT / "jobs" / "train.py"), "--config", str(CONFIG), "--output", str(OUTPUT), *sys.argv[1:]]
    code = subprocess.run(command, check=False).returncode
    if code:
        return code
    found = {
        "success": json.loads((OUTPUT / "result.json").read_text())["numbers"]["success_mean"],
        "seconds": round(time.monotonic() - start, 1),
    }
    limits: dict[str, float] = yaml.safe_load(FLOORS.read_text())["train_smoke"]
    kept = {"success": found["success"] >= limits["success"], "seconds": found["seconds"] <= limits["seconds"]}
    missed = [name for name, good in kept.items() if not good]
    print(json.dumps({"benchmark": "train_smoke", **found, "limits": limits, "missed": missed}))
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
