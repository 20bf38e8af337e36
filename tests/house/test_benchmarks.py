"""What the benchmarks count and compare: the work of an operation, and two forms of one edit."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from benchmarks import gpu, measure
from benchmarks.editing_step import Step, heads, multiplied_out, peak
from benchmarks.factorised import always_factorised, as_released, layer
from benchmarks.roofline import PEAKS, Peak, counted, measured_peak, peak_of
from models import modulated_conv, stylegan2
from models.encoders import Encoder4Editing
from models.hypereditor import HyperEditor
from models.modulated_conv import ModulatedConv
from models.stylegan2 import Generator
from pipeline.precision import HALVES
from trt_engines.graphs import BackendError, Graph, Runner

CHANNELS = {4: 48, 8: 48, 16: 16, 32: 8, 64: 8}


@pytest.fixture(scope="module")
def step() -> Step:
    torch.manual_seed(0)
    shape = {"widths": (8, 8, 8, 16), "depths": (1, 1, 1, 1), "inner": 8, "input_size": 64}
    net = HyperEditor(64, channels=CHANNELS, **shape).eval().requires_grad_(False)  # type: ignore[arg-type]
    generator = Generator(64, 24, 2, channels=CHANNELS).eval().requires_grad_(False)
    return Step(net=net, generator=generator, features_BCHW=torch.randn(3, 16, 4, 4), latents_BLD=torch.randn(3, 10, 24))


def test_both_forms_make_the_same_pictures_and_leave_the_generator_as_it_was(step: Step) -> None:
    before, cached = ModulatedConv.forward, stylegan2.CACHED
    ours, theirs = step.ours(), step.theirs()
    assert 0 < (ours - theirs).abs().max() < 1e-5 * theirs.abs().max()
    plain = step.generator.synthesis(step.latents_BLD)
    with as_released():
        assert ModulatedConv.forward is not before and stylegan2.CACHED > 1 << 40
        assert 0 < (step.generator.synthesis(step.latents_BLD) - plain).abs().max() < 1e-5 * plain.abs().max()
    assert cached == stylegan2.CACHED and ModulatedConv.forward is before
    offsets = multiplied_out(step.net, step.features_BCHW)
    assert {index: tuple(offset.shape[:3]) for index, offset in offsets.items()} == {
        layer.index: (3, layer.out_channels, layer.in_channels) for layer in step.net.tuned
    }


def test_single_convolutions_are_measured_in_every_form_and_settings_come_back() -> None:
    heavy = modulated_conv.HEAVY_KERNELS
    found = layer(8, batch=2, rounds=1)
    assert set(found) == {"layer_8_x2", "up_8_x2", "dense_layer_8_x2", "dense_up_8_x2"} and all(value > 0 for value in found.values())
    assert set(layer(4, batch=1, rounds=1)) == {"layer_4_x1", "dense_layer_4_x1"}
    with always_factorised():
        assert modulated_conv.HEAVY_KERNELS == 0
    assert heavy == modulated_conv.HEAVY_KERNELS > 0


@torch.no_grad()
def test_heads_multiply_far_less(step: Step) -> None:
    assert heads(step) > 5


def test_work_is_counted_operation_by_operation() -> None:
    a, b = torch.randn(4, 8), torch.randn(8, 16)
    work = counted(lambda: (a @ b).view(-1).relu())
    assert work.flops == 2 * 4 * 8 * 16 and work.bytes == 4 * (4 * 8 + 8 * 16 + 4 * 16) + 4 * 2 * 64
    peak = Peak(flops=1024.0, bytes=1e9)
    assert work.bound_s(peak) == pytest.approx(1.0, rel=1e-4)
    slow = Peak(flops=1e12, bytes=1408.0)
    assert work.bound_s(slow) == pytest.approx(1.0)


def test_devices_are_known_by_name() -> None:
    assert peak_of("NVIDIA H200") is PEAKS["H200"] and peak_of("NVIDIA L40S") is PEAKS["L40S"] and peak_of("Tesla T4") is PEAKS["T4"]
    assert peak_of("NVIDIA A100-SXM4-40GB") is PEAKS["A100"] and peak_of("NVIDIA H100 80GB HBM3") is PEAKS["H100"]
    assert [peak_of(name) for name in ("NVIDIA L40", "NVIDIA T400 4GB", "NVIDIA H100 PCIe", "NVIDIA H100 NVL", "Quadro")] == [None] * 5


def test_without_a_gpu_the_benchmark_says_so(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("sys.argv", ["gpu"])
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert gpu.main() == 2 and "no GPU on this machine" in capsys.readouterr().err


def small_networks() -> gpu.Networks:
    torch.manual_seed(0)
    shape = {"widths": (8, 8, 8, 16), "depths": (1, 1, 1, 1), "input_size": 64}
    return gpu.Networks(
        encoder=Encoder4Editing(64, style_dim=24, **shape).eval().requires_grad_(False),  # type: ignore[arg-type]
        net=HyperEditor(64, channels=CHANNELS, inner=8, **shape).eval().requires_grad_(False),  # type: ignore[arg-type]
        generator=Generator(64, 24, 2, channels=CHANNELS).eval().requires_grad_(False),
        direction_1E=torch.randn(1, 512) * 0.1,
    )


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_the_gpu_benchmark_tries_out_on_a_cpu_every_stage_and_backend(monkeypatch: pytest.MonkeyPatch, precision: str) -> None:
    def load(name: str, graph: Graph, *, device: str, batch_size: int) -> Runner:
        if graph.name == "heads":
            raise BackendError("--backend compile: no compiler")
        return graph.plain

    monkeypatch.setattr(gpu, "load_checked", load)
    monkeypatch.setattr(gpu, "measured_peak", lambda device, kind: Peak(flops=1e12, bytes=1e10))
    monkeypatch.setattr(gpu, "speedup", lambda graph, runner, *, device, batch_size: 1.2 if graph.name == "trunk" else 0.9)
    networks = small_networks()
    found, about = gpu.measured(networks, gpu.Options(size=64, batch=2, rounds=1, precision=precision, device="cpu"))  # type: ignore[arg-type]
    assert networks.generator.kind == HALVES[precision] and about["peak"] == "measured" and about["peak_tflops"] == 1.0
    stages = ("encoder", "first_picture", "hypernetwork", "edited_picture")
    assert {f"{figure}_{stage}" for figure in ("share", "issued", "roofline") for stage in stages} <= set(found)
    assert {"compile_encoder", "compile_trunk", "compile_generator"} <= set(found) and "compile_heads" not in found
    assert all(value > 0 for value in found.values())
    # One convolution per layer is less than what factorised offsets issue.
    best_s = 1 / max(found["images_per_s"], found["images_per_s_compiled"])
    assert found["utilisation"] * best_s < found["issued"] / found["images_per_s"]
    assert found["speedup"] == pytest.approx(1 / best_s / found["images_per_s_released"])


@torch.no_grad()
def test_the_gpu_benchmark_edits_the_same_picture_in_every_form() -> None:
    networks, image = small_networks(), torch.randn(2, 3, 64, 64).clamp(-1, 1)
    released = networks.theirs(image)
    networks.generator.halved(torch.bfloat16)
    ours = networks.ours(image, torch.bfloat16)
    graphs = networks.compiled(image, {graph.name: graph.plain for graph in networks.graphs(torch.bfloat16)})
    staged = networks.stages(image, torch.bfloat16)["edited_picture"]()
    assert isinstance(staged, torch.Tensor) and torch.equal(staged, ours)
    for found in (ours, graphs):
        assert 0 < (found - released).abs().max() < 0.05 * released.abs().max()


def test_a_device_that_is_not_listed_is_held_against_what_it_reaches() -> None:
    found = measured_peak("cpu", torch.float32)
    assert 1e8 < found.flops < 1e15 and 1e7 < found.bytes < 1e13


def test_figures_are_held_against_floors_and_ceilings_and_only_where_they_were_measured(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(measure, "FLOORS", tmp_path / "floors.yaml")
    (tmp_path / "floors.yaml").write_text("speed: {ratio: 1.5, memory: 0.3, other: 2}\n")
    assert measure.conclude("speed", {"ratio": 1.6, "memory": 0.2}, at_most=["memory"], about={"device": "cpu"}) == 0
    assert json.loads(capsys.readouterr().out) == {
        "benchmark": "speed", "device": "cpu", "ratio": 1.6, "memory": 0.2, "floors": {"ratio": 1.5, "memory": 0.3, "other": 2},
        "unmeasured": ["other"], "missed": [],
    }  # fmt: skip
    assert measure.conclude("speed", {"ratio": 1.4, "memory": 0.4}, at_most=["memory"]) == 1
    assert json.loads(capsys.readouterr().out)["missed"] == ["ratio", "memory"]
    assert measure.conclude("speed", {"ratio": 1.4}, judged=False) == 0


@pytest.mark.gpu
def test_the_gpu_benchmark_measures_both_forms() -> None:
    found, about = gpu.measured(gpu.Networks.released(256, device="cuda"), gpu.Options(size=256, batch=4, rounds=2, compiled=False))
    assert found["speedup"] > 1 and found["images_per_s"] > 0 and about["device"]


@pytest.mark.gpu
@torch.no_grad()
def test_the_other_benchmarks_run_on_a_gpu() -> None:
    assert set(layer(8, batch=2, rounds=1, device="cuda")) == {"layer_8_x2", "up_8_x2", "dense_layer_8_x2", "dense_up_8_x2"}
    step = Step.released(64, 2, device="cuda")
    assert (step.ours() - step.theirs()).abs().max() < 1e-2 * step.theirs().abs().max()
    assert 0 < peak("ours", 64, 2, device="cuda") < peak("theirs", 64, 2, device="cuda")
