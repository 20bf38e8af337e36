"""Constructor arguments of the networks in foreign checkpoints, read off the names and shapes of their tensors.

Every function takes the tensors of one network, without their prefix. Those of other layouts raise KeyError or ValueError, which
`reading` turns into an error that says what was missing.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

import torch
from torch import Tensor

from models.stylegan2 import default_channels, layer_table

Tensors = Mapping[str, Tensor]
Config = dict[str, object]
Returned = TypeVar("Returned")
CARS_SIZE = (192, 256)
HEAD_WIDTH = 64  # of CLIP's attention, in every released size


class CheckpointFileError(ValueError):
    """A checkpoint cannot be read or is not what it has to be; the message says what was found and what was expected."""


def reading(where: str, what: str, read: Callable[..., Returned], *arguments: object) -> Returned:
    """Call a reader. Raises CheckpointFileError naming the file and the network."""
    try:
        return read(*arguments)
    except KeyError as error:
        raise CheckpointFileError(f"{where}: its {what} lacks the tensor {error.args[0]!r}: cut, or of another layout") from None
    except (ValueError, IndexError, ZeroDivisionError) as error:
        raise CheckpointFileError(f"{where}: its {what} is not of the released layout: {error}") from None


def tensors_of(content: object) -> dict[str, Tensor]:
    """Return the named tensors of what should be a state dict; empty when it is none."""
    if not isinstance(content, Mapping):
        return {}
    return {key: value for key, value in content.items() if isinstance(key, str) and isinstance(value, Tensor)}


def first_slots(tensors: Tensors, slots: int | None) -> dict[str, Tensor]:
    """Return an encoder's tensors without the style blocks of slots from `slots` on; all of them when that is None."""
    return {
        key: value
        for key, value in tensors.items()
        if slots is None or not (match := re.match(r"styles\.(\d+)\.", key)) or int(match[1]) < slots
    }


def without(tensors: Tensors, starts: tuple[str, ...]) -> dict[str, Tensor]:
    """Return the tensors whose names begin otherwise."""
    return {key: value for key, value in tensors.items() if not key.startswith(starts)}


def only(tensors: Tensors, starts: tuple[str, ...]) -> dict[str, Tensor]:
    """Return the tensors whose names begin so."""
    return {key: value for key, value in tensors.items() if key.startswith(starts)}


def as_float(tensors: Tensors) -> dict[str, Tensor]:
    """Return the tensors with every floating-point one as float32: some files were saved in half precision."""
    return {key: value.float() if value.is_floating_point() else value for key, value in tensors.items()}


def generator_size(tensors: Tensors) -> int:
    """Return the side of a StyleGAN2 generator's pictures."""
    return int(4 * 2 ** (_count(tensors, r"to_rgbs\.(\d+)\.")))


def generator_channels(tensors: Tensors) -> dict[int, int]:
    """Return the width of every resolution of a StyleGAN2 generator."""
    widths = {4: tensors["conv1.conv.weight"].shape[1]}
    for number in range(_count(tensors, r"to_rgbs\.(\d+)\.")):
        widths[8 * 2**number] = tensors[f"convs.{2 * number + 1}.conv.weight"].shape[1]
    return widths


def generator_config(tensors: Tensors) -> Config:
    """Return the arguments of `Generator`."""
    n_mlp, style_dim = _count(tensors, r"style\.(\d+)\.weight", first=1), tensors["style.1.weight"].shape[0]
    return {"size": generator_size(tensors), "style_dim": style_dim, "n_mlp": n_mlp, "channels": generator_channels(tensors)}


def discriminator_config(tensors: Tensors) -> Config:
    """Return the arguments of `Discriminator`."""
    blocks = _count(tensors, r"convs\.(\d+)\.") - 1
    size = 4 * 2**blocks
    widths = {size: tensors["convs.0.0.weight"].shape[0]}
    for number in range(1, blocks + 1):
        widths[size // 2**number] = tensors[f"convs.{number}.conv2.1.weight"].shape[0]
    return {"size": size, "channels": dict(sorted(widths.items()))}


def is_restyle(tensors: Tensors) -> bool:
    """Say whether an encoder takes a picture beside its reconstruction."""
    first = tensors.get("input_layer.0.weight", tensors.get("conv1.weight"))
    return first is not None and first.shape[1] == 6


def encoder_config(tensors: Tensors) -> Config:
    """Return the arguments of an encoder with a style block for every slot."""
    n_styles = _count(tensors, r"styles\.(\d+)\.")
    if n_styles < 4 or n_styles % 2:
        raise ValueError(f"expected an even number of style blocks from 4 up, found {n_styles}")
    side = 2 ** _count(tensors, r"styles\.0\.convs\.(\d+)\.weight", step=2)
    first = tensors["styles.0.convs.0.weight"]
    shape = resnet_shape(tensors) if "conv1.weight" in tensors else irse_shape(tensors)
    return {
        "size": 2 ** (n_styles // 2 + 1), "input_size": 16 * side, "style_dim": tensors["styles.0.linear.weight"].shape[0],
        "style_width": first.shape[0], **shape,
    }  # fmt: skip


def w_encoder_config(tensors: Tensors) -> Config:
    """Return the arguments of `WEncoder` but its size; it takes pictures of 256 pixels."""
    return {"style_dim": tensors["linear.weight"].shape[0], **irse_shape(tensors)}


def irse_shape(tensors: Tensors) -> Config:
    """Return widths and depths of an IR-SE trunk: a stage begins where the width changes."""
    return _stages([tensors[f"body.{n}.res_layer.1.weight"].shape[0] for n in range(_count(tensors, r"body\.(\d+)\."))])


def resnet_shape(tensors: Tensors) -> Config:
    """Return widths and depths of a ResNet trunk."""
    return _stages([tensors[f"body.{n}.conv1.weight"].shape[0] for n in range(_count(tensors, r"body\.(\d+)\."))])


def arcface_config(tensors: Tensors) -> Config:
    """Return the arguments of `ArcFace`."""
    return {"embed_dim": tensors["output_layer.3.weight"].shape[0], **irse_shape(tensors)}


def picture_size(opts: Mapping[str, object], tensors: Tensors) -> Config:
    """Return the input size where the options say that it is not square: the authors' cars."""
    return {"input_size": list(CARS_SIZE)} if "cars" in str(opts.get("dataset_type", "")) else {}


def hypereditor_config(tensors: Tensors) -> Config:
    """Return the arguments of `HyperEditor` but those of its generator."""
    layers = _indices(tensors, r"hypernetworks\.(\d+)\.")
    one = f"hypernetworks.{layers[0]}"
    kernel = 1
    if f"{one}.output.0.make_kernel_in.weight" in tensors:
        values, width = (len(tensors[f"{one}.output.0.{part}.bias"]) for part in ("make_kernel_in", "kernel_linear_in"))
        kernel = math.isqrt(values // width)
    steps = _count(tensors, rf"hypernetworks\.{layers[0]}\.convs\.(\d+)\.weight", step=2)
    return {
        "layers": layers, "kernel_size": kernel, "input_size": 16 * 2**steps, "inner": tensors[f"{one}.convs.0.weight"].shape[0],
        "text_dim": tensors["fc_gamma.linear1.weight"].shape[1], **resnet_shape(tensors),
    }  # fmt: skip


def without_aliases(tensors: Tensors) -> dict[str, Tensor]:
    """Return HyperStyle's tensors with the shared kernel generator once. Raises ValueError where its copies differ."""
    for key in [key for key in tensors if ".hypernet." in key]:
        original = tensors[f"shared_weight_hypernet.{key.rsplit('.', 1)[1]}"]
        if original is not tensors[key] and not torch.equal(original, tensors[key]):
            raise ValueError(f"{key} differs from shared_weight_hypernet, of which it should be a copy")
    return {key: value for key, value in tensors.items() if ".hypernet." not in key}


def hyperstyle_config(tensors: Tensors) -> Config:
    """Return the arguments of `HyperStyle` but those of its generator."""
    layers = _indices(tensors, r"refinement_blocks\.(\d+)\.")
    config: Config = {"layers": layers, "shared": "shared_weight_hypernet.w1" in tensors, **resnet_shape(tensors)}
    config["block"] = "separable" if any(".make_kernel_in." in key for key in tensors) else "plain"
    features = list(resnet_shape(tensors)["widths"])[-1]  # type: ignore[call-overload]
    for layer in sorted(layers, key=lambda layer: f"refinement_blocks.{layer}.output.1.weight" not in tensors):  # plain blocks first
        block = f"refinement_blocks.{layer}"
        steps = _count(tensors, rf"refinement_blocks\.{layer}\.convs\.(\d+)\.weight", step=2)
        inner = tensors[f"{block}.convs.0.weight"].shape[0]
        if f"{block}.linear.weight" in tensors:
            width = tensors["shared_weight_hypernet.b2"].shape[0] // features
            config["kernel_size"] = math.isqrt(tensors["shared_weight_hypernet.b1"].shape[0] // width)
            config |= {"shared_inner": inner, "input_size": 16 * 2 ** (steps - 1)}
            continue
        config["input_size"] = 16 * 2 ** (steps + (f"{block}.output.1.weight" in tensors))
        if steps > 1:  # a single convolution has no inner width
            config["inner"] = inner
    return config


def clip_config(tensors: Tensors) -> Config:
    """Return the arguments of `ClipModel` but its templates, for a CLIP with a ViT and the GELU of the first release."""
    if "visual.proj" not in tensors:
        raise ValueError("expected a CLIP whose picture tower is a ViT (visual.proj), found another tower; ViT-B/32 is what the papers use")
    patches, width = tensors["visual.conv1.weight"].shape[-1], tensors["visual.conv1.weight"].shape[0]
    side = math.isqrt(tensors["visual.positional_embedding"].shape[0] - 1) * patches
    text = tensors["positional_embedding"]
    vision = {
        "image_size": side, "width": width, "patch_size": patches, "head_width": HEAD_WIDTH,
        "layers": _count(tensors, r"visual\.transformer\.resblocks\.(\d+)\."),
    }  # fmt: skip
    texts = {
        "context_length": text.shape[0], "width": text.shape[1], "heads": text.shape[1] // HEAD_WIDTH,
        "layers": _count(tensors, r"transformer\.resblocks\.(\d+)\."),
    }  # fmt: skip
    embed_dim = tensors["text_projection"].shape[1]
    return {"model": {"embed_dim": embed_dim, "quick_gelu": True, "vision_cfg": vision, "text_cfg": texts}}


def adapter_config(tensors: Tensors) -> Config:
    """Return the arguments of `CLIPAdapter`."""
    levels = [level for level in ("fine", "medium", "coarse") if any(key.startswith(f"{level}_mapping.") for key in tensors)]
    released = {"fine": 128, "medium": 256, "coarse": 512}
    widths = [
        tensors[f"{level}_mapping.modulation_module_list.0.conv.weight"].shape[0] if level in levels else width
        for level, width in released.items()
    ]
    text_dim = tensors[f"{levels[0]}_mapping.modulation_module_list.0.gamma_function.0.weight"].shape[1]
    return {"widths": widths, "levels": levels, "text_dim": text_dim}


def remapper_config(tensors: Tensors) -> Config:
    """Return the arguments of `CLIPRemapper` but those of its generator."""
    last, first = tensors["affine_mlps.0.5.weight"], tensors["affine_mlps.0.0.weight"]
    return {"style_dim": last.shape[0], "text_dim": first.shape[1]}


def levels_config(tensors: Tensors) -> Config:
    """Return the arguments of `LevelsMapper`."""
    levels = [level for level in ("course", "medium", "fine") if f"{level}_mapping.mapping.1.weight" in tensors]
    return {"levels": levels, "style_dim": tensors[f"{levels[0]}_mapping.mapping.1.bias"].shape[0]}


def style_space_config(tensors: Tensors, size: int, channels: Mapping[int, int] | None) -> Config:
    """Return the arguments of `StyleSpaceMapper` for a generator; None stands for the released widths."""
    table = layer_table(size, channels or default_channels(size))
    mapped = set(_indices(tensors, r"mapper_(\d+)\."))
    return {"widths": [layer.in_channels for layer in table], "rgb": [layer.index for layer in table if layer.index not in mapped]}


def _stages(widths: Sequence[int]) -> Config:
    found: list[list[int]] = []
    for width in widths:
        if found and found[-1][0] == width:
            found[-1][1] += 1
        else:
            found.append([width, 1])
    if len(found) != 4:
        raise ValueError(f"expected a trunk of four stages of different widths, found the widths {list(widths)}")
    return {"widths": [width for width, _ in found], "depths": [depth for _, depth in found]}


def _indices(tensors: Tensors, pattern: str) -> list[int]:
    """Return the numbers that the pattern's group takes among the names, in order. Raises KeyError when there are none."""
    found = sorted({int(match[1]) for key in tensors if (match := re.match(pattern, key))})
    if not found:
        raise KeyError(pattern.replace("\\", ""))
    return found


def _count(tensors: Tensors, pattern: str, *, first: int = 0, step: int = 1) -> int:
    """Return how many numbers from `first` on the group takes. Raises ValueError where one is left out."""
    found = _indices(tensors, pattern)
    wanted = list(range(first, first + step * len([n for n in found if n >= first]), step))
    if found != wanted:
        raise ValueError(f"expected the numbers {wanted} in {pattern}, found {found}".replace("\\", ""))
    return len(wanted)
