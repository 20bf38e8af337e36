"""The configuration of a training: one config, whose `network` decides what `settings` may say.

Order of precedence: flag, then `--config file.yaml`, then the default.
"""

from __future__ import annotations

import argparse
import dataclasses
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import jsonargparse
import yaml

from pipeline.config import ConfigError, TrackingConfig, explain, nearest
from training.loop import LoopConfig
from training.objective import Precision, kind_names, kind_of

SWITCHES = frozenset({"--dry_run", "--plain"})


@dataclass(frozen=True, kw_only=True)
class TrainWorkersConfig:
    """How many workers train."""

    count: int = 1
    """Workers; each is a process with a GPU where there is one."""
    min: int | None = None
    """Fewest workers to go on with when machines go away (elastic); None keeps `count`."""
    threads: int | None = None
    """CPU threads of one worker; by default the cluster's cores divided among the workers, at most 4."""
    gpus: float | None = None
    """GPUs of one worker; by default 1 where the cluster has one and 0 otherwise."""
    max_failures: int = 3
    """Lost workers to survive; each time the training goes on from its newest checkpoint."""


@dataclass(frozen=True, kw_only=True)
class RegisterConfig:
    """Where the new pack goes in MLflow's model registry."""

    model: str | None = None
    """Registered model, such as hyperedit-portraits; None registers nothing."""
    alias: str | None = "champion"
    """Alias that the new version gets; edit_dataset loads it as --pack models:/MODEL@ALIAS."""


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """Everything that `jobs/train.py` can be told, but for the settings of the network."""

    network: str
    """Which network to train."""
    output: str
    """Folder or fsspec URL that all workers see; a second run with the same settings goes on there."""
    pack: str = "packs/portraits64"
    """Pack with the frozen networks that the training leans on; 'none' for a network that needs none."""
    start: str | None = None
    """Pack whose network of this name the training begins with, instead of random weights: for a generator that was fine-tuned."""
    data: str | None = None
    """Shards with pictures (as edit_dataset's --input); by default portraits are rendered."""
    image_ext: str = ""
    """Member that holds the picture, needed only where samples hold several."""
    precision: Precision = "bf16"
    """Arithmetic of convolutions and matrix products: bf16 or float32."""
    plain: bool = False
    """Run the loop in this process, without Ray; under torchrun, as one of its workers."""
    dry_run: bool = False
    """Check everything, say what would be done and stop."""
    loop: LoopConfig = field(default_factory=LoopConfig)
    """How the loop runs."""
    workers: TrainWorkersConfig = field(default_factory=TrainWorkersConfig)
    """How many workers train."""
    tracking: TrackingConfig = field(default_factory=lambda: TrackingConfig(experiment="train"))
    """Where the MLflow run goes."""
    register: RegisterConfig = field(default_factory=RegisterConfig)
    """Where the new pack goes in MLflow's model registry."""

    def __post_init__(self) -> None:
        """Raise ConfigError where a value is out of range."""
        workers = self.workers
        least = workers.count if workers.min is None else workers.min
        if not 1 <= least <= workers.count:
            raise ConfigError(f"--workers.min {least}: expected 1 to --workers.count ({workers.count})")
        if workers.threads is not None and workers.threads < 1:
            raise ConfigError(f"--workers.threads {workers.threads}: expected 1 or more")
        if workers.max_failures < 0:
            raise ConfigError(f"--workers.max_failures {workers.max_failures}: expected 0 or more")
        gpus = workers.gpus
        if gpus is not None and (gpus < 0 or (gpus > 1 and gpus != int(gpus))):
            raise ConfigError(f"--workers.gpus {gpus:g}: expected 0, a fraction of one card such as 0.5, or a whole number")
        if self.plain and workers.count > 1:
            raise ConfigError("--plain runs one worker per process: leave --workers.count out, and start several with torchrun")


def parse_train_config(argv: Sequence[str]) -> tuple[TrainConfig, object]:
    """Fill a TrainConfig and the settings of its network from flags and YAML. Raises ConfigError."""
    network = _network(argv)
    parser = _parser(network)
    if network is None:
        parser.print_help()
        raise SystemExit(0)
    options = [flag for action in parser._actions for flag in action.option_strings if flag.startswith("--")]
    try:
        values = parser.instantiate(parser.parse_args([_switch(argv, i) for i in range(len(argv))]))
    except ConfigError:
        raise
    except (argparse.ArgumentError, TypeError, ValueError) as error:
        raise ConfigError(explain(str(error), options)) from error
    config = TrainConfig(**{f.name: getattr(values, f.name) for f in dataclasses.fields(TrainConfig)})
    return config, values.settings


def _parser(network: str | None) -> jsonargparse.ArgumentParser:
    """Return the parser of all options; without a network, of those that every network has."""
    what = f"Train the {kind_of(network).summary}." if network else "Train one network."
    more = "" if network else f" With --network NAME, --help shows that network's settings too. Networks: {_kinds()}."
    jsonargparse.set_parsing_settings(docstring_parse_attribute_docstrings=True)
    parser = jsonargparse.ArgumentParser(prog="train.py", description=what + more, exit_on_error=False, allow_abbrev=False)
    parser.add_argument("--config", action="config", help="YAML file with any of the options below")
    parser.add_class_arguments(TrainConfig, fail_untyped=True)
    if network:
        parser.add_class_arguments(kind_of(network).config, "settings", fail_untyped=True)
    return parser


def _kinds() -> str:
    return ", ".join(f"{name} ({kind_of(name).summary})" for name in kind_names())


def _network(argv: Sequence[str]) -> str | None:
    """Return the network that flags or the config file name: it decides which settings there are. None asks for general help."""
    found = _flag(argv, "--network")
    file = _flag(argv, "--config")
    if found is None and file is not None:
        found = _of_file(file)
    if found is None:
        if {"-h", "--help"} & set(argv):
            return None
        raise ConfigError(f"--network: none given; expected one of {_kinds()}")
    if found not in kind_names():
        raise ConfigError(f"--network {found}: {nearest(found, kind_names())}")
    return found


def _of_file(file: str) -> str | None:
    try:
        content = yaml.safe_load(Path(file).read_text())
    except (OSError, yaml.YAMLError) as error:
        raise ConfigError(f"--config {file}: {' '.join(str(error).split())}") from error
    if not isinstance(content, Mapping):
        raise ConfigError(f"--config {file}: expected a mapping of options, found {type(content).__name__}")
    return str(content["network"]) if "network" in content else None


def _flag(argv: Sequence[str], name: str) -> str | None:
    """Return what a flag says; said twice, the last counts, as in argparse."""
    for i in reversed(range(len(argv))):
        match = re.fullmatch(f"{name}=(.*)", argv[i])
        if match:
            return match[1]
        if argv[i] == name and i + 1 < len(argv):
            return argv[i + 1]
    return None


def _switch(argv: Sequence[str], i: int) -> str:
    """Let `--plain` alone mean `--plain=true`."""
    following = argv[i + 1].lower() if i + 1 < len(argv) else ""
    return f"{argv[i]}=true" if argv[i] in SWITCHES and following not in ("true", "false") else argv[i]
