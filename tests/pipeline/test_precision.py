"""Half precision in a run: pictures within a stated distance of float32's, states in float32, refusals, and what `auto` comes to."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from models.instruction import Instruction
from models.pack import Pack
from models.perceptual import PerceptualDistance
from models.state import FactorisedOffset, GeneratorState
from pipeline import backends, batch_probe, methods, precision
from pipeline.batch_probe import fitting_batch
from pipeline.config import ConfigError, parse_config
from pipeline.edit import edit
from pipeline.invert import invert
from pipeline.methods import load_methods
from pipeline.precision_names import needs_float32
from pipeline.settings import Running
from tests.models.small_pack import write_small_pack
from trt_engines.graphs import Graph, Runner

PACK = Path(__file__).parents[2] / "packs" / "portraits64"
SMILE = Instruction(name="smile", source="a face", target="a smiling face")
PSNR_DB = {"float16": 52.0, "bfloat16": 50.0}
LPIPS = {"float16": 1e-3, "bfloat16": 2e-3}
"""How far a whole edit in half precision, encoder and hypernetwork included, may be from float32 (docs/performance.md)."""


def edited(running: Running, *, inverter: str) -> tuple[Tensor, GeneratorState]:
    pack = Pack.load(PACK)  # anew: a halved generator stays halved
    loaded = load_methods(pack, inverter=inverter, editor="hypereditor", device="cpu", running=running)
    w = pack.generator().mapping(torch.randn(6, 128, generator=torch.Generator().manual_seed(3)))
    with torch.no_grad():
        aligned = Pack.load(PACK).generator().synthesis(pack.generator().repeat(w)).clamp(-1, 1)
        inversion = invert(loaded.inverter, pack.generator(), aligned)
        assert loaded.editor is not None
        picture = edit(loaded.editor, pack.generator(), inversion, instruction=SMILE)
    return picture, loaded.editor.edit(inversion, SMILE)


@pytest.mark.parametrize("inverter", ["e4e", "hyperstyle"])
@pytest.mark.parametrize("kind", ["bfloat16", "float16"])
def test_a_whole_edit_is_that_of_float32_to_a_stated_distance(kind: str, inverter: str) -> None:
    half, state = edited(Running(precision=kind), inverter=inverter)  # type: ignore[arg-type]
    whole, reference = edited(Running(), inverter=inverter)
    assert half.dtype == torch.float32 and state.latents_BLD.dtype == torch.float32
    for index, offset in state.offsets.items():
        assert isinstance(offset, FactorisedOffset) == isinstance(reference.offsets[index], FactorisedOffset)
        assert (offset.out_BO if isinstance(offset, FactorisedOffset) else offset).dtype == torch.float32
    assert not torch.equal(half, whole)
    db = -10 * torch.log10(((half - whole) / 2).square().mean())
    assert float(db) > PSNR_DB[kind]
    assert float(PerceptualDistance()(half.clamp(-1, 1), whole.clamp(-1, 1)).max()) < LPIPS[kind]


@pytest.mark.parametrize("kind", ["bfloat16", "float16"])
def test_graphs_of_a_backend_edit_in_half_precision_too(monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    """A backend that runs a graph's module as it is stands for what compiles it: what is compiled is tested beside the compiler."""
    monkeypatch.setitem(backends.LOADERS, "compile", f"{__name__}:as_it_is")
    half, state = edited(Running(precision=kind, backend="compile"), inverter="e4e")  # type: ignore[arg-type]
    whole, _ = edited(Running(), inverter="e4e")
    eager, _ = edited(Running(precision=kind), inverter="e4e")  # type: ignore[arg-type]
    assert half.dtype == torch.float32 and state.latents_BLD.dtype == torch.float32
    assert not torch.equal(half, whole) and not torch.equal(half, eager)
    db = -10 * torch.log10(((half - whole) / 2).square().mean())
    assert float(db) > PSNR_DB[kind]
    assert float(PerceptualDistance()(half.clamp(-1, 1), whole.clamp(-1, 1)).max()) < LPIPS[kind]


def as_it_is(graph: Graph, *, device: str, batch_size: int) -> Runner:
    def run(*inputs: Tensor) -> tuple[Tensor, ...]:
        made = graph.module(*inputs)
        return made if isinstance(made, tuple) else (made,)

    return run


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (
            ["--precision", "bfloat16", "--backend", "onnxruntime"],
            "--precision bfloat16: onnxruntime computes in float32 on CPUs; leave it out of",
        ),
        (
            ["--precision", "float16", "--backend", "heads=onnxruntime,trunk=compile"],
            "--precision float16: onnxruntime computes in float32",
        ),
        (["--precision", "float16", "--inverter", "gani"], "--precision float16: --inverter gani takes gradients through the generator"),
        (["--precision", "float16", "--editor", "stylemc"], "--precision float16: --editor stylemc takes gradients through the generator"),
        (["--precision", "half"], "precision"),
        (["--batch_size", "0"], "--batch_size 0: expected 1 or more"),
        (["--batch_size", "many"], "batch_size"),
    ],
)
def test_what_does_not_go_together_is_refused(tmp_path: Path, flags: list[str], said: str) -> None:
    common = ["--input", str(tmp_path), "--output", str(tmp_path / "out"), "--instructions", "smile: a face -> a smiling face"]
    with pytest.raises(ConfigError, match=said):
        parse_config([*common, *flags])


@pytest.mark.parametrize(("amx", "wanted"), [(True, "bfloat16"), (False, "float32")])
def test_auto_takes_what_the_processor_multiplies_matrices_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, amx: bool, wanted: str
) -> None:
    monkeypatch.setattr(precision.torch.cpu, "_is_amx_tile_supported", lambda: amx)
    pack = Pack.load(write_small_pack(tmp_path / "pack"))
    loaded = load_methods(pack, inverter="e4e", editor="hypereditor", device="cpu", running=Running(precision="auto"))
    assert loaded.running.precision == wanted
    assert loaded.names.backend == ("torch-cpu bfloat16" if amx else "torch-cpu")
    tuned = load_methods(pack, inverter="gani", editor=None, device="cpu", running=Running(precision="auto"))
    assert tuned.running.precision == "float32" and needs_float32(backend="auto", inverter="gani", editor=None)


def test_auto_for_all_takes_half_precision_the_batch_that_fits_and_no_backend_without_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(precision.torch.cpu, "_is_amx_tile_supported", lambda: True)
    monkeypatch.setattr(methods, "fitting_batch", lambda run, *, device, part: run(2) or 8)
    monkeypatch.setattr(backends, "CANDIDATES", {"cpu": ("onnxruntime",)})  # to compile all graphs takes a minute
    pack = Pack.load(write_small_pack(tmp_path / "pack"))
    asked = Running(backend="auto", precision="auto", batch_size="auto")
    assert asked.open
    loaded = load_methods(pack, inverter="e4e", editor="hypereditor", device="cpu", running=asked, instructions=(SMILE,))
    assert loaded.running == Running(backend="eager", precision="bfloat16", batch_size=8) and not loaded.running.open
    assert "onnxruntime computes in float32 on CPUs, and graph encoder is in torch.bfloat16" in loaded.backend_notes[0]


@pytest.mark.parametrize(
    ("gib", "each_mib", "part", "wanted"), [(80, 200, 1.0, 64), (8, 1000, 1.0, 4), (8, 1000, 0.5, 2), (1, 5000, 1.0, 1), (16, 300, 1.0, 32)]
)
def test_the_batch_is_the_largest_power_of_two_that_fits(
    monkeypatch: pytest.MonkeyPatch, gib: int, each_mib: int, part: float, wanted: int
) -> None:
    ran: list[int] = []

    def peak(run: Callable[[], object]) -> int:
        run()
        return (100 + each_mib * ran[-1]) * 2**20

    monkeypatch.setattr(batch_probe, "cuda_peak", peak)
    monkeypatch.setattr(batch_probe, "memory_bytes", lambda device: gib * 2**30)
    assert fitting_batch(ran.append, device="cuda", part=part) == wanted
    assert ran == [1, 1, 4]


M_MMAP_MAX = -4
"""Of malloc.h."""


def test_the_probe_of_a_cpu_sees_what_a_batch_takes() -> None:
    def run(batch: int) -> int:
        return int(torch.ones(batch * 50 * 2**20, dtype=torch.uint8)[-1])

    def peaks() -> list[int]:
        return [batch_probe.resident_peak(lambda batch=batch: run(batch)) for batch in (1, 4)]  # type: ignore[misc]

    small, large = peaks()
    assert 100 * 2**20 < large - small < 220 * 2**20  # up to the whole of the larger batch, where the heap had room for the smaller one
    ctypes.CDLL(None).mallopt(M_MMAP_MAX, 0)  # some libraries do: the heap then keeps what was freed below what is in use
    try:
        below, above = torch.ones(400 * 2**20, dtype=torch.uint8), torch.ones(2**20, dtype=torch.uint8)
        del below
        small, large = peaks()
    finally:
        ctypes.CDLL(None).mallopt(M_MMAP_MAX, 65536)
    assert above.numel() and 100 * 2**20 < large - small < 220 * 2**20
    assert 1 <= fitting_batch(run, device="cpu", part=1.0) <= 16
    assert batch_probe.memory_bytes("cpu") > 2**20
