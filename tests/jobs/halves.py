"""A run that is stopped half way and resumed, beside one in a single go: what every method has to survive."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pyarrow.parquet as pq

from tests.jobs.world import run, tree


def resumed_equals_whole(raw: Path, flags: list[str], folder: Path, *, env: Mapping[str, str]) -> list[dict[str, object]]:
    """Run on the first of two shards of two samples, then on both, and on both at once; return the manifest's rows of equal outputs."""

    def go(what: Path, out: Path) -> dict[str, object]:
        places = ["--input", str(what), "--output", str(out)]
        ended = run([*places, *flags, "--tracking.enabled", "false", "--workers.threads", "1"], env=env)
        assert ended.code == 0, ended.err[-3000:]
        return ended.result

    half = go(sorted(raw.glob("*.tar"))[0], folder / "halves")
    whole = go(raw, folder / "halves")
    assert (half["shards"], whole["shards"], whole["samples"]) == (1, 2, 4)
    go(raw, folder / "at_once")
    assert tree(folder / "halves") == tree(folder / "at_once")
    assert (folder / "halves" / "report.html").is_file()
    rows: list[dict[str, object]] = pq.read_table(folder / "halves" / "manifests").to_pylist()
    return rows
