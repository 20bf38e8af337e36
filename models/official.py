"""Checkpoints of the papers' authors: the one place where a pickle is read, through `torch.load(weights_only=True)` and an allow-list.

`read_checkpoint` gives its content, `networks_in` the networks that it holds, each rebuilt from the shapes of its tensors alone, so any
size that the layouts know is read. Source: the key layouts of rosinality's StyleGAN2, e4e, pSp, ReStyle, HyperStyle, HyperEditor,
CLIPInverter, StyleCLIP, InsightFace's IR-SE50 and MoCo v2.
"""

from __future__ import annotations

import math
import pathlib
import pickle
import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from models import official_shapes as shapes
from models.clip import ClipModel
from models.clipinverter import CLIPAdapter, CLIPRemapper
from models.discriminator import Discriminator
from models.encoders import Encoder4Editing, PspEncoder, WEncoder
from models.hypereditor import HyperEditor
from models.hyperstyle import HyperStyle
from models.mappers import LevelsMapper, SingleMapper, StyleSpaceMapper
from models.official_clip import imagenet_templates
from models.official_perception import ArcFace, MoCo
from models.official_shapes import CheckpointFileError
from models.restyle import ReStyleEncoder, ReStyleResNetEncoder
from models.stylegan2 import Generator

MEAN_LATENT = "latent_avg"
CLIP_NOTES = frozenset({"input_resolution", "context_length", "vocab_size"})
"""Numbers that CLIP's own files hold beside its weights."""
_SCALAR: Callable[..., object] = np.float64(0).__reduce__()[0]  # type: ignore[assignment]  # numpy's rebuilder of a scalar, which has lived in two modules
ALLOWED: Sequence[Callable[..., object] | tuple[Callable[..., object], str]] = (
    (SimpleNamespace, "argparse.Namespace"), pathlib.PosixPath,
    (pathlib.PosixPath, "pathlib._local.PosixPath"),  # where Python 3.13 keeps it
    (pathlib.PureWindowsPath, "pathlib.WindowsPath"), (pathlib.PureWindowsPath, "pathlib._local.WindowsPath"),
    (_SCALAR, "numpy.core.multiarray.scalar"), (_SCALAR, "numpy._core.multiarray.scalar"), np.dtype,
    np.dtypes.BoolDType, np.dtypes.Int32DType, np.dtypes.Int64DType, np.dtypes.Float16DType, np.dtypes.Float32DType, np.dtypes.Float64DType,
)  # fmt: skip
"""What the authors' training options and logged losses are made of; everything else that is no tensor is refused."""
_WANTED = re.compile(r"(?:GLOBAL|function|object) (\S+) (?:was not an allowed|whose module)|but got (.+)$")


@dataclass(frozen=True, kw_only=True)
class OfficialNetwork:
    """One network of a checkpoint: `name` is that in a pack, `extra` the tensors beside the module's own (`latent_avg`)."""

    name: str
    module: nn.Module
    config: Mapping[str, object]
    extra: Mapping[str, Tensor] = field(default_factory=dict)


def read_checkpoint(path: str | Path) -> dict[str, object]:
    """Read a checkpoint, of torch or safetensors, without running anything that it says. Raises CheckpointFileError."""
    if not Path(path).is_file():
        found = "a folder" if Path(path).is_dir() else "no such file"
        raise CheckpointFileError(f"checkpoint {path}: expected a file that torch.save wrote, found {found}")
    try:
        if Path(path).suffix == ".safetensors":
            return dict(load_file(path))
        with torch.serialization.safe_globals(list(ALLOWED)), warnings.catch_warnings(action="ignore"):
            content = torch.load(path, map_location="cpu", weights_only=True, mmap=_is_zip(path))
    except Exception as error:  # there is no list of what a broken file makes a reader raise
        raise CheckpointFileError(f"checkpoint {path}: {_why_not(path, error)}") from None
    if not isinstance(content, dict):
        raise CheckpointFileError(f"checkpoint {path}: expected a dictionary, found a {type(content).__name__}")
    return content


def _why_not(path: str | Path, error: Exception) -> str:
    """Say why a file was not read, without torch's advice to read it unsafely."""
    wanted = _WANTED.search(str(error).split("Check the documentation")[0].strip()) if isinstance(error, pickle.UnpicklingError) else None
    if wanted:
        return (
            f"refused, because it wants to run code or holds objects that no checkpoint needs: {_first_line(wanted[1] or wanted[2])}. "
            "Only tensors and plain options are read; ask its author for a file of the weights alone"
        )
    if "TorchScript" in str(error):
        return "a TorchScript archive, which is a program: expected the weights that torch.save wrote, or safetensors"
    size = Path(path).stat().st_size
    detail = "its content is no pickle of torch's" if isinstance(error, pickle.UnpicklingError) else _first_line(error).split(". ")[0]
    return f"not a file that torch.save wrote, or cut short ({size} bytes): {f'{type(error).__name__} {detail}'.strip()}; fetch it again"


def networks_in(checkpoint: Mapping[str, object], *, where: str = "checkpoint", kind: str | None = None) -> list[OfficialNetwork]:
    """Return every network of a checkpoint that this project knows, by its keys and shapes.

    `kind` names the encoder where the file does not say (e4e, psp, restyle_e4e, restyle_psp). Raises CheckpointFileError when there is
    no network, or when tensors are missing, unknown, or of the wrong shape.
    """
    source = _Source(checkpoint, where=where, kind=kind)
    found = [network for reader in READERS for network in reader(source)]
    if not found:
        keys = ", ".join(sorted(map(str, checkpoint))[:6])
        raise CheckpointFileError(
            f"{where}: holds no network that is known here; its keys begin with {keys}. Expected one of: g_ema (StyleGAN2), state_dict "
            "with encoder., hypernet., adapter., mapper. or module.encoder_q., or the bare weights of ArcFace IR-SE50 or CLIP"
        )
    return found


def options_of(checkpoint: Mapping[str, object]) -> dict[str, object]:
    """Return the training options that a checkpoint holds, by name; empty when it holds none."""
    opts = checkpoint.get("opts", {})
    named = vars(opts) if isinstance(opts, SimpleNamespace) else opts if isinstance(opts, Mapping) else {}
    return {str(name): value for name, value in named.items()}


class _Source:
    """A checkpoint, its weights by prefix, and the options it was trained with."""

    def __init__(self, checkpoint: Mapping[str, object], *, where: str, kind: str | None) -> None:
        self.checkpoint, self.where, self.kind = checkpoint, where, kind
        self.state = shapes.tensors_of(checkpoint.get("state_dict"))
        self.opts = options_of(checkpoint)

    def part(self, prefix: str) -> dict[str, Tensor]:
        """Return the weights under `prefix.`, without it."""
        start = f"{prefix}."
        return {key[len(start) :]: value for key, value in self.state.items() if key.startswith(start)}

    def mean_latent(self) -> dict[str, Tensor]:
        """Return the file's mean latent, if it has one, as extra tensors: (D,) where its slots agree, else (L, D)."""
        value = self.checkpoint.get(MEAN_LATENT)
        if not isinstance(value, Tensor) or not 1 <= value.ndim <= 3:
            return {}
        rows = (value[0] if value.ndim == 3 else value).float()
        if rows.ndim == 2:
            rows = rows[0] if torch.equal(rows, rows[:1].expand_as(rows)) else rows[: self.slots()]
        return {MEAN_LATENT: rows.clone()}

    def slots(self) -> int | None:
        """Return how many latents the generator in the file takes; None for a file without one."""
        own = self.generator()
        return 2 * int(math.log2(shapes.generator_size(own))) - 2 if own else None

    def generator(self) -> dict[str, Tensor]:
        """Return the weights of the generator that the file carries, empty when there is none."""
        bare = shapes.tensors_of(self.checkpoint.get("g_ema"))
        return bare or shapes.without(self.part("decoder"), ("affine_mlps.", "lambdas."))

    def size(self) -> int:
        """Return the generator's size: of the generator in the file, else from the options. Raises CheckpointFileError."""
        own = self.generator()
        if own:
            return shapes.reading(self.where, "generator", shapes.generator_size, own)
        for name in ("output_size", "stylegan_size"):
            size = self.opts.get(name)
            if isinstance(size, int | np.integer):
                return int(size)
        raise CheckpointFileError(f"{self.where}: neither a generator (decoder.*) nor opts.output_size says which size it is for")

    def channels(self) -> dict[int, int] | None:
        """Return the generator's widths; None for the released ones where the file has no generator."""
        own = self.generator()
        return shapes.reading(self.where, "generator", shapes.generator_channels, own) if own else None

    def built(
        self, name: str, kind: Callable[..., nn.Module], config: Mapping[str, object], tensors: Mapping[str, Tensor], *, mean: bool = False,
        device: str = "meta",
    ) -> OfficialNetwork:  # fmt: skip
        """Build a network (on `meta` where it holds nothing else) and give it the tensors, strictly. Raises CheckpointFileError."""
        try:
            with torch.device(device):
                module = kind(**config)
            module.load_state_dict(shapes.as_float(tensors), strict=True, assign=True)
        except (RuntimeError, ValueError, TypeError) as error:
            raise CheckpointFileError(f"{self.where}: its {name} does not fit the layout: {_first_line(error, 600)}") from None
        return OfficialNetwork(
            name=name, module=module.eval().requires_grad_(False), config=config, extra=self.mean_latent() if mean else {}
        )  # fmt: skip


def _generator(source: _Source) -> list[OfficialNetwork]:
    tensors = source.generator()
    if not tensors:
        return []
    config = shapes.reading(source.where, "generator", shapes.generator_config, tensors)
    return [source.built("generator", Generator, config, tensors, mean=True)]


def _discriminator(source: _Source) -> list[OfficialNetwork]:
    tensors = shapes.tensors_of(source.checkpoint.get("d"))
    if not tensors:
        return []
    config = shapes.reading(source.where, "discriminator", shapes.discriminator_config, tensors)
    return [source.built("discriminator", Discriminator, config, tensors)]


ENCODERS: Mapping[str, tuple[str, type[nn.Module], bool | None]] = {
    "Encoder4Editing": ("e4e", Encoder4Editing, None),
    "GradualStyleEncoder": ("psp", PspEncoder, None),
    "ProgressiveBackboneEncoder": ("restyle_e4e", ReStyleEncoder, True),
    "ResNetProgressiveBackboneEncoder": ("restyle_e4e", ReStyleResNetEncoder, True),
    "BackboneEncoder": ("restyle_psp", ReStyleEncoder, False),
    "ResNetBackboneEncoder": ("restyle_psp", ReStyleResNetEncoder, False),
}
"""opts.encoder_type -> name in a pack, class, and whether ReStyle's slots share a first w."""


def _encoder(source: _Source) -> list[OfficialNetwork]:
    tensors = source.part("encoder")
    if not tensors:
        return []
    if "linear.weight" in tensors:
        config = shapes.reading(source.where, "W encoder", shapes.w_encoder_config, tensors) | {"size": source.size()}
        return [source.built("w_encoder", WEncoder, config, tensors, mean=True)]
    name, kind, shared = _encoder_type(source, tensors)
    if "cars" in str(source.opts.get("dataset_type", "")):
        # The released cars encoder has the 18 slots of a 1024 px generator; its code drops those that its own of 512 px does not take.
        tensors = shapes.first_slots(tensors, source.slots())
    config = shapes.reading(source.where, name, shapes.encoder_config, tensors) | shapes.picture_size(source.opts, tensors)
    built = source.built(name, kind, config if shared is None else config | {"shared": shared}, tensors, mean=True)
    if shared is None and source.opts.get("start_from_latent_avg") is False:
        built = replace(built, extra={MEAN_LATENT: torch.zeros(len(tensors["styles.0.linear.bias"]))})
    return [built]


def _encoder_type(source: _Source, tensors: Mapping[str, Tensor]) -> tuple[str, type[nn.Module], bool | None]:
    """Return what the options or the caller call the encoder; keys alone do not tell e4e from pSp."""
    restyle, trunk = shapes.is_restyle(tensors), "conv1.weight" in tensors
    kinds = [kind for kind, (name, _, _) in ENCODERS.items() if name.startswith("restyle") == restyle]
    fitting = [kind for kind in kinds if kind.startswith("ResNet") == trunk]
    wanted = [kind for kind in fitting if ENCODERS[kind][0] == source.kind] if source.kind else [source.opts.get("encoder_type")]
    if wanted and wanted[0] in fitting:
        return ENCODERS[str(wanted[0])]
    said = f"--kind {source.kind}" if source.kind else f"opts.encoder_type {source.opts.get('encoder_type')!r}"
    names = ", ".join(sorted({ENCODERS[kind][0] for kind in fitting}))
    raise CheckpointFileError(f"{source.where}: its encoder fits {names} by its keys, and {said} is none of these: say which with --kind")


def _hypernetwork(source: _Source) -> list[OfficialNetwork]:
    tensors = source.part("hypernet")
    if not tensors:
        return []
    where, size, channels = source.where, source.size(), source.channels()
    shared: dict[str, object] = {"size": size} | ({"channels": channels} if channels else {})
    if "fc_gamma.linear1.weight" in tensors:
        config = shared | shapes.reading(where, "HyperEditor", shapes.hypereditor_config, tensors)
        return [source.built("hypereditor", HyperEditor, config | shapes.picture_size(source.opts, {}), tensors, mean=True)]
    tensors = shapes.reading(where, "HyperStyle", shapes.without_aliases, tensors)
    config = shared | shapes.reading(where, "HyperStyle", shapes.hyperstyle_config, tensors)
    return [source.built("hyperstyle", HyperStyle, config | shapes.picture_size(source.opts, {}), tensors, mean=True)]


def _clipinverter(source: _Source) -> list[OfficialNetwork]:
    tensors, remap = source.part("adapter"), shapes.only(source.part("decoder"), ("affine_mlps.", "lambdas."))
    found = []
    if tensors:
        config = shapes.reading(source.where, "CLIPAdapter", shapes.adapter_config, tensors)
        found.append(source.built("clip_adapter", CLIPAdapter, config, tensors))
    if remap:
        generator = {"size": source.size(), "channels": source.channels()}
        config = generator | shapes.reading(source.where, "CLIPRemapper", shapes.remapper_config, remap)
        found.append(source.built("clip_remapper", CLIPRemapper, config, remap))
    return found


def _mapper(source: _Source) -> list[OfficialNetwork]:
    tensors = source.part("mapper")
    if not tensors:
        return []
    if "mapping.mapping.1.weight" in tensors:
        return [source.built("styleclip_mapper", SingleMapper, {"style_dim": len(tensors["mapping.mapping.1.bias"])}, tensors)]
    if any(key.startswith("mapper_") for key in tensors):
        config = shapes.reading(source.where, "style space mapper", shapes.style_space_config, tensors, source.size(), source.channels())
        return [source.built("styleclip_mapper", StyleSpaceMapper, config, tensors)]
    config = shapes.reading(source.where, "levels mapper", shapes.levels_config, tensors)
    return [source.built("styleclip_mapper", LevelsMapper, config, tensors)]


def _perception(source: _Source) -> list[OfficialNetwork]:
    found = []
    query = source.part("module.encoder_q")
    if query:
        found.append(source.built("moco", MoCo, {}, {key: value for key, value in query.items() if not key.startswith("fc.")}))
    if "output_layer.3.weight" in source.checkpoint:
        tensors = shapes.tensors_of(source.checkpoint)
        config = shapes.reading(source.where, "ArcFace", shapes.arcface_config, tensors)
        found.append(source.built("arcface", ArcFace, config, tensors))
    return found


CLIP_PLACES = ("model_clip", "loss_clip.model")
"""Where a HyperEditor file keeps its two copies of CLIP."""


def _clip(source: _Source) -> list[OfficialNetwork]:
    """Read CLIP from a file of its own, or a copy in a HyperEditor file."""
    places = (shapes.tensors_of(source.checkpoint), source.state, *map(source.part, CLIP_PLACES))
    parts = [part for part in places if "visual.conv1.weight" in part]
    if not parts:
        return []
    tensors = {key: value for key, value in parts[0].items() if key not in CLIP_NOTES}
    config = shapes.reading(source.where, "CLIP", shapes.clip_config, tensors) | {"templates": list(imagenet_templates())}
    named = {f"clip.{key}": value for key, value in tensors.items()}
    return [source.built("clip", ClipModel, config, named, device="cpu")]


READERS: Sequence[Callable[[_Source], list[OfficialNetwork]]] = (
    _generator, _discriminator, _encoder, _hypernetwork, _clipinverter, _mapper, _perception, _clip,
)  # fmt: skip


def _is_zip(path: str | Path) -> bool:
    """Say whether the file is the zip that torch.save writes now: those of before 1.6 cannot be mapped into memory."""
    try:
        with Path(path).open("rb") as stream:
            return stream.read(2) == b"PK"
    except OSError:
        return False


def _first_line(error: Exception | str, longest: int = 300) -> str:
    return " ".join(str(error).split())[:longest]
