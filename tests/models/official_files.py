"""Small networks of the real classes with random weights, wrapped as the papers' authors wrap theirs: prefixes, siblings, aliases."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

import torch
from torch import Tensor, nn

from models.encoders import Encoder4Editing, PspEncoder, WEncoder
from models.hyperstyle import HyperStyle
from models.official import OfficialNetwork
from models.refinement import SharedBlock
from models.stylegan2 import Generator

D = 12
TEXT = 10
IRSE = {"widths": (16, 32, 48, 64), "depths": (1, 2, 1, 1)}
RESNET = {"widths": (8, 12, 16, 20), "depths": (1, 1, 2, 1)}
Module = TypeVar("Module", bound=nn.Module)
Checkpoint = dict[str, object]


def channels(size: int) -> dict[int, int]:
    """Return narrow widths whose first three are equal, as the released ones are up to 64 px."""
    return {4 * 2**step: (16, 16, 16, 8, 6, 4, 4, 2, 2)[step] for step in range(size.bit_length() - 2)}


def drawn(module: Module, seed: int) -> Module:
    """Give a module weights without any structure, so that no tensor can stand for another."""
    random = torch.Generator().manual_seed(seed)
    for name, tensor in module.state_dict().items():
        if tensor.is_floating_point():
            value = torch.randn(tensor.shape, generator=random) * 0.3
            tensor.copy_(value.abs() + 0.5 if name.endswith("running_var") else value)
    return module.eval().requires_grad_(False)


def generator(size: int = 64, *, seed: int = 0, n_mlp: int = 2) -> Generator:
    return drawn(Generator(size, D, n_mlp, channels=channels(size)), seed)


def e4e(size: int = 64, *, seed: int = 1) -> Encoder4Editing:
    return drawn(Encoder4Editing(size, input_size=64, style_dim=D, style_width=8, **IRSE), seed)


def psp(size: int = 64, *, seed: int = 2) -> PspEncoder:
    return drawn(PspEncoder(size, input_size=64, style_dim=D, style_width=8, **IRSE), seed)


def w_encoder(size: int = 64, *, seed: int = 3) -> WEncoder:
    return drawn(WEncoder(size, style_dim=D, **IRSE), seed)


def hyperstyle(size: int = 64, *, seed: int = 4, **more: object) -> HyperStyle:
    shape = {"channels": channels(size), "input_size": 64, "inner": 8, "shared_inner": 6, **RESNET, **more}
    return drawn(HyperStyle(size, **shape), seed)  # type: ignore[arg-type]


def mean(seed: int = 5) -> Tensor:
    return torch.randn(D, generator=torch.Generator().manual_seed(seed))


def state(**modules: nn.Module) -> dict[str, Tensor]:
    """Return the state dict of several networks, each under its prefix."""
    return {f"{prefix}.{key}": value for prefix, module in modules.items() for key, value in module.state_dict().items()}


def rosinality_file(g: Generator, latent_avg: Tensor | None = None, *, discriminator: nn.Module | None = None) -> Checkpoint:
    more = {} if discriminator is None else {"d": discriminator.state_dict()}
    return {"g_ema": g.state_dict(), **more, **({} if latent_avg is None else {"latent_avg": latent_avg})}


def encoder_file(
    encoder: nn.Module, g: Generator, *, encoder_type: str | None, latent_avg: Tensor | None = None, **opts: object
) -> Checkpoint:
    """Wrap an encoder of e4e, pSp, ReStyle or into W; the mean latent is repeated for every slot."""
    named = {"encoder_type": encoder_type, "stylegan_size": g.size, "checkpoint_path": None, "device": "cuda:0", "lr": 1e-4, **opts}
    made: Checkpoint = {"state_dict": state(encoder=encoder, decoder=g), "opts": {k: v for k, v in named.items() if v is not None}}
    return made if latent_avg is None else made | {"latent_avg": latent_avg.expand(g.n_latents, -1).clone()}


def hyperstyle_file(network: HyperStyle, g: Generator, latent_avg: Tensor, **opts: object) -> Checkpoint:
    """Wrap HyperStyle, whose shared kernel generator is saved again inside of every block that uses it."""
    weights = state(hypernet=network, decoder=g)
    for index, block in network.refinement_blocks.items():
        if isinstance(block, SharedBlock):
            shared = network.shared_weight_hypernet.state_dict()
            weights |= {f"hypernet.refinement_blocks.{index}.hypernet.{key}": value for key, value in shared.items()}
    return _hypernetwork_file(weights, g, latent_avg, "SharedWeightsHyperNetResNet", opts)


def hypereditor_file(network: nn.Module, g: Generator, latent_avg: Tensor, **opts: object) -> Checkpoint:
    """Wrap HyperEditor, whose file holds CLIP twice."""
    clip = {f"{prefix}.visual.proj": torch.ones(3, 3) for prefix in ("loss_clip.model", "model_clip")}
    return _hypernetwork_file(state(hypernet=network, decoder=g) | clip, g, latent_avg, "BackboneNet", opts)


def _hypernetwork_file(
    weights: Mapping[str, Tensor], g: Generator, latent_avg: Tensor, encoder_type: str, opts: Mapping[str, object]
) -> Checkpoint:
    named = {"encoder_type": encoder_type, "output_size": g.size, "input_nc": 6, "w_encoder_type": "WEncoder", **opts}
    rows = latent_avg.expand(g.n_latents, -1).clone()
    return {"state_dict": dict(weights), "latent_avg": rows, "opts": named, "global_step": 600, "best_val_loss": 0.25}


def clipinverter_file(adapter: nn.Module, remapper: nn.Module, g: Generator) -> Checkpoint:
    """Wrap CLIPInverter, whose remapper sits among the decoder's weights; there is no mean latent."""
    weights = state(adapter=adapter, decoder=g) | {f"decoder.{key}": value for key, value in remapper.state_dict().items()}
    return {"state_dict": weights, "opts": {"stylegan_size": g.size}}


def mapper_file(mapper: nn.Module, g: Generator, **opts: object) -> Checkpoint:
    return {"state_dict": state(mapper=mapper, decoder=g), "opts": {"stylegan_size": g.size, "description": "a bald person", **opts}}


def moco_file(moco: nn.Module) -> Checkpoint:
    query = {f"module.encoder_q.{key}": value for key, value in moco.state_dict().items()}
    query |= {f"module.encoder_q.fc.{layer}.{kind}": torch.ones(2) for layer in (0, 2) for kind in ("weight", "bias")}
    key = {"module.encoder_k.conv1.weight": torch.ones(2), "module.queue": torch.ones(2, 4), "module.queue_ptr": torch.zeros(1)}
    return {"epoch": 800, "arch": "resnet50", "state_dict": query | key, "optimizer": {"state": {}}}


def same(found: OfficialNetwork, wanted: nn.Module) -> bool:
    """Say whether a network was read as it was written, tensor by tensor."""
    ours, theirs = found.module.state_dict(), wanted.state_dict()
    return type(found.module) is type(wanted) and ours.keys() == theirs.keys() and all(torch.equal(ours[key], theirs[key]) for key in ours)
