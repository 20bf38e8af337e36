"""Editors of StyleSpace: DeltaEdit, StyleCLIP's global directions, StyleMC. They edit by offsets, as far as the strength says."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from models.deltaedit import DeltaMapper, text_direction
from models.editor_names import editor_names
from models.global_directions import StyleRelevance, fit
from models.instruction import Instruction
from models.losses import global_clip_loss
from models.pack import Pack, PackError, write_network
from models.state import GeneratorState
from models.style_space import joined, parted, style_spread, styles
from tests.models.small_pack import CHANNELS, EMBED, SIZE, inverted, write_small_pack

torch.set_num_threads(1)
ROOT = Path(__file__).parents[2]
SMILE = Instruction(name="smile", source="a face", target="a smiling face")
HAT = replace(SMILE, name="hat", target="a face with a hat")
SHAPE = {"size": SIZE, "channels": CHANNELS, "text_dim": EMBED}
FEW: dict[str, dict[str, object]] = {"deltaedit": {}, "styleclip_global": {}, "stylemc": {"steps": 6, "batch": 2}}
EDITORS = tuple(FEW)


@pytest.fixture(scope="module")
def pack(tmp_path_factory: pytest.TempPathFactory) -> Pack:
    folder = write_small_pack(tmp_path_factory.mktemp("pack"))
    generator = Pack.load(folder).generator()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)
        mapper, relevance = DeltaMapper(**SHAPE, width=8, depth=2), StyleRelevance(**SHAPE)  # type: ignore[arg-type]
        relevance.direction_SE.copy_(torch.nn.functional.normalize(torch.randn(relevance.direction_SE.shape), dim=1))
    mapper.mean_S.copy_(style_spread(generator)[0])
    for net in (mapper, relevance):
        net.std_S.copy_(style_spread(generator)[1])
    write_network(folder, "deltaedit", mapper, config={**SHAPE, "width": 8, "depth": 2})
    write_network(folder, "styleclip_global", relevance, config=SHAPE)
    return Pack.load(folder)


@pytest.fixture(scope="module")
def state(pack: Pack) -> GeneratorState:
    """Return three people, inverted with offsets."""
    image = torch.rand(3, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(4)) * 2 - 1
    return pack.inverter("hyperstyle", {"iterations": 1}).invert(image)


def edited(pack: Pack, name: str, state: GeneratorState, instruction: Instruction = SMILE, **settings: object) -> GeneratorState:
    editor, made = pack.editor(name, {**FEW[name], **settings}), pack.generator()(state)
    with torch.inference_mode():
        return editor.edit(inverted(state, made), instruction)


def bare(state: GeneratorState) -> GeneratorState:
    return GeneratorState(latents_BLD=state.latents_BLD)


def factor(state: GeneratorState, index: int = 0) -> Tensor:
    """Return what an edit of a state without offsets does to a convolution, (B, O, I, 1, 1)."""
    offset = state.offsets[index]
    return offset if isinstance(offset, Tensor) else offset.dense()


@pytest.mark.parametrize("name", EDITORS)
def test_strength_scales_the_change_and_latents_stay(pack: Pack, state: GeneratorState, name: str) -> None:
    generator = pack.generator()
    none, whole, double, back = (edited(pack, name, bare(state), replace(SMILE, strength=s)) for s in (0.0, 1.0, 2.0, -1.0))
    assert torch.allclose(generator(none), generator(bare(state)), atol=1e-5)
    assert (generator(whole) - generator(bare(state))).abs().mean() > 1e-3
    assert torch.equal(whole.latents_BLD, state.latents_BLD) and factor(whole).abs().max() > 1e-3
    for other, times in ((double, 2), (back, -1)):
        assert torch.allclose(factor(other), times * factor(whole), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", EDITORS)
def test_it_comes_on_top_of_the_inversions_offsets_and_repeats(pack: Pack, state: GeneratorState, name: str) -> None:
    moved, again = edited(pack, name, state), edited(pack, name, state)
    assert set(state.offsets) <= set(moved.offsets)
    generator = pack.generator()
    assert torch.equal(generator(moved), generator(again))
    assert torch.allclose(generator(edited(pack, name, state, replace(SMILE, strength=0.0))), generator(state), atol=1e-5)
    if name != "deltaedit":  # whose change depends on the picture, and so on its offsets
        alone = edited(pack, name, bare(state))
        assert torch.allclose(generator(moved), generator(state.composed(alone)), atol=1e-5)


@pytest.mark.parametrize("name", EDITORS)
def test_people_do_not_mix_and_texts_matter(pack: Pack, state: GeneratorState, name: str) -> None:
    whole = pack.generator()(edited(pack, name, state))
    rows = [pack.generator()(edited(pack, name, state.slice(row, row + 1))) for row in range(3)]
    assert torch.allclose(whole, torch.cat(rows), atol=1e-4)
    assert (pack.generator()(edited(pack, name, state, HAT)) - whole).abs().mean() > 1e-4


def test_a_global_direction_leaves_irrelevant_channels_and_turns_round(pack: Pack) -> None:
    net, direction = pack.network("styleclip_global", StyleRelevance), text_direction(pack.clip(), SMILE)[0]
    relevance = net.direction_SE @ direction
    change = net.change(direction, beta=0.5) / net.std_S
    assert torch.equal(change != 0, relevance.abs() >= 0.5 * relevance.abs().max()) and float(change.abs().max()) == pytest.approx(1)
    assert torch.allclose(net.change(-direction, beta=0.5), -net.change(direction, beta=0.5))
    assert (net.change(direction, beta=0.0) != 0).sum() > (change != 0).sum() > 0


def test_moving_a_channel_as_its_relevance_says_moves_the_embedding_that_way(pack: Pack) -> None:
    generator, clip = pack.generator(), pack.clip()
    done: list[int] = []
    found = fit(generator, clip, pictures=2, report=lambda now, total: done.append(total - now))
    assert done[-1] == 0 and len(done) == len(found.std_S) and torch.allclose(found.direction_SE.norm(dim=1), torch.ones(len(done)))
    latents = generator.repeat(generator.mapping(torch.randn(2, generator.style_dim, generator=torch.Generator().manual_seed(0))))
    change = torch.zeros(1, len(done))
    change[0, 3] = 5 * found.std_S[3]
    moved = []
    for sign in (1, -1):
        every, shift = generator.styles(latents), parted(sign * change, [layer for layer in generator.layers if layer.kind == "conv"])
        made = generator.render([style + shift[i] if i in shift else style for i, style in enumerate(every)]).clamp(-1, 1)
        moved.append(torch.nn.functional.normalize(clip.embed_images(made), dim=1))
    expected = torch.nn.functional.normalize(moved[0] - moved[1], dim=1).mean(0)
    assert float(torch.cosine_similarity(expected, found.direction_SE[3], dim=0)) > 0.99


def test_stylemc_brings_people_that_it_never_saw_to_the_text(pack: Pack, state: GeneratorState) -> None:
    generator, target = pack.generator(), pack.clip().embed_texts([SMILE.target])
    moved = edited(pack, "stylemc", bare(state), steps=30, batch=4, identity=0.0)
    before, after = (global_clip_loss(pack.clip().embed_images(generator(s).clamp(-1, 1)), target).mean() for s in (bare(state), moved))
    assert after < before
    held = edited(pack, "stylemc", bare(state), steps=30, batch=4, identity=0.0, l2=10.0)
    own = joined(styles(generator, state.latents_BLD))[:, :4]
    assert (factor(held)[:, 0, :4, 0, 0] * own).norm() < 0.5 * (factor(moved)[:, 0, :4, 0, 0] * own).norm()
    assert not any(parameter.requires_grad or parameter.grad is not None for parameter in generator.parameters())


def test_deltaedit_turns_round_with_its_direction_and_makes_nobody_ordinary(pack: Pack) -> None:
    net = pack.network("deltaedit", DeltaMapper)
    own, source, delta = (torch.randn(2, width, generator=torch.Generator().manual_seed(width)) for width in (len(net.std_S), EMBED, EMBED))
    assert torch.allclose(net(own, source, -delta), -net(own, source, delta), atol=1e-6) and net(own, source, delta).abs().max() > 0
    assert torch.equal(net(own, source, 0 * delta), torch.zeros_like(own))


def test_a_threshold_leaves_small_changes_out(pack: Pack, state: GeneratorState) -> None:
    whole, none = edited(pack, "deltaedit", bare(state)), edited(pack, "deltaedit", bare(state), threshold=100.0)
    assert factor(whole).abs().max() > 0 and factor(none).abs().max() == 0


def test_names_settings_and_long_texts(pack: Pack, state: GeneratorState) -> None:
    assert set(EDITORS) <= set(editor_names(pack.info))
    for name, settings, words in (
        ("deltaedit", {"gain": 0.0}, "expected above 0 twice and 0 or more"),
        ("deltaedit", {"thresold": 1.0}, "did you mean 'threshold'"),
        ("styleclip_global", {"beta": 1.5}, "a share from 0 to 1, found 2.5 and 1.5"),
        ("stylemc", {"steps": 0}, "expected 1 or more twice and above 0, found 0"),
        ("stylemc", {"identity": -1.0}, "identity: expected a weight of 0 or more"),
        ("stylemc", {"clip": 0.0}, "clip and gain: expected above 0"),
    ):
        with pytest.raises(PackError, match=words):
            pack.editor(name, settings)
    for name in EDITORS:
        with pytest.raises(ValueError, match="use fewer words"):
            edited(pack, name, state, replace(SMILE, target="smiling " * 60))
    for wrong in ({"width": 0}, {"depth": 1}):
        with pytest.raises(ValueError, match="width of 1 or more and a depth of 2 or more"):
            DeltaMapper(**SHAPE, **wrong)  # type: ignore[arg-type]


def test_the_job_puts_the_directions_into_a_pack(tmp_path: Path) -> None:
    base, out = write_small_pack(tmp_path / "base"), tmp_path / "out"
    command = [sys.executable, str(ROOT / "jobs" / "fit_directions.py"), "--pack", str(base), "--output", str(out)]
    run = subprocess.run(
        [*command, "--pictures", "1", "--threads", "1", "--device", "cpu"], cwd=ROOT, env={"PYTHONPATH": str(ROOT)}, text=True,
        capture_output=True, check=False,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    told, new, old = json.loads(run.stdout.splitlines()[-1]), Pack.load(out), Pack.load(base)
    assert (told["sha256"], told["network"]) == (new.sha256, "styleclip_global") and "channel 100 of" in run.stderr
    assert {name: entry.sha256 for name, entry in old.info.networks.items()}.items() <= {
        name: entry.sha256 for name, entry in new.info.networks.items()
    }.items()
    assert new.info.provenance["trained"]["styleclip_global"]["leans_on"] == old.sha256  # type: ignore[index]
    expected = fit(old.generator(), old.clip(), pictures=1)
    found = new.network("styleclip_global", StyleRelevance)
    assert torch.allclose(found.direction_SE, expected.direction_SE, atol=2e-3) and torch.equal(found.std_S, expected.std_S)
    wrong = subprocess.run(
        [*command, "--pictures", "0"], cwd=ROOT, env={"PYTHONPATH": str(ROOT)}, text=True, capture_output=True, check=False
    )
    assert wrong.returncode == 2 and "--pictures 0: expected 1 or more" in wrong.stderr
