"""What is written about a run beside its data: run.json, the summary line, the metrics."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime

from pipeline.config import EditConfig
from pipeline.plan import JobPlan
from pipeline.settings import ShardResult
from pipeline.stage_clock import STAGES
from pipeline.storage import Storage
from pipeline.summary import count_output

VERSIONS = ("hyperedit", "ray", "torch", "onnxruntime", "torchmetrics", "lpips", "open_clip_torch", "mlflow", "pillow", "pyarrow")
Scores = Mapping[str, Mapping[str, float]]


@dataclass(kw_only=True)
class Outcome:
    """What this run did; `seconds` counts from the first shard that was opened to the last commit."""

    started: datetime
    results: list[ShardResult] = field(default_factory=list)
    seconds: float = 0.0
    workers: dict[str, object] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    """Why `auto` came to what it came to."""

    def timings(self) -> dict[str, object]:
        """Return how fast this run was, without what earlier runs of this output did."""
        images = sum(result.counts.images for result in self.results)
        return {
            "shards": len(self.results),
            "samples": sum(result.counts.samples for result in self.results),
            "images": images,
            "seconds": round(self.seconds, 2),
            "images_per_s": round(images / self.seconds, 2) if self.seconds else 0.0,
            "worker_seconds": round(sum(result.seconds for result in self.results), 2),
            "stage_seconds": {stage: round(sum(result.stages.get(stage, 0.0) for result in self.results), 2) for stage in STAGES},
        }


def write_record(plan: JobPlan, storage: Storage, outcome: Outcome, *, scores: Scores, more: Mapping[str, object]) -> None:
    """Write OUT/run.json: settings, counts of the whole output, timings of this run, versions, and `more`."""
    timings = outcome.timings()
    features = next((result.features for result in outcome.results if result.features), {})
    record = {
        "format": 1,
        "input": plan.config.input,
        "output": plan.output,
        "started": outcome.started.strftime("%Y-%m-%d %H:%M:%S UTC"),
        "ended": datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%S UTC"),
        "seconds": timings["seconds"],
        "images_per_s": timings["images_per_s"],
        "counts": count_output(storage),
        "this_run": timings,
        "workers": outcome.workers,
        "pack": {
            "name": plan.pack.name,
            "path": plan.config.pack,
            "sha256": plan.pack_hash,
            "size": plan.pack.size,
            "licence": plan.pack.licence,
        },
        "inverter": plan.config.inverter,
        "editor": plan.config.editor,
        "backend": _backend(plan, outcome),
        "precision": {"asked": plan.asked.precision, "used": plan.config.precision},
        "batch_size": {"asked": plan.asked.batch_size, "used": plan.config.batch_size},
        "config_hash": plan.config_hash,
        "config": dataclasses.asdict(plan.config),
        "instructions": [instruction.plain() for instruction in plan.instructions],
        "scores": scores,
        "features": features,
        "versions": {name: _version(name) for name in VERSIONS},
        **more,
    }
    storage.write("run.json", (json.dumps(record, ensure_ascii=False, indent=1) + "\n").encode())


def _backend(plan: JobPlan, outcome: Outcome) -> dict[str, object]:
    """Return what was asked for, what it came to, and what ran, as the manifests say it; notes say what is not as asked."""
    ran = sorted({result.backend for result in outcome.results if result.backend})
    notes = [*outcome.notes, *sorted({note for result in outcome.results for note in result.backend_notes} - set(outcome.notes))]
    return {"asked": plan.asked.backend, "used": plan.config.backend, "ran": ran, "notes": notes}


def summarise(plan: JobPlan, storage: Storage, outcome: Outcome) -> dict[str, object]:
    """Return the result of the job as plain values: counts of the whole output, speed of this run."""
    timings = outcome.timings()
    return {
        **count_output(storage),
        "shards_this_run": timings["shards"],
        "images_per_s": timings["images_per_s"],
        "seconds": timings["seconds"],
        "output": plan.output,
    }


def metrics_of(summary: Mapping[str, object], scores: Scores) -> dict[str, float]:
    """Return what MLflow draws: the numbers of the summary, and the means as `instruction/score`."""
    numbers = {name: float(value) for name, value in summary.items() if isinstance(value, (int, float)) and not isinstance(value, bool)}
    return numbers | {f"{instruction}/{name}": value for instruction, columns in scores.items() for name, value in columns.items()}


def compact(config: EditConfig) -> dict[str, object]:
    """Return the settings that differ from the defaults."""
    shown: dict[str, object] = {}
    for spec in dataclasses.fields(config):
        value = getattr(config, spec.name)
        default = spec.default_factory() if spec.default_factory is not dataclasses.MISSING else spec.default
        if value != default:
            shown[spec.name] = dataclasses.asdict(value) if dataclasses.is_dataclass(value) and not isinstance(value, type) else value
    return shown


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"
