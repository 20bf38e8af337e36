"""The Ray that a job runs on: join the one that is there or start one for this job, and decide how wide to run.

Ray reads RAY_AUTH_MODE when it is imported: call `offer_token` before that.
"""

from __future__ import annotations

import logging
import math
import os
import secrets
import signal
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from pipeline.config import ConfigError, EditConfig

FEED_CPUS = 0.5
CPUS_PER_THREAD = 0.5  # a worker and its feed take turns: together they fill `threads` cores
MAX_DEFAULT_THREADS = 4
AUTH_MODE, AUTH_TOKEN, AUTH_TOKEN_PATH = "RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"

OWN_RAY = {"RAY_enable_metrics_collection": "0", "RAY_task_events_report_interval_ms": "0", "RAY_event_stats": "0"}
"""Settings of a Ray of our own: what its processes would collect for a dashboard that it has not takes a third of their CPU time."""


@dataclass(frozen=True, kw_only=True)
class Cluster:
    """What a Ray can give at most, an autoscaler's limits included."""

    cpus: float
    gpus: float
    node_cpus: float
    """Cores of its largest machine."""
    address: str
    node_bytes: float = math.inf
    """Memory that Ray gives to work on its smallest machine."""


@dataclass(frozen=True, kw_only=True)
class Pool:
    """How many workers, and what each holds."""

    min_workers: int
    max_workers: int
    threads: int
    gpus: float
    cpus: float
    device: str
    node_cpus: float = 1.0
    """Cores of the largest machine."""

    def __str__(self) -> str:
        workers = str(self.max_workers) if self.min_workers == self.max_workers else f"{self.min_workers} to {self.max_workers}"
        each = f"{self.gpus:g} GPU" if self.gpus else "no GPU"
        return f"{workers} worker(s) on {self.device}, each {each} and {self.threads} threads"


def connect(*, worker_output: bool = True) -> Cluster:
    """Join the Ray of RAY_ADDRESS, or start one here that ends with this process; `worker_output` shows what workers print.

    A Ray started here asks for a token that only this process and its children know. One that was joined before stays. Raises ConfigError
    when the cluster cannot be reached.
    """
    logging.getLogger("ray.data").setLevel(logging.WARNING)
    set_where_unset({"RAY_USAGE_STATS_ENABLED": "0"})
    import ray

    if ray.is_initialized():
        return _measure()
    on_sigterm = signal.getsignal(signal.SIGTERM)  # Ray puts its own in place, which ends the process without a word
    if os.environ.get("RAY_ADDRESS"):
        try:
            ray.init(log_to_driver=worker_output, logging_level=logging.ERROR)
        except (ConnectionError, RuntimeError, ValueError) as error:
            raise ConfigError(
                f"RAY_ADDRESS={os.environ['RAY_ADDRESS']}: cannot join this Ray: {error}\n"
                f"If it asks for a token, set {AUTH_MODE}=token and {AUTH_TOKEN_PATH} to the file that holds it"
            ) from error
    else:
        if not _has_token():  # or Ray would write one into the home folder
            os.environ[AUTH_TOKEN] = secrets.token_hex(32)
        set_where_unset(OWN_RAY)
        ray.init(address="local", include_dashboard=False, log_to_driver=worker_output, logging_level=logging.ERROR)
    signal.signal(signal.SIGTERM, on_sigterm)
    return _measure()


def set_where_unset(settings: Mapping[str, str]) -> None:
    """Put settings of Ray into the environment, but for those that the user has set."""
    for name, value in settings.items():
        os.environ.setdefault(name, value)


def disconnect() -> None:
    """Leave the Ray; one that `connect` started ends."""
    import ray

    ray.shutdown()


def offer_token() -> None:
    """Turn token authentication on where a token is at hand and the job joins a Ray; Ray does so only for one that it found by itself."""
    token = Path.home() / ".ray" / "auth_token"
    if os.environ.get("RAY_ADDRESS") and AUTH_MODE not in os.environ and (_has_token() or token.is_file()):
        os.environ[AUTH_MODE] = "token"


def _has_token() -> bool:
    return bool({AUTH_TOKEN, AUTH_TOKEN_PATH} & os.environ.keys())


def _measure() -> Cluster:
    import ray
    from ray._private.state import state

    now = ray.cluster_resources()
    limits = state.get_max_resources_from_cluster_config() or {}
    alive = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    nodes = [resources.get("CPU", 0.0) for resources in alive]
    return Cluster(
        cpus=max(now.get("CPU", 0.0), limits.get("CPU", 0.0)),
        gpus=max(now.get("GPU", 0.0), limits.get("GPU", 0.0)),
        node_cpus=max(nodes, default=1.0),
        address=ray.get_runtime_context().gcs_address,
        node_bytes=min((resources["memory"] for resources in alive if "memory" in resources), default=math.inf),
    )


def _threads(cluster: Cluster, *, gpus: float, shards: int, most: int | None, worker_bytes: float) -> int:
    """Return the threads of a worker: one, or more where machines have cores left for as many workers as memory, shards or user allow."""
    cores = max(1, int(cluster.node_cpus))
    if gpus:
        return min(MAX_DEFAULT_THREADS, cores)
    part = cluster.node_cpus / max(cluster.cpus, cluster.node_cpus)  # of the job that one machine does
    workers = [math.ceil(shards * part), _room(cluster, worker_bytes), *([math.ceil(most * part)] if most else [])]
    return max(1, min(MAX_DEFAULT_THREADS, cores // max(1, min(workers))))


def _room(cluster: Cluster, worker_bytes: float) -> int:
    """Return how many workers the memory of one machine holds."""
    if not worker_bytes or not math.isfinite(cluster.node_bytes):
        return max(1, int(cluster.cpus))
    return max(1, int(cluster.node_bytes / worker_bytes))


def plan_pool(config: EditConfig, cluster: Cluster, *, shards: int, of: int | None = None, worker_bytes: float = 0.0) -> Pool:
    """Decide how many workers to hold for `shards` shards, what is left of the `of` of the whole job; one takes about `worker_bytes`.

    Without a GPU a worker has one core, which leaves none idle while another works, or more where memory or shards do not reach for a
    worker per core. Raises ConfigError when more is asked for than the cluster has.
    """
    wanted = config.workers
    gpus = wanted.gpus if wanted.gpus is not None else float(config.device != "cpu" and (cluster.gpus > 0 or config.device == "cuda"))
    threads = wanted.threads or _threads(cluster, gpus=gpus, shards=of or shards, most=wanted.max, worker_bytes=worker_bytes)
    cpus = 0.0 if gpus else min(threads * CPUS_PER_THREAD, max(cluster.node_cpus - FEED_CPUS, FEED_CPUS))
    machines = max(1, round(cluster.cpus / max(cluster.node_cpus, 1.0)))
    fit = int(cluster.gpus / gpus + 1e-6) if gpus else max(1, min(int(cluster.cpus / threads), machines * _room(cluster, worker_bytes)))
    asked = max(wanted.min, wanted.max or 0)
    if gpus and asked * gpus > cluster.gpus or gpus > cluster.gpus:
        raise ConfigError(
            f"--workers: {max(asked, 1)} x {gpus:g} GPUs asked for, but the cluster at {cluster.address} has {cluster.gpus:g}; "
            "lower --workers.min, --workers.max or --workers.gpus, or use --device cpu"
        )
    if not gpus and wanted.min * cpus + FEED_CPUS > max(cluster.cpus, cpus + FEED_CPUS):
        raise ConfigError(
            f"--workers.min {wanted.min} x --workers.threads {threads} does not fit the {cluster.cpus:g} cores of the cluster at "
            f"{cluster.address}: {math.floor(cluster.cpus / threads)} workers fit"
        )
    most = max(1, min(wanted.max or fit, shards))
    return Pool(
        min_workers=min(wanted.min, most), max_workers=most, threads=threads, gpus=gpus, cpus=cpus, device="cuda" if gpus else "cpu",
        node_cpus=cluster.node_cpus,
    )  # fmt: skip
