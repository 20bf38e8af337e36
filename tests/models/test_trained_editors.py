"""Editors that are networks: what they move, how strength scales it, that they go with any inverter's offsets, what they cannot follow."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml
from PIL import Image

from models.clipinverter import CLIPAdapter, CLIPRemapper
from models.editor_names import editor_names, problem
from models.hairclip import HairClipMapper
from models.instruction import Instruction, InstructionError, load_instructions
from models.inversion import Inversion
from models.layer_selection import movement, selected_layers
from models.mappers import MapperSet
from models.nada import NadaOffsets
from models.pack import Pack, PackError, write_network
from models.reference import wanted
from models.state import dense
from models.stylegan2 import Generator, StyledConv
from tests.models.small_pack import CHANNELS, EMBED, SIZE, STYLE_DIM, write_small_pack

torch.set_num_threads(1)
SMILE = Instruction(name="smile", source="a face", target="a smiling face")
SKETCH = Instruction(name="sketch", source="a photo of a face", target="a sketch of a face")
NAMES = ("hairclip", "styleclip_mapper", "nada", "clipinverter")


def tuned(original: Generator, *, everything: bool = False) -> Generator:
    """Return a generator whose convolutions (or all of it) were moved."""
    other = Generator.from_config({"size": SIZE, "style_dim": STYLE_DIM, "n_mlp": 2, "channels": CHANNELS})
    other.load_state_dict(original.state_dict())
    torch.manual_seed(5)
    with torch.no_grad():
        for module in other.modules():
            if isinstance(module, StyledConv):
                module.conv.weight.mul_(1 + 0.3 * torch.randn_like(module.conv.weight))
        if everything:
            other.to_rgb1.bias += 1
    return other


@pytest.fixture(scope="module")
def pack(tmp_path_factory: pytest.TempPathFactory) -> Pack:
    folder: Path = write_small_pack(tmp_path_factory.mktemp("pack"))
    original = Pack.load(folder).generator()
    torch.manual_seed(3)
    texts, size = [SMILE.target, SKETCH.target], {"size": SIZE, "channels": CHANNELS}
    adapter = {"widths": [8, 12, 16], "text_dim": EMBED, "groups": 4}
    remapper = {**size, "style_dim": STYLE_DIM, "text_dim": EMBED, "variant": "latents"}
    mappers = {"texts": texts, "style_dim": STYLE_DIM}
    write_network(folder, "styleclip_mapper", MapperSet.from_config(mappers), config=mappers)
    shape = {"style_dim": STYLE_DIM, "text_dim": EMBED}
    write_network(folder, "hairclip", HairClipMapper.from_config(shape), config=shape)
    write_network(folder, "clip_adapter", CLIPAdapter.from_config(adapter), config=adapter)
    write_network(folder, "clip_remapper", CLIPRemapper.from_config(remapper), config=remapper)
    offsets = NadaOffsets.between(original, {text: tuned(original) for text in texts})
    write_network(folder, "nada", offsets, config={"texts": texts, **size})
    return Pack.load(folder)


@pytest.fixture(scope="module")
def inversion(pack: Pack) -> Inversion:
    """Return two people, inverted with offsets."""
    image = torch.rand(2, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(4)) * 2 - 1
    with torch.no_grad():
        state = pack.inverter("hyperstyle", {"iterations": 1}).invert(image)
        return Inversion(aligned_BCHW=image, state=state, made_BCHW=pack.generator()(state))


@torch.no_grad()
@pytest.mark.parametrize("name", NAMES)
def test_strength_scales_an_edit_that_keeps_the_inversion(pack: Pack, inversion: Inversion, name: str) -> None:
    editor, generator = pack.editor(name), pack.generator()
    nothing, half, full = (editor.edit(inversion, replace(SMILE, strength=s)) for s in (0.0, 0.5, 1.0))
    assert torch.allclose(generator(nothing), inversion.made_BCHW, atol=1e-4)
    assert (generator(full) - inversion.made_BCHW).abs().mean() > 1e-4
    assert inversion.state.offsets.keys() <= full.offsets.keys()
    moved = [state.latents_BLD - inversion.state.latents_BLD for state in (half, full)]
    assert torch.allclose(2 * moved[0], moved[1], atol=1e-5)
    again = editor.edit(inversion, SMILE)
    assert torch.equal(generator(again), generator(full))


@torch.no_grad()
@pytest.mark.parametrize("name", NAMES)
def test_a_picture_is_edited_the_same_in_any_company(pack: Pack, inversion: Inversion, name: str) -> None:
    editor, generator = pack.editor(name), pack.generator()
    both, alone = generator(editor.edit(inversion, SKETCH)), generator(editor.edit(inversion.slice(1, 2), SKETCH))
    assert torch.allclose(both[1:], alone, atol=1e-4)


@torch.no_grad()
def test_nada_as_offsets_is_the_fine_tuned_generator(pack: Pack, inversion: Inversion) -> None:
    plain = replace(inversion.state, offsets={})
    edited = pack.editor("nada").edit(replace(inversion, state=plain), SMILE)
    assert all(offset.shape[0] == 1 for offset in edited.offsets.values())
    assert torch.allclose(pack.generator()(edited), tuned(pack.generator())(plain), atol=1e-4)
    with pytest.raises(ValueError, match="to_rgb1.bias differs from the original's"):
        NadaOffsets.between(pack.generator(), {"a face": tuned(pack.generator(), everything=True)})


@torch.no_grad()
def test_offsets_of_both_multiply(pack: Pack, inversion: Inversion) -> None:
    before, edited = inversion.state.offsets, pack.editor("nada").edit(inversion, SMILE).offsets
    alone = pack.network("nada", NadaOffsets)(SMILE.target)
    index = next(iter(before))
    assert torch.allclose(1 + dense(edited[index]), (1 + dense(before[index])) * (1 + alone[index]), atol=1e-5)


@torch.no_grad()
def test_clipinverter_looks_at_the_picture_and_its_parts_can_be_left_out(pack: Pack, inversion: Inversion) -> None:
    def latents(given: Inversion, **settings: object) -> torch.Tensor:
        return pack.editor("clipinverter", settings).edit(given, SMILE).latents_BLD

    other = replace(inversion, aligned_BCHW=inversion.aligned_BCHW.flip(3))
    assert not torch.allclose(latents(inversion, remapper=False), latents(other, remapper=False))
    assert torch.equal(latents(inversion, adapter=False), latents(other, adapter=False))
    assert not torch.allclose(latents(inversion, remapper=False), latents(inversion))
    with pytest.raises(PackError, match="leave one of them on"):
        pack.editor("clipinverter", {"adapter": False, "remapper": False})


def test_editors_of_listed_texts_say_which(pack: Pack, inversion: Inversion) -> None:
    assert set(NAMES) <= set(editor_names(pack.info))
    old = replace(SMILE, name="old", target="an old face")
    for name in ("styleclip_mapper", "nada"):
        wrong = problem(pack.info, name, old)
        assert wrong is not None and "'an old face' is none; it has 'a smiling face', 'a sketch of a face'" in wrong
        assert problem(pack.info, name, SMILE) is None
        with pytest.raises(ValueError, match="it has 'a smiling face'"):
            pack.editor(name).edit(inversion, old)
    assert problem(pack.info, "hairclip", old) is None and problem(pack.info, "clipinverter", old) is None


@torch.no_grad()
@pytest.mark.parametrize("name", ("hairclip", "clipinverter", "tedigan"))
def test_a_reference_picture_is_followed_in_place_of_words(pack: Pack, inversion: Inversion, tmp_path: Path, name: str) -> None:
    editor = pack.editor(name, {"steps": 2} if name == "tedigan" else {})
    for shade, file in ((40, "dark.png"), (220, "light.png")):
        Image.new("RGB", (90, 60), (shade, shade, 60)).save(tmp_path / file)
    entry = {"name": "like", "source": "a face", "target": "a smiling face"}
    listed = tmp_path / "like.yaml"
    listed.write_text(yaml.safe_dump([entry, *({**entry, "name": f, "reference": f"{f}.png"} for f in ("dark", "light"))]))
    plain, dark, light = load_instructions(str(listed))
    assert light.reference == str(tmp_path / "light.png") and len(light.reference_sha256) == 64 and "reference" not in plain.plain()
    found = [editor.edit(inversion, one).latents_BLD for one in (plain, dark, light, light)]
    assert not torch.allclose(found[0], found[2]) and not torch.allclose(found[1], found[2]) and torch.equal(found[2], found[3])
    Image.new("RGB", (90, 60)).save(tmp_path / "light.png")
    assert torch.equal(editor.edit(inversion, light).latents_BLD, found[2])  # read once
    pack.clip().pictures.clear()
    with pytest.raises(InstructionError, match="light.png has changed: expected sha256"):
        editor.edit(inversion, light)


def test_references_that_cannot_be_followed_are_named(pack: Pack, tmp_path: Path) -> None:
    (tmp_path / "no.png").write_text("no picture")
    listed = tmp_path / "like.yaml"
    for reference, words in (
        ("missing.png", "no such file; name a picture"),
        ("no.png", "not a picture that can be read"),
        ("3", "no such file"),
    ):
        listed.write_text(f"- {{name: like, source: a face, target: a smiling face, reference: '{reference}'}}")
        with pytest.raises(InstructionError, match=words):
            load_instructions(str(listed))
    Image.new("RGB", (90, 60)).save(tmp_path / "whole.jpg")
    (tmp_path / "cut.jpg").write_bytes((tmp_path / "whole.jpg").read_bytes()[:-200])
    listed.write_text("- {name: like, source: a face, target: a smiling face, reference: cut.jpg}")
    with pytest.raises(InstructionError, match="cut.jpg: not a picture that can be read"):
        load_instructions(str(listed))
    listed.write_text("- {name: like, source: a face, target: a smiling face, reference: 3}")
    with pytest.raises(InstructionError, match="entry 1: instruction 'like': reference must be the path"):
        load_instructions(str(listed))
    like = replace(SMILE, reference="somewhere.png")
    for name in ("hypereditor", "nada", "styleclip_mapper", "stylemc"):
        assert "cannot look at one; leave `reference` out, or choose" in (problem(pack.info, name, like) or "")
    assert problem(pack.info, "hairclip", like) is None and problem(pack.info, "clipinverter", like) is None


def test_the_layer_selector_keeps_what_any_instruction_needs(pack: Pack) -> None:
    generator, clip = pack.generator(), pack.clip()
    for by in ("adam", "gradient"):
        moved = movement(generator, clip, SMILE, by=by)  # type: ignore[arg-type]
        assert moved.shape == (generator.n_latents,) and (moved >= 0).all() and moved.sum() > 0
        assert torch.equal(moved, movement(generator, clip, SMILE, by=by))  # type: ignore[arg-type]
    few = [set(selected_layers(generator, clip, [one], lambda_std=0.6, by="gradient")) for one in (SMILE, SKETCH)]
    assert set(selected_layers(generator, clip, [SMILE, SKETCH], lambda_std=0.6, by="gradient")) == few[0] | few[1]
    assert all(0 < len(layers) < 9 for layers in few)
    assert set(selected_layers(generator, clip, [SMILE], lambda_std=-5.0, by="gradient")) >= few[0]


def test_the_paper_s_remapper_turns_residuals_and_keeps_their_length() -> None:
    torch.manual_seed(0)
    shape = {"size": SIZE, "channels": CHANNELS, "style_dim": STYLE_DIM, "text_dim": EMBED}
    remapper = CLIPRemapper.from_config({**shape, "variant": "paper"}).requires_grad_(False)
    slots = 2 * (SIZE.bit_length() - 1) - 2
    before, residual, text = torch.randn(3, slots, STYLE_DIM), torch.randn(3, slots, STYLE_DIM) * 0.1, torch.randn(3, EMBED)
    found = remapper(before + residual, text, before_BLD=before) - before
    assert torch.allclose(found.norm(dim=2), residual.norm(dim=2), rtol=1e-3) and torch.allclose(found[:, 0], residual[:, 0], atol=1e-6)
    alpha, said = remapper.lambdas[2], remapper.affine_mlps[2](text)
    mixed = alpha * residual[:, 3] + (1 - alpha) * said
    expected = mixed * residual[:, 3].norm(dim=1, keepdim=True) / mixed.norm(dim=1, keepdim=True)  # eq. 6, for one slot
    assert torch.allclose(found[:, 3], expected, atol=1e-5)
    assert torch.equal(remapper(before, text, before_BLD=before), before)
    with pytest.raises(ValueError, match="variant expected one of released, paper, latents"):
        CLIPRemapper.from_config({**shape, "variant": "papers"})


def test_clipinverter_reads_captions_as_they_are(pack: Pack) -> None:
    clip = pack.clip()
    caption = clip.embed_captions([SMILE.target])
    assert torch.equal(caption, clip.embed_tokens(clip.tokenize([SMILE.target]))) and not torch.equal(
        caption, clip.embed_texts([SMILE.target])
    )
    assert torch.equal(wanted(clip, SMILE, templated=False), caption) and torch.equal(wanted(clip, SMILE), clip.embed_texts([SMILE.target]))
    with pytest.raises(ValueError, match="use fewer words"):
        clip.embed_captions(["smile " * 200])
