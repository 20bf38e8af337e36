"""Ablation tables and offsets on a fine-tuned generator, where the answer is known."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

from evaluation import domain_adaptation
from evaluation import inversion_suite as suite
from evaluation.domain_adaptation import adapt, check_adapted
from evaluation.inversion_ablations import ABLATIONS, Context, check_variants
from evaluation.inversion_run import Plan, name_of
from evaluation.inversion_suite import Inverted
from models.gani import Gani
from models.inverters import HyperStyleInverter
from models.pack import Pack, PackError, write_network
from models.state import GeneratorState
from tests.models.small_pack import CONFIGS, write_small_pack

torch.set_num_threads(1)


@pytest.fixture(scope="module")
def pack(tmp_path_factory: pytest.TempPathFactory) -> Pack:
    return Pack.load(write_small_pack(tmp_path_factory.mktemp("pack")))


@pytest.fixture(scope="module")
def judge(pack: Pack) -> suite.Judge:
    return suite.Judge(pack)


def copied(pack: Pack, folder: Path, change: Callable[[Pack, Path], None]) -> Pack:
    shutil.copytree(pack.path, folder)
    change(Pack.load(folder), folder)
    return Pack.load(folder)


def test_normalisations_are_all_nine_pairs_and_keep_the_settings_that_rows_share(pack: Pack) -> None:
    rows = ABLATIONS["gani_norms"].rows(Context(pack=pack, settings={"gani": {"steps": 7}}, variants={}))
    configs = [row.config for row in rows.values() if isinstance(row, Gani)]
    assert len({(config.modules.pre_norm, config.modules.post_norm) for config in configs}) == 9
    assert {config.steps for config in configs} == {7}


def test_more_blocks_have_more_parameters_and_say_so(pack: Pack) -> None:
    rows = ABLATIONS["gani_blocks"].rows(Context(pack=pack, settings={}, variants={}))
    sizes = [row.parameters() for row in rows.values() if isinstance(row, Gani)]
    assert len(sizes) == 4 and sizes[3] == 4 * sizes[0] and list(rows)[0].startswith("1 block, ")


def test_hyperstyle_has_a_row_per_number_of_passes_and_two_per_further_network(pack: Pack, tmp_path: Path) -> None:
    def other_weights(_: Pack, folder: Path) -> None:
        torch.manual_seed(9)
        net = type(pack.inverter("hyperstyle").hypernetwork).from_config(CONFIGS["hyperstyle"])  # type: ignore[attr-defined]
        write_network(folder, "hyperstyle", net, config=CONFIGS["hyperstyle"])

    variant = copied(pack, tmp_path / "variant", other_weights)
    check_variants(pack, {"another": variant})
    rows = ABLATIONS["hyperstyle"].rows(Context(pack=pack, settings={}, variants={"another": variant}))
    passes = {label: row.iterations for label, row in rows.items() if isinstance(row, HyperStyleInverter)}
    assert passes["1 pass"] == passes["another, 1 pass"] == 1 and passes["10 passes"] == 10 and passes["another"] == passes["5 passes"]
    image = torch.rand(1, 3, 64, 64) * 2 - 1
    ours, theirs = (rows[label].invert(image).offsets[0] for label in ("1 pass", "another, 1 pass"))
    assert not torch.equal(ours, theirs)


def test_a_further_pack_must_share_the_generator_and_have_the_network(pack: Pack, tmp_path: Path) -> None:
    def other_generator(found: Pack, folder: Path) -> None:
        generator = found.generator()
        with torch.no_grad():
            generator.input.input.add_(1)
        write_network(folder, "generator", generator, config=CONFIGS["generator"], extra=found.extra("generator"))

    with pytest.raises(PackError, match=r"--variants\.other .* another generator"):
        check_variants(pack, {"other": copied(pack, tmp_path / "other", other_generator)})
    bare = Pack.load(Path(__file__).resolve().parents[2] / "packs" / "portraits64")
    without = Pack(bare.path, type(bare.info)(**{**vars(bare.info), "networks": {"generator": bare.info.networks["generator"]}}),
                   sha256="", device="cpu")  # fmt: skip
    with pytest.raises(PackError, match=r"--variants\.bare .* no network 'hyperstyle'; it has generator"):
        check_variants(pack, {"bare": without})


def test_offsets_on_a_fine_tuned_generator_are_measured_without_and_with_them(
    judge: suite.Judge, pack: Pack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(domain_adaptation, "BATCH", 2)  # fewer than there are pictures

    def recoloured(found: Pack, folder: Path) -> None:
        generator = found.generator()
        with torch.no_grad():
            for projection in (generator.to_rgb1, *generator.to_rgbs):
                projection.bias.add_(0.2)
        write_network(folder, "generator", generator, config=CONFIGS["generator"], extra=found.extra("generator"))

    adapted = copied(pack, tmp_path / "adapted", recoloured)
    check_adapted(pack, adapted)
    image = torch.rand(3, 3, 64, 64, generator=torch.Generator().manual_seed(1)) * 2 - 1
    made = suite.run(pack.inverter("hyperstyle"), pack.generator(), image, batch=2)
    found = adapt(judge, made, image, adapted=adapted, text="a cartoon of a face")
    latents = torch.cat([state.latents_BLD for state in made.states])
    with torch.no_grad():
        plain = adapted.generator().synthesis(latents).clamp(-1, 1)
        words = F.normalize(pack.clip().embed_texts(["a cartoon of a face"]), dim=1)[0]
        seen = F.normalize(pack.clip().embed_images(plain), dim=1)
    assert torch.allclose(found.plain_NCHW, plain, atol=1e-5) and not torch.allclose(found.tuned_NCHW, plain, atol=1e-3)
    assert found.plain["identity"] == pytest.approx(float((pack.identity()(plain) * pack.identity()(image)).sum(1).mean()), abs=1e-5)
    assert found.plain["style"] == pytest.approx(float((seen @ words).mean()), abs=1e-5)
    half = adapt(judge, made, image, adapted=adapted, text="a cartoon of a face", strength=0.5)
    with torch.no_grad():
        halved = torch.cat([adapted.generator()(state.scaled(0.5)) for state in made.states]).clamp(-1, 1)
    assert torch.allclose(half.tuned_NCHW, halved, atol=1e-5) and half.plain == found.plain and half.tuned != found.tuned
    still = Inverted(states=[GeneratorState(latents_BLD=latents)], image_NCHW=image, seconds=1.0)
    same = adapt(judge, still, image, adapted=adapted, text="a cartoon of a face")
    assert same.plain == same.tuned


def test_a_generator_of_another_shape_takes_no_offsets(pack: Pack) -> None:
    portraits = Pack.load(Path(__file__).resolve().parents[2] / "packs" / "portraits64")
    with pytest.raises(PackError, match="--adapted .* other layers"):
        check_adapted(pack, portraits)


def test_one_inverter_may_be_measured_with_several_settings(pack: Pack) -> None:
    plan = Plan(inverters=("hyperstyle", "hyperstyle+once"), settings={"hyperstyle+once": {"iterations": 1}})
    methods = plan.methods(pack)
    assert [method.iterations for method in methods.values() if isinstance(method, HyperStyleInverter)] == [5, 1]
    assert {name_of(label) for label in methods} == {"hyperstyle"}
