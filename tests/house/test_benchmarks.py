"""What the benchmarks count and compare: the work of an operation, and two forms of one edit."""

from __future__ import annotations

import pytest
import torch

from benchmarks import gpu
from benchmarks.editing_step import Step, beyond, heads, multiplied_out
from benchmarks.factorised import always_factorised, grouped, layer
from benchmarks.roofline import PEAKS, Peak, counted, peak_of
from models import modulated_conv, stylegan2
from models.hypereditor import HyperEditor
from models.stylegan2 import Generator

CHANNELS = {4: 48, 8: 48, 16: 16, 32: 8, 64: 8}


@pytest.fixture(scope="module")
def step() -> Step:
    torch.manual_seed(0)
    shape = {"widths": (8, 8, 8, 16), "depths": (1, 1, 1, 1), "inner": 8, "input_size": 64}
    net = HyperEditor(64, channels=CHANNELS, **shape).eval().requires_grad_(False)  # type: ignore[arg-type]
    generator = Generator(64, 24, 2, channels=CHANNELS).eval().requires_grad_(False)
    return Step(net=net, generator=generator, features_BCHW=torch.randn(3, 16, 4, 4), latents_BLD=torch.randn(3, 10, 24))


def test_both_forms_make_the_same_pictures_and_leave_the_generator_as_it_was(step: Step) -> None:
    before, cached = modulated_conv.convolve_looped, stylegan2.CACHED
    ours, theirs = step.ours(), step.theirs()
    assert (ours - theirs).abs().max() < 1e-5 * theirs.abs().max() and modulated_conv.convolve_looped is before
    with grouped():
        assert modulated_conv.convolve_looped is modulated_conv.convolve_grouped and stylegan2.CACHED > 1 << 40
    assert cached == stylegan2.CACHED
    offsets = multiplied_out(step.net, step.features_BCHW)
    assert {index: tuple(offset.shape[:3]) for index, offset in offsets.items()} == {
        layer.index: (3, layer.out_channels, layer.in_channels) for layer in step.net.tuned
    }


def test_single_convolutions_are_measured_in_every_form_and_settings_come_back() -> None:
    heavy = modulated_conv.HEAVY_KERNELS
    found = layer(8, batch=2, rounds=1)
    assert set(found) == {"layer_8_x2", "up_8_x2", "dense_8_x2"} and all(value > 0 for value in found.values())
    with always_factorised():
        assert modulated_conv.HEAVY_KERNELS == 0
    assert heavy == modulated_conv.HEAVY_KERNELS > 0


@torch.no_grad()
def test_heads_multiply_far_less(step: Step) -> None:
    assert heads(step) > 5


def test_memory_is_held_to_at_most_its_floor_and_the_rest_to_at_least() -> None:
    assert beyond({"memory_256_x8": 0.4, "step": 1.0}, {"memory_256_x8": 0.33, "step": 1.5}) == ["memory_256_x8", "step"]
    assert beyond({"memory_256_x8": 0.3, "step": 1.6}, {"memory_256_x8": 0.33, "step": 1.5}) == []


def test_work_is_counted_operation_by_operation() -> None:
    a, b = torch.randn(4, 8), torch.randn(8, 16)
    work = counted(lambda: (a @ b).view(-1).relu())
    assert work.flops == 2 * 4 * 8 * 16 and work.bytes == 4 * (4 * 8 + 8 * 16 + 4 * 16) + 4 * 2 * 64
    peak = Peak(flops=1024.0, bytes=1e9)
    assert work.bound_s(peak) == pytest.approx(1.0, rel=1e-4)
    slow = Peak(flops=1e12, bytes=1408.0)
    assert work.bound_s(slow) == pytest.approx(1.0)


def test_devices_are_known_by_name() -> None:
    assert peak_of("NVIDIA H200") is PEAKS["H200"] and peak_of("NVIDIA L40S") is PEAKS["L40S"] and peak_of("Quadro") is None


def test_without_a_gpu_the_benchmark_says_so(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("sys.argv", ["gpu"])
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert gpu.main() == 2 and "no GPU on this machine" in capsys.readouterr().err


@pytest.mark.gpu
def test_the_gpu_benchmark_measures_both_forms() -> None:
    found = gpu.measured(gpu.Options(size=256, batch=4, rounds=2))
    assert float(found["speedup"]) > 1 and float(found["images_per_s"]) > 0
