"""Backends: one is taken only when it computes what eager computes here, and what it does not cover is said."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from models.instruction import Instruction
from models.pack import Pack
from pipeline import backends
from pipeline.backed import BackedEditor, DrawingEditor, covered, on_backend
from pipeline.backend_names import GRAPHS, canonical, mix, per_graph
from pipeline.backends import choose
from pipeline.config import ConfigError, config_hash, parse_config
from pipeline.edit import edit
from pipeline.invert import invert
from pipeline.methods import load_methods
from pipeline.settings import Running
from tests.models.small_pack import write_small_pack
from tests.trt_engines.conftest import cache  # noqa: F401
from trt_engines.batching import Padded
from trt_engines.graphs import BackendError, Graph, Runner, Tensors

SMILE = Instruction(name="smile", source="a face", target="a smiling face", strength=1.7)


@pytest.fixture(scope="module")
def pack(tmp_path_factory: pytest.TempPathFactory) -> Pack:
    return Pack.load(write_small_pack(tmp_path_factory.mktemp("pack")))


def scaling(factor: float) -> Graph:
    """Return a graph whose backends compute `factor` times what eager computes."""
    module = nn.Conv2d(3, 2, 1)

    def wrong(image: Tensor) -> Tensor:
        return module(image) * factor

    module_like = nn.Module()
    module_like.forward = wrong  # type: ignore[method-assign]
    return Graph(
        name="encoder",
        module=module_like,
        plain=lambda image: (module(image),),
        inputs={"image": (3, 4, 4)},
        outputs=("residual",),
        examples=lambda batch, seeded: (torch.randn(batch, 3, 4, 4, generator=seeded),),
    )


def put(monkeypatch: pytest.MonkeyPatch, name: str, *, auto: bool = False) -> None:
    """Let a backend be the graph's own module, in place of a library that this machine may lack."""
    monkeypatch.setattr(backends, "LOADERS", {**backends.LOADERS, name: "tests.pipeline.test_backends:load_module"})
    if auto:
        monkeypatch.setattr(backends, "CANDIDATES", {"cpu": (name,)})


def load_module(graph: Graph, *, device: str, batch_size: int) -> Padded:
    def run(*inputs: Tensor) -> Tensors:
        return (graph.module(*inputs),)

    return Padded(run, sizes=[batch_size])


def test_a_backend_that_agrees_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    put(monkeypatch, "compile")
    choice = choose("compile", [scaling(1.0)], device="cpu", batch_size=4)
    assert choice.name == "compile" and set(choice.runners) == {"encoder"} and not choice.notes


@pytest.mark.parametrize(
    ("factor", "said"), [(1.01, "differs from eager by 0.01 of its largest value in a batch of 1"), (float("nan"), "not finite")]
)
def test_a_backend_that_computes_something_else_is_refused(monkeypatch: pytest.MonkeyPatch, factor: float, said: str) -> None:
    put(monkeypatch, "compile", auto=True)
    with pytest.raises(BackendError, match=f"--backend compile: the encoder.*{said}"):
        choose("compile", [scaling(factor)], device="cpu", batch_size=4)
    fallen = choose("auto", [scaling(factor)], device="cpu", batch_size=4)
    assert fallen.name == "eager" and not fallen.runners
    assert said in fallen.notes[0] and "--backend auto takes eager" in fallen.notes[-1]


def test_auto_takes_for_every_graph_what_is_fastest_and_nothing_that_is_no_faster_than_eager(monkeypatch: pytest.MonkeyPatch) -> None:
    put(monkeypatch, "compile")
    put(monkeypatch, "onnxruntime")
    monkeypatch.setattr(backends, "CANDIDATES", {"cpu": ("onnxruntime", "compile")})
    graphs = [replace(scaling(1.0), name=name) for name in ("encoder", "trunk", "heads", "generator")]
    speeds = {"encoder": (1.2, 1.5), "trunk": (0.8, 1.3), "heads": (2.0, 1.1), "generator": (0.6, 1.02)}
    tried: list[str] = []

    def speedup(graph: Graph, runner: object, *, device: str, batch_size: int) -> float:
        tried.append(graph.name)
        return speeds[graph.name][tried.count(graph.name) - 1]

    monkeypatch.setattr(backends, "speedup", speedup)
    choice = choose("auto", graphs, device="cpu", batch_size=4)
    assert choice.name == "encoder=compile,trunk=compile,heads=onnxruntime" and set(choice.runners) == {"encoder", "trunk", "heads"}
    assert "encoder 1.50 times as fast as eager" in choice.notes[-1] and "heads 2.00" in choice.notes[-1]
    assert "--backend compile: generator works and is no faster than eager here: 1.02 times its speed" in choice.notes
    again = choose(choice.name, graphs, device="cpu", batch_size=4)
    assert again.name == choice.name and set(again.runners) == set(choice.runners)


def test_speed_is_that_of_runs_that_take_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    times = iter([9.0, 9.0] + [0.2, 0.1, 0.4, 0.1, 0.2, 0.3, 0.2, 0.1, 0.3, 0.1])
    monkeypatch.setattr(backends, "_seconds", lambda *_, device: next(times))
    graph = scaling(1.0)
    assert backends.speedup(graph, load_module(graph, device="cpu", batch_size=2), device="cpu", batch_size=2) == pytest.approx(2.0)


def test_the_trunk_looks_at_a_picture_once_for_all_instructions(pack: Pack) -> None:
    plain = pack.editor("hypereditor")
    graphs = covered(pack.inverter("e4e"), plain, pack.generator()).graphs
    calls: list[str] = []

    def counting(graph: Graph) -> Runner:
        def run(*inputs: Tensor) -> Tensors:
            calls.append(graph.name)
            return graph.plain(*inputs)

        return run

    by_name = {graph.name: graph for graph in graphs}
    inversion = invert(pack.inverter("e4e"), pack.generator(), torch.rand(2, 3, 64, 64) * 2 - 1)
    for kind, last in ((BackedEditor, []), (DrawingEditor, ["generator"])):
        editor = kind(plain, by_name, {name: counting(graph) for name, graph in by_name.items()})  # type: ignore[arg-type]
        calls.clear()
        for instruction in (SMILE, replace(SMILE, target="an old face")):
            found = edit(editor, pack.generator(), inversion, instruction=instruction)
            expected = edit(plain, pack.generator(), inversion, instruction=instruction)
            assert float((found - expected).abs().max()) < 1e-4 * float(expected.abs().max())
        assert calls == ["trunk", "heads", *last, "heads", *last]


@pytest.mark.parametrize("wanted", ["trunk=onnxruntime", "heads=onnxruntime", "encoder=onnxruntime,generator=onnxruntime"])
def test_any_mix_of_graphs_makes_the_pictures_of_eager(pack: Pack, wanted: str, capsys: pytest.CaptureFixture[str]) -> None:
    aligned = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(1)) * 2 - 1
    made = []
    for name in ("eager", wanted):
        methods = load_methods(pack, inverter="e4e", editor="hypereditor", device="cpu", running=Running(backend=name, batch_size=2))
        inversion = invert(methods.inverter, pack.generator(), aligned)
        assert methods.editor is not None
        made.append(edit(methods.editor, pack.generator(), inversion, instruction=SMILE))
        assert methods.running.backend == name
    assert methods.names.backend == f"{wanted} on cpu, torch-cpu"
    assert float((made[0] - made[1]).abs().max()) < 1e-4 * float(made[0].abs().max())


def test_a_library_that_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backends, "LOADERS", {"tensorrt": "no_such_library_here:load"})
    with pytest.raises(BackendError, match="--backend tensorrt: a library is missing: No module named 'no_such_library_here'"):
        choose("tensorrt", [scaling(1.0)], device="cpu", batch_size=4)


def test_batches_are_padded_and_split() -> None:
    seen: list[int] = []

    def run(value: Tensor) -> Tensors:
        seen.append(len(value))
        return (value * 2, value + 1)

    padded = Padded(run, sizes=[1, 4])
    for batch in (1, 2, 4, 9):
        value = torch.arange(batch * 2.0).reshape(batch, 2)
        twice, more = padded(value)
        assert torch.equal(twice, value * 2) and torch.equal(more, value + 1)
    assert seen == [1, 4, 4, 4, 4, 1]


def test_a_run_on_onnx_runtime_makes_the_pictures_of_eager(pack: Pack, capsys: pytest.CaptureFixture[str]) -> None:
    made: dict[str, Tensor] = {}
    latents: dict[str, Tensor] = {}
    aligned = torch.rand(3, 3, 64, 64, generator=torch.Generator().manual_seed(1)) * 2 - 1
    for name in ("eager", "onnxruntime"):
        methods = load_methods(pack, inverter="e4e", editor="hypereditor", device="cpu", running=Running(backend=name, batch_size=3))
        inversion = invert(methods.inverter, pack.generator(), aligned)
        assert methods.editor is not None
        made[name] = edit(methods.editor, pack.generator(), inversion, instruction=SMILE)
        latents[name] = inversion.state.latents_BLD
        assert methods.names.backend == {"eager": "torch-cpu", "onnxruntime": "onnxruntime-cpu"}[name] and methods.running.backend == name
    assert torch.allclose(latents["eager"], latents["onnxruntime"], atol=1e-5) and not torch.equal(inversion.made_BCHW, made["eager"])
    assert float((made["eager"] - made["onnxruntime"]).abs().max()) < 1e-4 * float(made["eager"].abs().max())
    assert "WARNING" not in capsys.readouterr().err


@pytest.mark.parametrize(
    ("inverter", "editor", "backend", "said"),
    [
        ("e4e", "sefa", "onnxruntime-cpu (encoder), torch-cpu", "stays eager: editor sefa: only a HyperEditor"),
        (
            "hyperstyle",
            "hypereditor",
            "onnxruntime-cpu (trunk, heads), torch-cpu",
            "stays eager: generator: its graph starts",
        ),
        ("w_encoder", None, "onnxruntime-cpu", ""),
    ],
)
def test_what_a_backend_does_not_cover_stays_eager_and_is_said(
    pack: Pack, capsys: pytest.CaptureFixture[str], inverter: str, editor: str | None, backend: str, said: str
) -> None:
    chosen = pack.editor(editor) if editor else None
    run = on_backend(pack.inverter(inverter), chosen, pack.generator(), wanted="onnxruntime", device="cpu", batch_size=2)
    assert run.backend == backend and run.used == ("eager" if backend == "torch-cpu" else "onnxruntime")
    heard = capsys.readouterr().err
    assert said in heard and heard.count("stays eager") == len(run.notes) and bool(run.notes) is bool(said)


def test_a_wrong_backend_is_answered_with_the_nearest(tmp_path: Path) -> None:
    flags = ["--input", str(tmp_path), "--output", str(tmp_path / "out"), "--keep", "latents", "--backend", "onnx"]
    with pytest.raises(ConfigError, match="--backend onnx: did you mean 'onnxruntime'. valid: auto, compile, eager, onnxruntime, tensorrt"):
        parse_config(flags)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("encoder=fast", "'encoder=fast': expected GRAPH=NAME, each graph once, of encoder, trunk, heads, generator and eager, compile"),
        ("mapper=compile", "'mapper=compile': expected GRAPH=NAME"),
        ("heads=compile,heads=eager", "'heads=eager': expected GRAPH=NAME, each graph once"),
    ],
)
def test_a_wrong_mix_is_answered_with_what_there_is(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(ConfigError, match=f"--backend {text}: {said}"):
        parse_config(["--input", str(tmp_path), "--output", str(tmp_path / "out"), "--keep", "latents", "--backend", text])


def test_a_mix_has_one_spelling() -> None:
    same = ["encoder=compile,heads=onnxruntime", "heads=onnxruntime, encoder=compile", "trunk=eager,heads=onnxruntime,encoder=compile"]
    assert {canonical(text) for text in same} == {same[0]} and mix(per_graph(same[0])) == same[0]
    assert canonical("heads=eager") == "eager" and canonical("auto") == "auto" and canonical("nonsense") == "nonsense"
    assert canonical(",".join(f"{graph}=onnxruntime" for graph in GRAPHS)) == "onnxruntime" == canonical("onnxruntime")
    configs = [parse_config(["--input", "a", "--output", "b", "--keep", "latents", "--backend", text]) for text in same]
    assert len({config_hash(config, []) for config in configs}) == 1


def test_a_graph_that_the_run_does_not_have_is_said(pack: Pack) -> None:
    run = on_backend(pack.inverter("e4e"), None, pack.generator(), wanted="heads=onnxruntime", device="cpu", batch_size=2)
    assert run.used == "eager" and run.backend == "torch-cpu" and "no graph for heads" in run.notes[0]
