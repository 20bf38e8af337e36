"""One whole training as every worker runs it: open pack and data, build the objective, fit, measure, and leave a pack.

OUTPUT/ holds checkpoints/, sheets/, log.jsonl, result.json and, at the end, pack/: the pack that it leaned on with the new network in it.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch

from models.pack import Pack, add_file, start_pack, write_network
from pipeline.storage import Storage
from training.checkpoint import Checkpoints
from training.group import Group
from training.loop import Fitted, LoopConfig, fit
from training.objective import Kind, Objective, Precision, Setting, SettingError, bonds, build_objective, kind_names, kind_of
from training.shards import ShardPictures
from training.watch import Recorder, Say, Watch

RESULT, PACK = "result.json", "pack"


@dataclass(frozen=True, kw_only=True)
class Training:
    """All that a worker needs to know; plain values that travel to other machines."""

    network: str
    settings: object
    output: str
    loop: LoopConfig = field(default_factory=LoopConfig)
    precision: Precision = "bf16"
    pack: str | None = None
    """Folder or URL of the pack with the frozen networks; None for a network that needs none."""
    start: str | None = None
    """Pack whose network of the same name the training begins with; None leaves that to the network."""
    data: str | None = None
    """Shards with pictures; None renders portraits."""
    image_ext: str = ""
    threads: int | None = None
    """CPU threads of one worker; None leaves torch's choice."""
    head: Mapping[str, object] = field(default_factory=dict)
    """Name, domain, size and licence of the new pack, where there is none to start from."""
    provenance: Mapping[str, object] = field(default_factory=dict)
    """What else pack.yaml says about this training."""


@dataclass(frozen=True, kw_only=True)
class Result:
    """How a training ended. `pack` is where the new pack is, None when the training was stopped before its end."""

    network: str
    step: int
    steps: int
    finished: bool
    seconds: float
    numbers: Mapping[str, float] = field(default_factory=dict)
    pack: str | None = None
    sha256: str | None = None


def run_training(
    training: Training,
    group: Group,
    *,
    recorder: Recorder | None = None,
    say: Say | None = None,
    should_stop: Callable[[], bool] = lambda: False,
) -> Result:
    """Train, or go on; only the first worker writes, all return the same kind of result (numbers on the first alone).

    Raises ValueError (PackError, CheckpointError, InputError among them) where settings, pack, data or checkpoints do not fit.
    """
    if training.threads is not None:
        torch.set_num_threads(training.threads)
    kind = kind_of(training.network)
    setting = open_setting(training, group)
    objective = build_objective(training.network, training.settings, setting)
    begin(training, objective, setting)
    storage = Storage(training.output)
    watch = Watch(
        training.output, name=training.network, steps=objective.steps, silent=not group.is_first, recorder=recorder, say=say
    )  # fmt: skip
    fitted = fit(
        objective,
        training.loop,
        checkpoints=Checkpoints(training.output, keep=training.loop.keep),
        fingerprint=fingerprint(training, setting),
        watch=watch,
        should_stop=should_stop,
    )
    result = Result(
        network=training.network, step=fitted.step, steps=objective.steps, finished=fitted.finished, seconds=round(fitted.seconds, 1)
    )
    if group.is_first:
        if fitted.finished:
            result = _leave_pack(training, kind, setting, objective, fitted)
        storage.write(RESULT, (json.dumps(asdict(result), indent=1) + "\n").encode())
    group.wait()
    return result


def open_setting(training: Training, group: Group) -> Setting:
    """Open what the training stands on. Raises PackError, InputError or SettingError."""
    kind = kind_of(training.network)
    pack = Pack.load(training.pack, device=str(group.device)) if training.pack is not None else None
    missing = [name for name in kind.needs if pack is None or name not in pack.info.networks]
    if missing:
        raise SettingError(
            f"{training.network} leans on the networks {', '.join(kind.needs)}; {training.pack or 'no pack'} lacks {', '.join(missing)}: "
            "train them first, or name another --pack"
        )
    pictures = None
    if training.data is not None:
        if not kind.reads_shards:
            able = [name for name in kind_names() if kind_of(name).reads_shards]
            raise SettingError(f"--data: {training.network} learns from rendered truth alone; from shards learn {', '.join(able)}")
        assert pack is not None
        pictures = ShardPictures.open(training.data, size=pack.size, latents=kind.reads_latents, image_ext=training.image_ext)
    start = Pack.load(training.start) if training.start is not None else None
    return Setting(group=group, pack=pack, pictures=pictures, start=start, precision=training.precision)


def begin(training: Training, objective: Objective[object], setting: Setting) -> None:
    """Give the untrained network the weights to begin with. Raises PackError, or SettingError where they do not fit."""
    if setting.start is None:
        return
    name = kind_of(training.network).network
    try:
        objective.net.load_state_dict(setting.start.network(name, torch.nn.Module).state_dict())
    except RuntimeError as error:
        raise SettingError(f"--start {training.start}: its {name} has another shape than the settings say: {error}") from error


def fingerprint(training: Training, setting: Setting) -> str:
    """Return a hash of all that the trained weights depend on; the number of workers is not among it."""
    parts = {
        "network": training.network,
        "settings": asdict(training.settings),  # type: ignore[call-overload]
        "precision": training.precision,
        "accumulate": training.loop.accumulate,
        "measure_every": training.loop.measure_every,
        "pack": setting.pack.sha256 if setting.pack is not None else None,
        "data": setting.pictures.fingerprint if setting.pictures is not None else None,
    }
    if setting.start is not None:
        parts["start"] = setting.start.sha256
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=list).encode()).hexdigest()[:16]


def _leave_pack(training: Training, kind: Kind, setting: Setting, objective: Objective[object], fitted: Fitted) -> Result:
    """Measure the network on held-out people and write the new pack."""
    numbers = {**objective.measure("held_out"), "training_s": round(fitted.seconds, 1)}
    storage = Storage(training.output)
    with tempfile.TemporaryDirectory() as folder:
        made = Path(folder) / PACK
        _start(made, training, kind, setting, step=int(fitted.best.get("step", fitted.step)))  # type: ignore[call-overload]
        write_network(made, kind.network, objective.net, config=objective.network_config(), numbers=numbers, extra=objective.extra())
        details = objective.details()
        if details is not None:
            name = f"{kind.network}.json"
            (made / name).write_text(json.dumps(details, indent=1) + "\n")
            add_file(made, name)
        sha256 = Pack.load(made).sha256
        files = sorted(made.iterdir(), key=lambda path: path.name == "pack.yaml")  # the index last: it names the others
        for path in files:
            storage.write(f"{PACK}/{path.name}", path.read_bytes())
    return Result(
        network=training.network, step=fitted.step, steps=objective.steps, finished=True, seconds=round(fitted.seconds, 1),
        numbers=numbers, pack=storage.url_of(PACK), sha256=sha256,
    )  # fmt: skip


def _start(folder: Path, training: Training, kind: Kind, setting: Setting, *, step: int) -> None:
    """Begin the new pack as a copy of the old one, without the networks that stop working when this one is replaced."""
    entry = {
        "settings": asdict(training.settings),  # type: ignore[call-overload]
        "loop": asdict(training.loop),
        "precision": training.precision,
        "chosen_step": step,
        "data": training.data or "rendered portraits",
        **({"start": setting.start.sha256} if setting.start is not None else {}),
        **training.provenance,
    }
    plain = json.loads(json.dumps(entry, default=list))
    if setting.pack is None:
        folder.mkdir(parents=True)
        start_pack(folder, **{**DEFAULT_HEAD, **training.head}, provenance={"trained": {kind.network: plain}})  # type: ignore[arg-type]
        return
    base = setting.pack
    dropped = {name for name, below in bonds().items() if kind.network in below} - {kind.network}
    kept = {name: info for name, info in base.info.networks.items() if name not in dropped | {kind.network}}
    shutil.copytree(base.path, folder)
    trained = {name: value for name, value in _trained(base).items() if name in kept}
    info = base.info
    head = {"name": info.name, "domain": info.domain, "size": info.size, "licence": info.licence, **training.head}
    provenance = {**info.provenance, "trained": {**trained, kind.network: {**plain, "leans_on": base.sha256}}}
    start_pack(folder, **head, provenance=provenance, keep=kept)  # type: ignore[arg-type]


DEFAULT_HEAD = {"name": "unnamed", "domain": "unnamed", "size": 64, "licence": "that of the data it was trained on"}


def _trained(pack: Pack) -> dict[str, object]:
    found = pack.info.provenance.get("trained")
    return dict(found) if isinstance(found, dict) else {}
