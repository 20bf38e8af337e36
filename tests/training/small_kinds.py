"""Small settings for every kind of network, and trainings with them: the frozen networks come from the committed pack."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

import torch
from torch import Tensor

from models.pack import Pack
from training.group import Group
from training.kinds.attributes import AttributesConfig
from training.kinds.clip import ClipConfig
from training.kinds.clip_adapter import AdapterConfig
from training.kinds.clip_remapper import RemapperConfig
from training.kinds.deltaedit import DeltaEditConfig
from training.kinds.e4e import EncoderConfig
from training.kinds.generator import GeneratorConfig
from training.kinds.hairclip import HairClipConfig
from training.kinds.hypereditor import HyperEditorConfig
from training.kinds.hyperstyle import HyperStyleConfig
from training.kinds.identity import IdentityConfig
from training.kinds.landmarks import LandmarksConfig
from training.kinds.mapping import MappingConfig
from training.kinds.nada import NadaConfig
from training.kinds.parser import ParserConfig
from training.kinds.psp import PspConfig
from training.kinds.restyle_e4e import ReStyleConfig
from training.kinds.restyle_psp import ReStylePspConfig
from training.kinds.styleclip_mapper import MapperConfig
from training.kinds.w_encoder import WEncoderConfig
from training.loop import LoopConfig
from training.objective import Objective, Setting, build_objective, kind_of
from training.run import Result, Training, run_training

PACK = Path(__file__).resolve().parents[2] / "packs" / "portraits64"

SMALL: dict[str, object] = {
    "attributes": AttributesConfig(widths=(8, 16, 16, 16), pictures=64, steps=10, batch=16, measured=80),
    "clip": ClipConfig(merges=200, pairs=32, steps=5, pairwise_steps=5, batch=8, measured=60),
    "clip_adapter": AdapterConfig(only=("smile",), pictures=32, phases=((10, 0.3),), batch=4, measured=6),
    "clip_remapper": RemapperConfig(only=("smile",), pictures=32, phases=((10, 0.3),), batch=4, measured=6, adapter=False),
    "deltaedit": DeltaEditConfig(width=16, depth=2, pictures=40, steps=10, batch=16, rate=5e-3, noise=0.3, measured=20),
    "e4e": EncoderConfig(widths=(8,) * 4, depths=(1,) * 4, style_width=8, pictures=40, steps=10, batch=6, picture_every=5, measured=20),
    "generator": GeneratorConfig(go_on=True, features=1.0, steps=10, batch=2, measured=20),
    "hairclip": HairClipConfig(only=("smile", "zombie"), pictures=32, phases=((10, 0.0),), batch=4, measured=6),
    "hypereditor": HyperEditorConfig(
        only=("smile", "zombie"), widths=(8, 8, 8, 16), inner=8, pictures=32, phases=((5, 1.0), (5, 0.1)), batch=4, measured=6
    ),
    "hyperstyle": HyperStyleConfig(
        widths=(8, 8, 8, 16), inner=8, shared_inner=8, phases=((5, 1), (5, 2)), passes=2, pictures=32, batch=2, rate=2e-2, measured=6
    ),
    "identity": IdentityConfig(widths=(8, 16, 16, 16), embed_dim=16, people=12, pictures=6, steps=10, batch=24, measured=20),
    "landmarks": LandmarksConfig(size=64, widths=(8,) * 4, pictures=48, empty=12, steps=10, batch=16, measured=20),
    "mapping": MappingConfig(steps=10, batch=16, measured=20),
    "nada": NadaConfig(layers=3, probes=2, steps=10, batch=2, rate=2e-3, measured=6),
    "parser": ParserConfig(widths=(8, 8, 8), pictures=48, steps=10, batch=8, measured=20),
    "psp": PspConfig(widths=(8,) * 4, depths=(1,) * 4, style_width=8, pictures=40, steps=10, batch=6, picture_every=5, measured=20),
    "restyle_e4e": ReStyleConfig(
        widths=(8,) * 4, depths=(1,) * 4, style_width=8, looks=2, passes=2, pictures=40, steps=10, batch=4, picture_every=5, measured=6
    ),
    "restyle_psp": ReStylePspConfig(
        widths=(8,) * 4, depths=(1,) * 4, style_width=8, looks=2, passes=2, pictures=40, steps=10, batch=4, picture_every=5, measured=6
    ),
    "styleclip_mapper": MapperConfig(only=("smile", "zombie"), pictures=32, phases=((10, 0.0),), batch=4, measured=6),
    "w_encoder": WEncoderConfig(widths=(8,) * 4, depths=(1,) * 4, pictures=40, steps=10, batch=6, picture_every=5, measured=20),
}
"""All steps are divisible by the loop's look at whether to stop."""
COMPARED = tuple(name for name in SMALL if name not in ("psp", "restyle_psp"))
"""What is trained twice to be compared: the two left out have the objectives of e4e and restyle_e4e, with other settings."""


@lru_cache(maxsize=1)
def frozen() -> Pack:
    """Return the committed pack; its networks are only read."""
    return Pack.load(PACK)


def objective_of(network: str, settings: object | None = None, *, group: Group | None = None) -> Objective[object]:
    """Return a small objective, ready to draw."""
    setting = Setting(group=group or Group(), pack=frozen(), precision="float32")
    objective = build_objective(network, settings or SMALL[network], setting)
    objective.prepare()
    return objective


def train(network: str, output: Path, *, should_stop: Callable[[], bool] = lambda: False, group: Group | None = None) -> Result:
    """Run a small training from the committed pack, as one worker of a group."""
    training = Training(
        network=network, settings=SMALL[network], output=str(output), pack=str(PACK), precision="float32",
        loop=LoopConfig(checkpoint_every=10, log_every=1, sheet_every=0),
    )  # fmt: skip
    return run_training(training, group or Group(), say=lambda _: None, should_stop=should_stop)


def weights(output: Path, network: str) -> dict[str, Tensor]:
    """Return what the pack in an output holds of the network that a kind trains."""
    pack, name = Pack.load(output / "pack"), kind_of(network).network
    return pack.network(name, torch.nn.Module).state_dict() | pack.extra(name)


def log_of(output: Path) -> list[dict[str, float]]:
    """Return the lines of an output's log without timings."""
    lines = [json.loads(line) for line in (output / "log.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if key not in ("s", "images_per_s")} for line in lines]


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    """Say whether two sets of tensors are equal to the bit."""
    return a.keys() == b.keys() and all(torch.equal(value, b[name]) for name, value in a.items())
