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

from benchmarks.measure import conclude

ROOT = Path(__file__).parents[1]
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
    return conclude("train_smoke", found, at_most=["seconds"])


if __name__ == "__main__":
    sys.exit(main())
