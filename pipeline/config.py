"""The configuration of an edit job: frozen dataclasses, filled from YAML presets and flags, checked before anything starts.

Order of precedence: flag, then `--config file.yaml`, then the default below.
"""

from __future__ import annotations

import argparse
import dataclasses
import difflib
import hashlib
import json
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, TypeVar

import jsonargparse

from pipeline.backend_names import AUTO, BACKENDS, EAGER, canonical, per_graph
from pipeline.images import Limits
from pipeline.precision_names import FLOAT32, Precision, needs_float32

Align = Literal["face", "centre"]
Keep = Literal["original", "inversion", "latents"]
Reprocess = Literal["failed", "changed", "all"]

# What may differ between two runs of one output without changing what is written: where things are, how wide the run is, what it tells
# about itself. (Batch size and threads move sums by rounding only; every manifest row says the backend.)
_NOT_IN_HASH = frozenset(
    {
        "input", "output", "pack", "instructions", "recipe", "batch_size", "device", "workers", "tracking", "reprocess", "dry_run", "plan",
        "preview",
    }
)  # fmt: skip
# Options that came later: their defaults, like empty settings, are left out, so that outputs made before keep their hash.
_LATER: Mapping[str, object] = {"align": "face", "backend": EAGER, "precision": FLOAT32}
_LISTS = frozenset({"--instructions", "--keep"})
_SWITCHES = frozenset({"--dry_run", "--plan", "--allow_lpips_download"})


class ConfigError(ValueError):
    """A value that the user gave cannot be used; the message says which, where, and what would work."""


@dataclass(frozen=True, kw_only=True)
class WorkersConfig:
    """How wide the job runs; None means: measured from the cluster at start."""

    min: int = 1
    """Fewest workers (actors) to hold."""
    max: int | None = None
    """Most workers to hold; by default one per GPU, or one per `threads` cores without a GPU."""
    threads: int | None = None
    """CPU threads of one worker; by default 1 without a GPU, more (up to 4) where memory or shards do not reach for a worker per core."""
    gpus: float | None = None
    """GPUs of one worker; by default 1 where the cluster has a GPU and 0 otherwise. A fraction shares a card."""


@dataclass(frozen=True, kw_only=True)
class TrackingConfig:
    """Where the MLflow run goes."""

    uri: str | None = None
    """MLflow tracking URI; by default MLFLOW_TRACKING_URI, or a local SQLite file beside the output folder."""
    experiment: str = "edit_dataset"
    """MLflow experiment name."""
    enabled: bool = True
    """Record the run in MLflow."""


@dataclass(frozen=True, kw_only=True)
class EditConfig:
    """Everything that `jobs/edit_dataset.py` can be told."""

    input: str
    """WebDataset shards: folder, glob, numbered range ({000..127}), .tar file, or a comma-separated list of these; any fsspec URL."""
    output: str
    """Folder or fsspec URL to write to; a second run with the same settings resumes there."""
    instructions: tuple[str, ...] = ()
    """YAML file of instructions, or inline 'name: source -> target @strength'; may be repeated and mixed. None: align and invert only."""
    pack: str = "packs/portraits64"
    """Folder or URL of the trained networks, or models:/NAME@ALIAS or models:/NAME/VERSION in MLflow's model registry."""
    align: Align = "face"
    """What is cut out of each picture: the face, by its landmarks, or the centred square, for packs of anything else."""
    inverter: str = "e4e"
    """What turns a picture into a generator state: an encoder or hypernetwork of the pack, w_projection, wplus_projection, pti or gani."""
    inverter_settings: dict[str, bool | int | float | str] = field(default_factory=dict)
    """Settings of the inverter by name, such as `--inverter_settings.iterations 10`; a wrong one is answered with those that there are."""
    editor: str = "hypereditor"
    """What changes a state by an instruction: an editor of the pack, or a method that it has the networks for (docs/editors.md)."""
    editor_settings: dict[str, bool | int | float | str] = field(default_factory=dict)
    """Settings of the editor by name, such as `--editor_settings.steps 60`; a wrong one is answered with those there are."""
    batch_size: int | Literal["auto"] = 16
    """Pictures in one forward pass; auto is what a probe on a worker's device finds room for."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where the networks run."""
    backend: str = EAGER
    """What runs an encoder, and a HyperEditor with its generator: eager (torch), compile, onnxruntime, tensorrt, a mix such as
    encoder=compile,heads=onnxruntime, or auto: for each the fastest that works."""
    precision: Precision = "float32"
    """Arithmetic of the networks that make pictures: float32, bfloat16, float16, or auto: what the device is fastest in."""
    keep: tuple[Keep, ...] = ()
    """Extra members to write per sample: original, inversion, latents."""
    reprocess: Reprocess | None = None
    """What to do again of an output that exists: failed samples' shards, shards whose input or settings changed, or all."""
    seed: int = 0
    """Seed of methods that draw random numbers."""
    allow_lpips_download: bool = False
    """Let LPIPS fetch the released AlexNet weights where the machine lacks them."""
    dry_run: bool = False
    """Check everything, print the plan and stop."""
    plan: bool = False
    """Check everything, try one batch on a worker, say how much the job would make and how long that would take, and stop."""
    image_ext: str = ""
    """Member that holds the picture, such as 'jpg'; needed only where samples hold several pictures."""
    preview: int = 0
    """Edit only the first N samples of the first shard, into OUTPUT/preview."""
    limits: Limits = field(default_factory=Limits)
    """What an input may cost before it is quarantined."""
    workers: WorkersConfig = field(default_factory=WorkersConfig)
    """How wide the job runs."""
    tracking: TrackingConfig = field(default_factory=TrackingConfig)
    """Where the MLflow run goes."""

    def __post_init__(self) -> None:
        """Raise ConfigError where a value is out of range."""
        if self.batch_size != AUTO:
            _at_least("batch_size", int(self.batch_size), 1)
        _at_least("preview", self.preview, 0)
        object.__setattr__(self, "backend", canonical(self.backend))
        _check_backend(self.backend)
        _check_precision(self)
        _at_least("workers.min", self.workers.min, 1)
        self._check_wish()
        if self.workers.max is not None and self.workers.max < self.workers.min:
            raise ConfigError(f"--workers.max {self.workers.max} is below --workers.min {self.workers.min}")
        if self.workers.threads is not None:
            _at_least("workers.threads", self.workers.threads, 1)
        gpus = self.workers.gpus
        if gpus is not None and (gpus < 0 or (gpus > 1 and gpus != int(gpus))):
            raise ConfigError(f"--workers.gpus {gpus}: expected 0, a fraction of one card such as 0.5, or a whole number")
        if self.device == "cpu" and gpus:
            raise ConfigError(f"--workers.gpus {gpus} contradicts --device cpu: drop one of them")

    @property
    def edits(self) -> bool:
        """Say whether anything is edited, and not only inverted."""
        return bool(self.instructions)

    def _check_wish(self) -> None:
        """Raise ConfigError where nothing is asked for."""
        if not self.instructions and not {"latents", "inversion"} & set(self.keep):
            hint = "to align and invert only, say --keep latents or --keep inversion"
            raise ConfigError(f"--instructions: none given; name a YAML file or write 'smile: face -> smiling face'; {hint}")


C = TypeVar("C", bound=EditConfig)


def _at_least(name: str, value: int, least: int) -> None:
    if value < least:
        raise ConfigError(f"--{name} {value}: expected {least} or more")


def _check_backend(text: str) -> None:
    if "=" not in text and text not in BACKENDS:
        raise ConfigError(f"--backend {text}: {nearest(text, BACKENDS)}")
    if text != AUTO:
        try:
            per_graph(text)
        except ValueError as error:
            raise ConfigError(f"--backend {text}: {error}") from None


def _check_precision(config: EditConfig) -> None:
    wrong = needs_float32(backend=config.backend, inverter=config.inverter, editor=config.editor if config.edits else None)
    if wrong and config.precision not in (AUTO, FLOAT32):
        raise ConfigError(f"--precision {config.precision}: {wrong}")


def nearest(value: str, valid: Iterable[str]) -> str:
    """Return a phrase naming the valid choices and the one that `value` most resembles."""
    choices = sorted(valid)
    close = difflib.get_close_matches(value, choices, n=1, cutoff=0.5)
    hint = f"did you mean '{close[0]}'? " if close else ""
    return f"{hint}valid: {', '.join(choices)}"


def config_hash(config: EditConfig, instructions: Sequence[Mapping[str, object]]) -> str:
    """Return the sha256 of what changes the bytes written: resolved instructions, methods, kept members, limits, seed."""
    settings = {name: value for name, value in dataclasses.asdict(config).items() if name not in _NOT_IN_HASH}
    chosen = {name: value for name, value in settings.items() if value != {} and (name, value) not in _LATER.items()}
    chosen["keep"] = sorted(config.keep)
    text = json.dumps({"format": 1, "config": chosen, "instructions": list(instructions)}, sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()


def parse_config(argv: Sequence[str], *, prog: str = "edit_dataset.py") -> EditConfig:
    """Fill an EditConfig from flags and YAML.

    Raises ConfigError with the value, the place and the nearest valid choice.
    """
    return fill_config(EditConfig, argv, prog=prog, description="Edit a dataset of pictures by text instructions.")


def fill_config(kind: type[C], argv: Sequence[str], *, prog: str, description: str, skip: Collection[str] = ()) -> C:
    """Fill a configuration of any job of this kind, without the fields in `skip`. Raises ConfigError as `parse_config` does."""
    parser = jsonargparse.ArgumentParser(prog=prog, description=description, exit_on_error=False, allow_abbrev=False)
    jsonargparse.set_parsing_settings(docstring_parse_attribute_docstrings=True)
    parser.add_argument("--config", action="config", help="YAML file with any of the options below")
    parser.add_class_arguments(kind, fail_untyped=True, skip=set(skip))
    options = [flag for action in parser._actions for flag in action.option_strings if flag.startswith("--")]
    try:
        values = parser.instantiate(parser.parse_args(_normalised(argv)))
    except ConfigError:
        raise
    except (argparse.ArgumentError, TypeError, ValueError) as error:
        raise ConfigError(explain(str(error), options)) from error
    return kind(**{f.name: getattr(values, f.name) for f in dataclasses.fields(kind) if f.name not in skip})


def _normalised(argv: Sequence[str]) -> list[str]:
    """Write lists (`--keep a b --keep c`) and bare switches (`--dry_run`) in the form that jsonargparse takes."""
    gathered: dict[str, list[str]] = {}
    rest: list[str] = []
    current: list[str] | None = None
    for position, word in enumerate(argv):
        flag, equals, value = word.partition("=")
        if flag in _LISTS:
            current = gathered.setdefault(flag, [])
            current += [value] if equals else []
        elif current is not None and not word.startswith("--"):
            current.append(word)
        else:
            current = None
            following = argv[position + 1].lower() if position + 1 < len(argv) else ""
            rest.append(f"{word}=true" if word in _SWITCHES and following not in ("true", "false") else word)
    return rest + [f"{flag}={json.dumps(values, ensure_ascii=False)}" for flag, values in gathered.items()]


def with_values(argv: Sequence[str], switches: Collection[str]) -> list[str]:
    """Write bare switches (`--promote`) in the form that jsonargparse takes."""
    pairs = zip(argv, [*argv[1:], ""], strict=False)
    return [f"{word}=true" if word in switches and then.lower() not in ("true", "false") else word for word, then in pairs]


def explain(message: str, options: Sequence[str]) -> str:
    """Say in one line what jsonargparse found, and add the nearest valid choice."""
    flat = " ".join(message.split())
    unknown = re.search(r"unrecognized arguments: (\S+)", flat, re.IGNORECASE) or re.search(r"(?:Option|Key) '([\w.\-]+)' is not \w+", flat)
    if unknown:
        flag = unknown[1] if unknown[1].startswith("-") else f"--{unknown[1]}"
        place = "unknown option" if unknown[1].startswith("--") else "unknown"
        close = difflib.get_close_matches(flag, options, n=1, cutoff=0.5)
        return f"{place} '{unknown[1]}': {f'did you mean {close[0]}? ' if close else ''}--help lists all options"
    value = re.search(r"(?:Got value|Given value): (.*)$", flat)
    key = re.search(r'Parser key "([\w.]+)"', flat)
    if not value or not key:
        return flat
    choices = re.search(r"Literal\[([^\]]*)\]", flat)
    valid = re.findall(r"'([^']*)'", choices[1]) if choices else []
    types = dict.fromkeys(re.findall(r"Expected a <class '(\w+)'>", flat))
    if valid and not types.keys() - {"NoneType"}:
        return f"--{key[1]} {value[1]}: {nearest(value[1], valid)}"
    return f"--{key[1]} {value[1]}: expected {' or '.join([*types, *valid]) or flat}".replace("NoneType", "null")
