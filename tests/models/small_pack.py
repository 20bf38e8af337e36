"""A complete pack with random weights, tiny and 64 px, for tests of everything that runs on a pack."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

import torch
from torch import Tensor

from models.clip import ClipModel
from models.encoders import Encoder4Editing, PspEncoder, WEncoder
from models.hypereditor import HyperEditor
from models.hyperstyle import HyperStyle
from models.inversion import Inversion
from models.pack import start_pack, write_network
from models.perception import AttributeNet, IdentityNet, LandmarkNet
from models.restyle import ReStyleEncoder
from models.state import GeneratorState
from models.stylegan2 import Generator

SIZE = 64
STYLE_DIM = 16
CHANNELS = {4: 16, 8: 16, 16: 12, 32: 8, 64: 8}
TRUNK = {"widths": (8, 8, 12, 16), "depths": (1, 1, 1, 1)}
EMBED = 16
LANDMARKS = ("left_eye", "right_eye", "nose_tip", "mouth_left", "mouth_right", "chin", "nose_left", "nose_right", "mouth_centre")
GROUPS = {
    "expression": ("neutral", "smile", "sad", "surprised", "angry"),
    "eyewear": ("no_eyewear", "glasses", "sunglasses"),
    "hair": ("hair_black", "hair_brown", "hair_blond", "hair_red", "hair_grey"),
    "style": ("style_photo", "style_sketch", "style_cartoon", "style_mosaic", "style_zombie", "style_oil", "style_bronze"),
}
BINARY = ("beard", "mustache", "lipstick", "hat", "bald")
CLIP = {
    "embed_dim": EMBED,
    "vision_cfg": {"image_size": 32, "layers": 1, "width": 32, "patch_size": 8, "head_width": 16},
    "text_cfg": {"context_length": 32, "width": 32, "heads": 2, "layers": 1},
}
TEMPLATES = ("{}", "a photo of a {}.")

CONFIGS: dict[str, dict] = {
    "generator": {"size": SIZE, "style_dim": STYLE_DIM, "n_mlp": 2, "channels": CHANNELS},
    "e4e": {"size": SIZE, "input_size": SIZE, "style_dim": STYLE_DIM, **TRUNK},
    "w_encoder": {"size": SIZE, "input_size": SIZE, "style_dim": STYLE_DIM, **TRUNK},
    "hypereditor": {"size": SIZE, "channels": CHANNELS, "input_size": SIZE, "text_dim": EMBED, "inner": 8, **TRUNK},
    "psp": {"size": SIZE, "input_size": SIZE, "style_dim": STYLE_DIM, "style_width": 8, **TRUNK},
    "restyle_e4e": {"size": SIZE, "input_size": SIZE, "style_dim": STYLE_DIM, "style_width": 8, **TRUNK},
    "hyperstyle": {"size": SIZE, "channels": CHANNELS, "input_size": SIZE, "inner": 8, "shared_inner": 8, **TRUNK},
    "clip": {"model": CLIP, "templates": TEMPLATES, "merges": 500},
    "identity": {"size": SIZE, "widths": (8, 8, 8), "embed_dim": EMBED},
    "attributes": {"groups": GROUPS, "binary": BINARY, "size": SIZE, "widths": (8, 8, 8)},
    "landmarks": {"names": LANDMARKS, "size": 48, "widths": (8, 8, 8)},
}
CLASSES = {
    "generator": Generator,
    "e4e": Encoder4Editing,
    "w_encoder": WEncoder,
    "hypereditor": HyperEditor,
    "psp": PspEncoder,
    "restyle_e4e": ReStyleEncoder,
    "hyperstyle": HyperStyle,
    "clip": ClipModel,
    "identity": IdentityNet,
    "attributes": AttributeNet,
    "landmarks": LandmarkNet,
}


def inverted(state: GeneratorState, made_BCHW: Tensor) -> Inversion:
    """Return what editors take, with the generator's own picture as the aligned one."""
    return Inversion(aligned_BCHW=made_BCHW, state=state, made_BCHW=made_BCHW)


def write_small_pack(folder: str | Path, seed: int = 0, *, without: Collection[str] = ()) -> Path:
    """Write the pack, but for the networks `without`, and return its folder; the same seed gives the same bytes."""
    start_pack(folder, name="small", domain="portraits", size=SIZE, licence="Apache-2.0", provenance={"weights": "random", "seed": seed})
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for name, config in CONFIGS.items():
            module = CLASSES[name].from_config(config)
            numbers = {"threshold_far1": 0.5} if name == "identity" else {}
            extra = {"latent_avg": module.mean_latent(64)} if isinstance(module, Generator) else {}
            if name not in without:
                write_network(folder, name, module, config=config, numbers=numbers, extra=extra)
    return Path(folder)
