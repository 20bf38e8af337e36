"""The editing suite's measures against what they must be where the answer is known."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from evaluation import editing_suite as suite
from evaluation.editing_plan import Method, group, networks_of, parameters
from evaluation.editing_sheets import Subject, interpolated, offset_means, swapped
from models.instruction import Instruction
from models.pack import Pack
from models.state import FactorisedOffset, GeneratorState, dense
from tests.models.small_pack import write_small_pack

torch.set_num_threads(1)
SMILE = Instruction(name="smile", source="a face", target="a smiling face", expects={"smile": True})


@pytest.fixture(scope="module")
def pack(tmp_path_factory: pytest.TempPathFactory) -> Pack:
    return Pack.load(write_small_pack(tmp_path_factory.mktemp("pack")))


def state(value: float, *, rows: int = 2, factorised: bool = False) -> GeneratorState:
    offset = torch.full((rows, 3, 4, 1, 1), value)
    parts = FactorisedOffset(out_BO=torch.full((rows, 3), value), in_BI=torch.ones(rows, 4), shared_OI=torch.zeros(3, 4))
    return GeneratorState(latents_BLD=torch.full((rows, 10, 16), value), offsets={2: parts if factorised else offset})


def test_cmp_is_the_cosine_times_what_stayed_of_the_pixels() -> None:
    before, cosine = torch.zeros(3, 3, 4, 4), torch.tensor([0.5, 0.5, -0.2])
    after = torch.stack([before[0], before[1] + 1, before[2]])
    assert suite.cmp(before, after, cosine).tolist() == pytest.approx([0.5, 0.25, -0.2])  # a step of 1 is half of the range


def test_ama_counts_only_what_is_surely_so_for_all_that_is_expected() -> None:
    probability = torch.tensor([[0.95, 0.02], [0.95, 0.2], [0.85, 0.02], [0.1, 0.95]])
    assert suite.ama(probability, ("smile", "hat"), {"smile": True, "hat": False}).tolist() == [1, 0, 0, 0]
    assert suite.ama(probability, ("smile", "hat"), {"smile": True}).tolist() == [1, 1, 0, 0]


def test_instructions_fall_into_attributes_pairs_and_styles() -> None:
    expects = ({"smile": True}, {"smile": True, "hat": True}, {"style_sketch": True})
    instructions = [Instruction(name="one", source="a", target="b", expects=each) for each in expects]
    assert [group(one) for one in instructions] == ["attributes", "pairs", "styles"]


def test_interpolation_ends_at_both_states_and_mixes_their_offsets_between() -> None:
    a, b = state(1.0, factorised=True), state(3.0)
    for eta, value in ((1.0, 1.0), (0.0, 3.0), (0.25, 2.5)):
        mixed = interpolated(a, b, eta)
        assert torch.allclose(dense(mixed.offsets[2]), torch.full((2, 3, 4, 1, 1), value))
        assert torch.allclose(mixed.latents_BLD, torch.full((2, 10, 16), value))
    with pytest.raises(ValueError, match="edit both with the same method"):
        interpolated(a, GeneratorState(latents_BLD=a.latents_BLD), 0.5)


def test_states_join_in_order_and_a_shared_offset_is_repeated() -> None:
    shared = GeneratorState(latents_BLD=torch.zeros(2, 10, 16), offsets={2: torch.ones(1, 3, 4, 1, 1)})
    whole = suite.joined([state(1.0, rows=1), shared, state(5.0, rows=1, factorised=True)])
    assert whole.latents_BLD[:, 0, 0].tolist() == [1, 0, 0, 5] and dense(whole.offsets[2])[:, 0, 0, 0, 0].tolist() == [1, 1, 1, 5]
    with pytest.raises(ValueError, match="other layers"):
        suite.joined([state(1.0), GeneratorState(latents_BLD=torch.zeros(2, 10, 16))])


def test_means_weigh_instructions_alike_and_leave_out_what_some_lack() -> None:
    one = suite.Cell(group="attributes", portraits=4, numbers={"cs": 10.0, "cs_se": 3.0, "fid": 1.0})
    two = suite.Cell(group="attributes", portraits=9, numbers={"cs": 20.0, "cs_se": 4.0})
    assert suite.means([one, two]) == {"cs": 15.0, "cs_se": 2.5} and suite.means([]) == {}


def test_parameters_are_those_that_were_trained() -> None:
    network = nn.Sequential(nn.Linear(3, 5), nn.BatchNorm1d(5))  # running statistics are no parameters
    assert parameters(network) == 3 * 5 + 5 + 5 + 5


def test_an_editor_is_charged_for_its_own_networks_and_not_for_shared_ones(pack: Pack) -> None:
    known = pack.info.networks["hypereditor"]
    info = replace(pack.info, networks={**pack.info.networks, "clip_adapter": known, "clip_remapper": known})
    wanted = {"hypereditor": ["hypereditor"], "clipinverter": ["clip_adapter", "clip_remapper"], "tedigan": [], "interfacegan": []}
    assert {editor: networks_of(info, Method(editor=editor)) for editor in wanted} == wanted
    assert networks_of(info, Method(editor="clipinverter", settings={"remapper": False})) == ["clip_adapter"]


def test_inversions_are_found_once_and_come_in_the_order_asked_for(pack: Pack) -> None:
    pictures = torch.rand(5, 3, 64, 64, generator=torch.Generator().manual_seed(5)) * 2 - 1
    inversions = suite.Inversions(pack.inverter("hyperstyle"), pack.generator(), pictures)
    inversions.rows([0, 1])
    spent = inversions.seconds
    assert spent > 0 and inversions.seconds_each == pytest.approx(spent / 2)
    again = inversions.rows([1, 0])
    assert inversions.seconds == spent and torch.equal(again.aligned_BCHW, pictures[[1, 0]])
    assert torch.allclose(pack.generator()(again.state), again.made_BCHW, atol=1e-4)
    assert torch.allclose(inversions.rows([4, 1]).state.latents_BLD[1], again.state.latents_BLD[0])


def test_an_edit_swapped_has_other_offsets_and_their_sizes_come_by_layer(pack: Pack) -> None:
    inversion = suite.Inversions(pack.inverter("e4e"), pack.generator(), torch.zeros(1, 3, 64, 64)).rows([0])
    subject = Subject(editor=pack.editor("hypereditor"), inversion=inversion, generator=pack.generator())
    there, back = offset_means(subject, [SMILE])["smile"], offset_means(subject, [swapped(SMILE)])["smile"]
    assert there.keys() == back.keys() == subject.state(SMILE).offsets.keys() and there != back
    assert all(size >= 0 for size in there.values()) and swapped(swapped(SMILE)) == SMILE


def test_measuring_needs_neither_ray_nor_mlflow_nor_matplotlib_nor_torchmetrics() -> None:
    heavy = ("ray", "mlflow", "matplotlib", "torchmetrics")
    code = f"import sys, evaluation.editing_run; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=Path(__file__).parents[2])
    assert done.stdout.strip() == "[]"
