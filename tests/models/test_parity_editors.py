"""Official checkpoints of editors, read by the loader, and the released losses' views of pictures give the published numbers."""

from __future__ import annotations

import torch
from pytorch_optimizer import Ranger
from torch import Tensor, nn
from torch.nn import functional as F

from models.clipinverter import CLIPAdapter, CLIPRemapper
from models.discriminator import LatentDiscriminator
from models.encoders import Encoder4Editing
from models.hypereditor import HyperEditor
from models.inverters import EncoderInverter
from models.layer_selection import chosen_slots
from models.losses import directional_clip_loss, global_clip_loss, identity_loss
from models.mappers import LevelsMapper, SingleMapper, StyleSpaceMapper
from models.official import MEAN_LATENT, networks_in
from models.official_clip import hypereditor_view, styleclip_view
from models.official_perception import ArcFace, MoCo
from models.stylegan2 import Generator
from tests.models.parity.case import Case, meta, prefixed
from tests.models.test_parity_inverters import checkpoint, offsets_of

EPSILON = 1e-6


def toy_clip(image_BCHW: Tensor, projection: Tensor) -> Tensor:
    """Embed a picture as the kit does in CLIP's place."""
    return F.adaptive_avg_pool2d(image_BCHW, (7, 7)).flatten(1) @ projection


@torch.no_grad()
def test_hypereditor_with_its_w_encoder() -> None:
    case = Case("hypereditor_full_256")
    found = checkpoint(case, {"hypernet": "hypernet", "decoder": "decoder"}, latent_avg=case.inputs["latent_avg"])
    other = checkpoint(case, {"w_encoder": "encoder"}, latent_avg=torch.full((18, 512), 123.0), opts={"output_size": 256})
    g, editor, encoder = found["generator"].module, found["hypereditor"], other["w_encoder"].module
    assert isinstance(g, Generator) and isinstance(editor.module, HyperEditor)
    state = EncoderInverter("w_encoder", encoder, latent_avg=editor.extra[MEAN_LATENT]).invert(case.inputs["image"])  # type: ignore[arg-type]
    inversion = F.adaptive_avg_pool2d(g(state), 256)
    offsets = editor.module(inversion, case.inputs["delta_t"][None])
    image = g.synthesis(state.latents_BLD, offsets)
    case.check({"codes": state.latents_BLD[:, :2], "initial_inversion": inversion, "image": image, **offsets_of(case, offsets)})


@torch.no_grad()
def test_clip_adapter() -> None:
    case = Case("clipinverter_adapter")
    adapter = checkpoint(case, {"adapter": "adapter"})["clip_adapter"].module
    assert isinstance(adapter, CLIPAdapter)
    maps = adapter([case.inputs[name] for name in ("c1", "c2", "c3")], case.inputs["text"])
    case.check(dict(zip(("c1", "c2", "c3"), maps, strict=True)))


@torch.no_grad()
def test_clip_remapper_at_1024() -> None:
    case = Case("clipinverter_remapper_1024")
    found = checkpoint(case, {"g": "decoder"})
    g, remapper = found["generator"].module, found["clip_remapper"].module
    assert isinstance(g, Generator) and isinstance(remapper, CLIPRemapper)
    case.check({"image": g.synthesis(remapper(case.inputs["wplus"], case.inputs["text"], before_BLD=case.inputs["wplus"]))})


@torch.no_grad()
def test_clipinverter() -> None:
    case = Case("clipinverter_full_256")
    text = case.inputs["text"]
    found = checkpoint(case, {"adapter": "adapter", "decoder": "decoder"})
    e4e = checkpoint(case, {"encoder": "encoder"}, opts={"encoder_type": "Encoder4Editing"}, latent_avg=case.inputs["latent_avg"])["e4e"]
    g, adapter, remapper = (found[name].module for name in ("generator", "clip_adapter", "clip_remapper"))
    encoder = e4e.module
    assert isinstance(encoder, Encoder4Editing) and isinstance(g, Generator)
    codes = encoder(case.inputs["image"]) + e4e.extra[MEAN_LATENT]
    c1, c2, c3 = encoder.maps(case.inputs["image"])
    residual = encoder.codes(adapter((c1, c2, c3), text))
    image = g.synthesis(remapper(codes + 0.1 * residual, text, before_BLD=codes))
    case.check({"codes": codes, "c1": c1, "c2": c2, "c3": c3, "residual": residual, "image": image})


@torch.no_grad()
def test_styleclip_mappers() -> None:
    levels, single = Case("styleclip_levels_mapper"), Case("styleclip_single_mapper")
    mapper = checkpoint(levels, {"mapper": "mapper"})["styleclip_mapper"].module
    assert isinstance(mapper, LevelsMapper)
    levels.check({"w_offset": mapper(levels.inputs["wplus"])})
    mapper = checkpoint(single, {"mapper": "mapper"})["styleclip_mapper"].module
    assert isinstance(mapper, SingleMapper)
    single.check({"w_offset": mapper(single.inputs["wplus"])})


@torch.no_grad()
def test_styleclip_style_space_mapper() -> None:
    case = Case("styleclip_stylespace_mapper")
    mapper = checkpoint(case, {"mapper": "mapper"}, opts={"stylegan_size": 1024})["styleclip_mapper"].module
    assert isinstance(mapper, StyleSpaceMapper)
    changes = mapper([style.flatten(1) for style in case.inputs["styles"]])
    case.check({f"style_{index:02}": change[:, None, :, None, None] for index, change in enumerate(changes)})


@torch.no_grad()
def test_style_space_of_the_generator() -> None:
    case = Case("styleclip_stylespace_256")
    with meta():
        g = Generator(256)
    case.load("g", g)
    styles = g.styles(case.inputs["wplus"])
    outputs = {f"style_{index:02}": styles[index] for index in (0, 1, 5, 14, 19)}
    edited = [style * 1.5 if index in (3, 7, 12, 14) else style for index, style in enumerate(styles)]
    case.check(outputs | {"image": g.render(styles), "image_from_edited_styles": g.render(edited)})


@torch.no_grad()
def test_latent_discriminator() -> None:
    case = Case("w_discriminator")
    with meta():
        module = LatentDiscriminator()
    case.check({"score": case.load("d", module)(case.inputs["w"])})


@torch.no_grad()
def test_arcface() -> None:
    case = Case("arcface_id_loss")
    (found,) = networks_in(case.weights("facenet"))
    net = found.module
    assert isinstance(net, ArcFace)
    x, y, made = (net(case.inputs[name]) for name in ("x", "y", "y_hat"))
    rows = torch.stack([(made * y).sum(1), (made * x).sum(1), (y * x).sum(1)], dim=1)
    case.check(
        {
            "feature_from_112": net.embed(case.inputs["crop112"]), "feature_from_256": x, "loss": identity_loss(made, y)[None],
            "improvement": (rows[:, 0] - rows[:, 2]).mean()[None], "similarities": rows,
        }
    )  # fmt: skip


@torch.no_grad()
def test_moco() -> None:
    case = Case("moco_loss")
    dropped = {"module.queue": torch.zeros(2, 3), "module.encoder_q.fc.0.bias": torch.zeros(2)}
    state = {**prefixed("module.encoder_q", case.weights("moco")), **dropped}
    (found,) = networks_in({"state_dict": state})
    net = found.module
    assert isinstance(net, MoCo)
    x, y, made = (net(case.inputs[name]) for name in ("x", "y", "y_hat"))
    rows = torch.stack([(made * y).sum(1), (made * x).sum(1), (y * x).sum(1)], dim=1)
    case.check({"feature": x, "loss": identity_loss(made, y)[None], "similarities": rows})


@torch.no_grad()
def test_lpips() -> None:
    from lpips import LPIPS

    case = Case("lpips_alex")
    weights = case.weights("lpips")
    network = LPIPS(net="alex", pretrained=False, pnet_rand=True, verbose=False).eval()
    slices = {f"net.slice{n}.{layer}.{part}": weights[f"features.{layer}.{part}"]
              for n, layer in enumerate((0, 3, 6, 8, 10), start=1) for part in ("weight", "bias")}  # fmt: skip
    heads = {f"lin{n}.model.1.weight": weights[f"lin{n}.model.1.weight"] for n in range(5)}
    unknown = network.load_state_dict(slices | heads, strict=False).unexpected_keys
    assert not unknown
    distance = network(case.inputs["x"], case.inputs["y"]).flatten()
    case.check({"loss": distance.mean()[None], "loss_first": distance[:1]})


@torch.no_grad()
def test_hypereditor_clip_loss() -> None:
    case = Case("hypereditor_clip_loss")
    made, initial = (
        toy_clip(hypereditor_view(case.inputs[name]), case.inputs["toy_projection"]) for name in ("generated", "initial")
    )  # fmt: skip
    case.check({"loss": directional_clip_loss(made, initial, case.inputs["delta_t"][None]).mean()[None]})


@torch.no_grad()
def test_clipinverter_clip_losses() -> None:
    case = Case("clipinverter_clip_losses")
    source, target = (toy_clip(styleclip_view(case.inputs[name]), case.inputs["toy_projection"]) for name in ("source", "target"))
    before, after = case.inputs["source_text"], case.inputs["target_text"]
    directions = F.normalize(after, dim=1, eps=EPSILON) - F.normalize(before, dim=1, eps=EPSILON)
    every = torch.stack([global_clip_loss(target, text[None]) for text in after], dim=1)
    case.check({"directional": directional_clip_loss(target, source, directions), "global": every})


@torch.no_grad()
def test_styleclip_clip_loss() -> None:
    case = Case("styleclip_clip_loss")
    embedded = toy_clip(styleclip_view(case.inputs["image"]), case.inputs["toy_projection"])
    case.check({"loss": global_clip_loss(embedded, case.inputs["text"])[:, None]})


def test_layer_selector() -> None:
    case = Case("hypereditor_layer_selector")
    lambdas = case.facts["constructor"]["lambda_std"]
    masks = {
        f"mask_{number}": torch.stack(
            [chosen_slots(case.inputs[f"layer_weights_{number}"], lambda_std=value, as_released=True) for value in lambdas]
        ).float()
        for number in range(4)
    }
    case.check(masks)


def test_ranger() -> None:
    case = Case("ranger_steps")
    names = ("matrix", "vector", "kernel")
    parameters = {name: nn.Parameter(case.inputs[f"start_{name}"].clone()) for name in names}
    optimizer = Ranger(parameters.values(), lr=0.01, degenerated_to_sgd=True)
    outputs: dict[str, Tensor] = {}
    for step in range(20):
        for name, parameter in parameters.items():
            parameter.grad = case.inputs[f"grad_{name}"][step].clone()
        optimizer.step()
        if step + 1 in (1, 4, 5, 6, 12, 20):
            outputs |= {f"{name}_after_{step + 1}": parameter.detach().clone() for name, parameter in parameters.items()}
    case.check(outputs)
