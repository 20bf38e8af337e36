"""Files of the papers' authors become a pack whose networks give what they gave; files that do not belong together are refused."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import yaml
from torch import nn

from models.clipinverter import CLIPAdapter, CLIPRemapper
from models.discriminator import Discriminator
from models.hypereditor import HyperEditor
from models.inverters import EncoderInverter, HyperStyleInverter
from models.mappers import LevelsMapper
from models.official import MEAN_LATENT
from models.official_pack import MADE_BY
from models.official_perception import ArcFace
from models.official_sources import ELSEWHERE, METHODS, ORIGINS
from models.pack import Pack
from models.stylegan2 import Generator
from pipeline.batch import EditShard, Finished, run_batch
from pipeline.feed import Ready
from pipeline.methods import load_methods
from pipeline.sample import Sample
from pipeline.settings import Wish
from tests.commands import Command, Ended
from tests.models import official_files as made

ROOT = Path(__file__).parents[2]
JOB = "jobs/import_weights.py"
G, MEAN, OTHER_MEAN = made.generator(), made.mean(5), made.mean(6)


def saved(folder: Path, **checkpoints: made.Checkpoint) -> list[str]:
    for name, checkpoint in checkpoints.items():
        torch.save(checkpoint, folder / f"{name}.pt")
    return [str(folder / f"{name}.pt") for name in checkpoints]


def run(command: Command, folder: Path, files: Sequence[str], *flags: str) -> Ended:
    return command(JOB, ["--output", str(folder / "pack"), *flags, "--files", *files])


def refused(ended: Ended, *parts: str) -> None:
    assert ended.code == 2 and not ended.out, ended.err
    assert all(part in ended.err for part in parts), ended.err


def equal(pack: Pack, name: str, wanted: nn.Module) -> bool:
    ours, theirs = pack.network(name, nn.Module).state_dict(), wanted.state_dict()
    return ours.keys() == theirs.keys() and all(torch.equal(ours[key], theirs[key]) for key in ours)


def editor(size: int = 64) -> HyperEditor:
    shape = {"channels": made.channels(size), "input_size": 64, "text_dim": made.TEXT, "inner": 7, **made.RESNET}
    return made.drawn(HyperEditor(size, **shape), 7)


def e4e_file(g: Generator = G, **opts: object) -> made.Checkpoint:
    return made.encoder_file(made.e4e(g.size), g, encoder_type="Encoder4Editing", latent_avg=MEAN, **opts)


def hyperstyle_file(g: Generator = G) -> made.Checkpoint:
    return made.hyperstyle_file(made.hyperstyle(g.size), g, MEAN, layers_to_tune="0,2,3,5", checkpoint_path=Path("runs/x.pt"))


def w_file(g: Generator = G) -> made.Checkpoint:
    return made.encoder_file(made.w_encoder(g.size), g, encoder_type="WEncoder", latent_avg=OTHER_MEAN)


@torch.no_grad()
def test_everything_at_once(tmp_path: Path, command: Command) -> None:
    adapter = made.drawn(CLIPAdapter(widths=(32, 48, 64), groups=32, text_dim=made.TEXT, levels=("fine", "coarse")), 8)
    remapper = made.drawn(CLIPRemapper(64, channels=made.channels(64), style_dim=made.D, text_dim=made.TEXT), 9)
    mapper, arcface = made.drawn(LevelsMapper(style_dim=made.D), 10), made.drawn(ArcFace(embed_dim=9, **made.IRSE), 11)
    discriminator = made.drawn(Discriminator(64, channels=made.channels(64)), 12)
    files = saved(
        tmp_path, e4e=e4e_file(), w=w_file(), hyperstyle=hyperstyle_file(), psp=made.encoder_file(made.psp(), G, encoder_type=None),
        hypereditor=made.hypereditor_file(editor(), G, MEAN), clipinverter=made.clipinverter_file(adapter, remapper, G),
        mapper=made.mapper_file(mapper, G), arcface=arcface.state_dict(),
        stylegan=made.rosinality_file(G, MEAN, discriminator=discriminator),
    )  # fmt: skip
    ended = run(command, tmp_path, files, "--kind", "psp", "--domain", "people", "--threshold_far1", "0.3")
    assert ended.code == 0, ended.err
    pack = Pack.load(tmp_path / "pack")
    wanted = {
        "generator": G, "discriminator": discriminator, "e4e": made.e4e(), "psp": made.psp(), "w_encoder": made.w_encoder(),
        "hyperstyle": made.hyperstyle(), "hypereditor": editor(), "clip_adapter": adapter, "clip_remapper": remapper,
        "styleclip_mapper": mapper, "identity": arcface,
    }  # fmt: skip
    assert list(pack.info.networks) == list(wanted) == ended.result["networks"]
    assert all(equal(pack, name, module) for name, module in wanted.items())
    assert (pack.size, pack.domain, pack.info.name) == (64, "people", "pack") and ended.result["sha256"] == pack.sha256
    assert pack.info.networks["identity"].numbers == {"threshold_far1": 0.3}
    assert torch.equal(pack.mean_latent(), MEAN)
    face = torch.rand(2, 3, 64, 64)
    assert torch.equal(pack.identity()(face), arcface(face)), "the pack's identity network is ArcFace"
    check_inverters(pack)
    check_pipeline(pack)
    said = ended.err
    assert "e4e.pt: generator, e4e (trained with encoder_type Encoder4Editing, stylegan_size 64)" in said
    assert "inverter hyperstyle: complete" in said and "inverter restyle_e4e: lacks restyle_e4e" in said
    assert "missing restyle_e4e: restyle_e4e_ffhq_encode.pt" in said and "yuval-alaluf/restyle-encoder; licence: MIT" in said
    assert ended.result["missing"]["editor hypereditor"] == ["clip"]  # type: ignore[index]


def check_pipeline(pack: Pack) -> None:
    """The pipeline inverts and scores pictures with the pack, which has neither CLIP nor attribute classifier nor landmarks."""
    methods = load_methods(pack, inverter="hyperstyle", editor=None, device="cpu")
    picture = np.full((64, 64, 3), 90, dtype=np.uint8)
    sample = Sample(key="a", shard="a-0", index=0, members={"png": b"", "json": b"{}"}, image_ext="png")
    work = EditShard(Wish(instructions=(), keep=frozenset()))
    (found,) = run_batch([Ready(sample=sample, aligned_HWC=picture)], methods=methods, work=work).samples
    assert isinstance(found, Finished), found
    assert found.rows[0]["identity"] is not None and "collateral" not in found.rows[0]


def check_inverters(pack: Pack) -> None:
    """The pack's inverters give what the authors' own assembly gives: HyperStyle's mean latent counts, not the W encoder's."""
    pictures = torch.rand(1, 3, 256, 256, generator=torch.Generator().manual_seed(3)) * 2 - 1
    plain = EncoderInverter("e4e", made.e4e(), latent_avg=MEAN).invert(pictures)
    assert torch.equal(pack.inverter("e4e").invert(pictures).latents_BLD, plain.latents_BLD)
    whole = HyperStyleInverter("hyperstyle", made.hyperstyle(), encoder=made.w_encoder(), generator=G, latent_avg=MEAN, iterations=2)
    ours, theirs = pack.inverter("hyperstyle", {"iterations": 2}).invert(pictures), whole.invert(pictures)
    assert torch.equal(pack.generator()(ours), G(theirs)) and torch.equal(ours.latents_BLD, theirs.latents_BLD)
    assert torch.equal(pack.extra("w_encoder")[MEAN_LATENT], MEAN)


def test_provenance_names_every_file_and_what_matters(tmp_path: Path, command: Command) -> None:
    files = saved(tmp_path, hyperstyle=hyperstyle_file(), w=w_file())
    ended = run(command, tmp_path, files)
    assert ended.code == 0, ended.err
    index = yaml.safe_load((tmp_path / "pack" / "pack.yaml").read_text())
    first, second = index["provenance"]["sources"]
    assert index["provenance"]["made_by"] == MADE_BY and (first["file"], second["file"]) == ("hyperstyle.pt", "w.pt")
    assert first["networks"] == ["generator", "hyperstyle"] and second["networks"] == ["w_encoder"]
    assert first["options"]["layers_to_tune"] == "0,2,3,5" and "checkpoint_path" not in first["options"]
    assert len(first["sha256"]) == 64 and first["licence"]["yuval-alaluf/hyperstyle"] == "MIT"
    assert "generator: NVIDIA Source Code License-NC" in index["licence"] and "hyperstyle: MIT" in index["licence"].replace(
        "w_encoder, ", ""
    )
    assert "w_encoder: stored with the mean latent of hyperstyle.pt" in ended.err
    assert str(tmp_path) not in (tmp_path / "pack" / "pack.yaml").read_text()


def test_a_generator_without_a_mean_gets_that_of_many_latents(tmp_path: Path, command: Command) -> None:
    ended = run(command, tmp_path, saved(tmp_path, g=made.rosinality_file(G)), "--name", "plain", "--licence", "mine")
    assert ended.code == 0 and "took the mean of 100000 mapped latents" in ended.err
    pack = Pack.load(tmp_path / "pack")
    assert "inverter pti: complete" in ended.err and "inverter gani: lacks e4e" in ended.err
    assert "job edit_dataset, inversions: complete" in ended.err and "identity scores: lacks identity" in ended.err
    assert torch.allclose(pack.mean_latent(), G.mean_latent(100_000)) and (pack.info.name, pack.info.licence) == ("plain", "mine")


def test_half_precision_and_other_noise_are_no_other_generator(tmp_path: Path, command: Command) -> None:
    checkpoint = e4e_file()
    state = checkpoint["state_dict"]
    assert isinstance(state, dict)
    for key, value in state.items():
        state[key] = torch.randn_like(value) if ".noises." in key else value.half() if value.is_floating_point() else value
    ended = run(command, tmp_path, saved(tmp_path, half=checkpoint, full=made.rosinality_file(G, MEAN)))
    assert ended.code == 0 and "half.pt: its generator has other noise than that of full.pt, which counts" in ended.err
    assert equal(Pack.load(tmp_path / "pack"), "generator", G)


def test_generators_that_differ_are_refused_but_for_a_w_encoders(tmp_path: Path, command: Command) -> None:
    other = made.generator(seed=99)
    bare, e4e, two, w = saved(
        tmp_path, bare=made.rosinality_file(G, MEAN), e4e=e4e_file(other), two=made.rosinality_file(other), w=w_file(other)
    )
    refused(run(command, tmp_path, [e4e, bare]), "e4e.pt and", "bare.pt hold different generators", "import the files into two packs")
    refused(run(command, tmp_path, [bare, two]), "two.pt and", "bare.pt hold different generators")
    ended = run(command, tmp_path, [w, bare])
    assert ended.code == 0 and "w.pt: its decoder is not the generator of bare.pt" in ended.err
    assert equal(Pack.load(tmp_path / "pack"), "generator", G)


def test_sizes_that_differ_say_what_was_found_and_expected(tmp_path: Path, command: Command) -> None:
    wide = Generator(64, made.D, 2, channels={**made.channels(64), 64: 12})
    alone = {"state_dict": made.state(hypernet=made.hyperstyle(128)), "opts": {"output_size": 128}}
    narrow = made.hyperstyle(64)
    bare, large, small, other = saved(
        tmp_path, bare=made.rosinality_file(G), large=hyperstyle_file(made.generator(128)), small=alone,
        other=made.hyperstyle_file(narrow, G, MEAN),
    )  # fmt: skip
    refused(
        run(command, tmp_path, [bare, large]), "large.pt: its hyperstyle is for 128 pixels, expected 64, as in the generator of", "bare.pt"
    )
    refused(run(command, tmp_path, [bare, small]), "small.pt: its hyperstyle does not fit the layout")
    (widest,) = saved(tmp_path, widest=made.rosinality_file(wide))
    refused(
        run(command, tmp_path, [widest, other]),
        "other.pt: its hyperstyle takes layer 11 to have 8 to 6 channels, expected 8 to 12 channels",
    )


def test_an_adapter_beside_a_foreign_e4e_and_two_of_a_name_are_refused(tmp_path: Path, command: Command) -> None:
    adapter = made.drawn(CLIPAdapter(widths=(32, 32, 64), text_dim=made.TEXT, levels=("medium",)), 8)
    remapper = made.drawn(CLIPRemapper(64, channels=made.channels(64), style_dim=made.D, text_dim=made.TEXT), 9)
    second = made.encoder_file(made.e4e(seed=44), G, encoder_type="Encoder4Editing", latent_avg=MEAN)
    clip, e4e, again, copy = saved(
        tmp_path, clip=made.clipinverter_file(adapter, remapper, G), e4e=e4e_file(), again=second, copy=e4e_file()
    )
    refused(run(command, tmp_path, [clip, e4e]), "clip_adapter is for medium maps of 32 channels, expected 48", "e4e.pt")
    refused(run(command, tmp_path, [e4e, again]), "e4e.pt and", "again.pt hold different networks 'e4e': a pack has one")
    assert run(command, tmp_path, [e4e, copy]).code == 0


def test_a_mean_latent_of_another_shape_is_refused(tmp_path: Path, command: Command) -> None:
    files = saved(tmp_path, e4e=e4e_file() | {"latent_avg": torch.randn(7, made.D)})
    refused(run(command, tmp_path, files), "e4e.pt: its latent_avg has the shape (7, 12), expected (12,) or (10, 12)")


def test_the_kind_is_for_files_that_do_not_say(tmp_path: Path, command: Command) -> None:
    silent, e4e = saved(tmp_path, silent=made.encoder_file(made.e4e(), G, encoder_type=None, latent_avg=MEAN), e4e=e4e_file())
    refused(run(command, tmp_path, [silent]), "silent.pt: its encoder fits e4e, psp by its keys", "say which with --kind")
    refused(run(command, tmp_path, [e4e], "--kind", "psp"), "--kind psp: no file holds a psp encoder", "e4e.pt holds generator, e4e")
    refused(run(command, tmp_path, [silent], "--kind", "restyle_psp"), "--kind restyle_psp is none of these")
    refused(run(command, tmp_path, [silent], "--kind", "e5e"), "e5e")
    assert run(command, tmp_path, [silent], "--kind", "e4e").code == 0


def test_wrong_files_are_named(tmp_path: Path, command: Command) -> None:
    (tmp_path / "text.pt").write_text("quota exceeded")
    arcface, unknown = saved(tmp_path, arcface=made.drawn(ArcFace(embed_dim=9, **made.IRSE), 11).state_dict(), unknown={"a": torch.ones(1)})
    refused(run(command, tmp_path, [str(tmp_path / "none.pt")]), "none.pt: expected a file that torch.save wrote, found no such file")
    refused(run(command, tmp_path, [str(tmp_path / "text.pt")]), "text.pt: not a file that torch.save wrote, or cut short")
    refused(run(command, tmp_path, [unknown]), "unknown.pt: holds no network that is known here; its keys begin with a")
    refused(run(command, tmp_path, [arcface]), "no generator in any file", "arcface.pt holds identity", "Add a StyleGAN2 file")
    refused(run(command, tmp_path, [arcface, arcface]), "arcface.pt: given twice")
    refused(run(command, tmp_path, []), "--files")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["arcface.pt", "text.pt", "unknown.pt"], "nothing was begun"


def test_only_a_pack_of_this_job_is_replaced(tmp_path: Path, command: Command) -> None:
    files, pack = saved(tmp_path, g=made.rosinality_file(G, MEAN)), tmp_path / "pack"
    pack.mkdir()
    assert run(command, tmp_path, files).code == 0, "an empty folder is taken"
    e4e = saved(tmp_path, e4e=e4e_file())
    assert run(command, tmp_path, e4e).code == 0
    assert sorted(path.name for path in pack.iterdir()) == ["e4e.safetensors", "generator.safetensors", "pack.yaml"]
    (broken,) = saved(tmp_path, broken={"a": torch.ones(1)})
    before = (pack / "pack.yaml").read_bytes()
    refused(run(command, tmp_path, [broken]), "broken.pt")
    assert (pack / "pack.yaml").read_bytes() == before, "what was there stays until the new one is whole"
    (pack / "notes.txt").write_text("mine")
    refused(run(command, tmp_path, files), "holds notes.txt, which this job did not write")
    (pack / "pack.yaml").unlink()
    refused(run(command, tmp_path, files), "the folder is not empty and holds no pack")
    foreign = ["--output", "packs/portraits64", "--files", *files]
    refused(command(JOB, foreign), "holds the pack 'portraits64', which this job did not make")
    (tmp_path / "file").write_text("")
    refused(command(JOB, ["--output", str(tmp_path / "file"), "--files", *files]), "expected a folder, found a file")


def test_the_document_shows_the_table_of_origins() -> None:
    text = (ROOT / "docs" / "official-weights.md").read_text()
    rows = [f"| `{name}` | {origin.files} | {origin.repository} | {origin.licence} |" for name, origin in ORIGINS.items()]
    assert not [row for row in rows if row not in text]
    assert {need for needs in METHODS.values() for need in needs} <= ORIGINS.keys() | ELSEWHERE.keys()
