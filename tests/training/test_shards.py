"""Training data from shards: the pipeline's samples and pixels, in any order, on any filesystem; what is broken is named."""

from __future__ import annotations

import gzip
import io
import pickle
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import fsspec
import numpy as np
import pytest
import torch
from PIL import Image

from pipeline.images import decode_image
from pipeline.sample import Sample, SampleFailure
from pipeline.shards import InputError, ShardReader, ShardWriter, list_shards
from pipeline.storage import Storage
from tests.pipeline.bad_inputs import build_bad_inputs, encoded, tar_bytes
from training.shard_files import ShardFile, ShardFiles, Span
from training.shards import DataError, ShardPictures, sample_rows

SIZE = 32


def noise(seed: int, width: int = 40, height: int = 40) -> Image.Image:
    coarse = np.random.default_rng(seed).integers(0, 255, (6, 6, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)


def npy(seed: int, shape: tuple[int, ...] = (4, 8), kind: str = "float32") -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, np.random.default_rng(seed).normal(size=shape).astype(kind), allow_pickle=False)
    return buffer.getvalue()


def write(url: str | Path, name: str, samples: Mapping[str, Mapping[str, bytes]]) -> None:
    with ShardWriter(Storage(str(url)), name) as shard:
        for key, members in samples.items():
            shard.write(key, members)


def output_sample(number: int) -> dict[str, bytes]:
    """Return what edit_dataset leaves of a sample with --keep latents inversion original."""
    small = {name: encoded(noise(number * 10 + i, SIZE, SIZE), "PNG") for i, name in enumerate(("aligned", "smile", "hat", "inversion"))}
    return {f"{name}.png": data for name, data in small.items()} | {
        "jpg": encoded(noise(number)), "edits.json": b"{}", "latents.npy": npy(number), "input.aligned.png": small["hat"],
    }  # fmt: skip


def decodes(sample: Sample) -> bool:
    try:
        return decode_image(sample.image) is not None
    except SampleFailure:
        return False


@pytest.fixture
def memory() -> Iterator[str]:
    yield "memory://training/shards"
    fsspec.filesystem("memory").rm("/training", recursive=True)


def test_pixels_are_those_of_the_pipelines_decoder(tmp_path: Path) -> None:
    pictures = [encoded(noise(i, SIZE, SIZE), kind) for i, kind in enumerate(("JPEG", "PNG", "WEBP", "BMP"))]
    write(tmp_path, "a.tar", {f"{i:02d}": {ext: pictures[i], "txt": b"x"} for i, ext in enumerate(("jpg", "png", "webp", "bmp"))})
    data = ShardPictures.open(str(tmp_path), size=SIZE)
    expected = np.stack([decode_image(picture) for picture in pictures])
    rows = torch.tensor([3, 0, 2, 1, 0])
    found = data.pictures(rows)
    assert found.dtype == torch.uint8 and found.is_contiguous()
    assert torch.equal(found.permute(0, 2, 3, 1), torch.from_numpy(expected[rows.numpy()]))
    assert data.pictures(torch.tensor([], dtype=torch.int64)).shape == (0, 3, SIZE, SIZE)


def test_rows_are_the_samples_that_the_pipeline_can_decode_in_its_order(tmp_path: Path) -> None:
    for case in build_bad_inputs(tmp_path, encoded(noise(0, 120, 120))):
        assert (tmp_path / case.file).exists()
    data = ShardPictures.open(str(tmp_path), size=SIZE)
    good: list[str] = []
    for shard in list_shards(str(tmp_path)):
        with ShardReader(shard.url) as reader:
            good += [f"{reader.name}/{item.key}" for item in reader if isinstance(item, Sample) and decodes(item)]
    usable: list[str] = []
    for row in range(len(data)):
        shard_name, _, key = data.name(row).partition("/")
        try:
            data.pictures(torch.tensor([row]))
            usable.append(data.name(row))
        except DataError as error:
            assert f"shard {shard_name}, sample {key!r}: " in str(error) and "edit_dataset.py" in str(error)
    assert usable == good
    assert not {f"{shard}/{key}" for shard, key, reason in data.left_out if "comes again" not in reason} & set(good)


def test_a_damaged_shard_gives_what_lies_before_the_damage(tmp_path: Path) -> None:
    members = [(f"{i}.png", encoded(noise(i), "PNG")) for i in range(4)]
    whole = tar_bytes(members)
    (tmp_path / "cut.tar").write_bytes(whole[: whole.index(members[3][1]) + 10])
    (tmp_path / "none.tar").write_bytes(b"<html>not found</html>" * 100)
    data = ShardPictures.open(str(tmp_path), size=SIZE)
    assert data.keys == ("0", "1", "2") and data.shard_rows == (3, 0)
    assert [(shard, key) for shard, key, _ in data.left_out] == [("cut", "3"), ("cut", ""), ("none", "")]
    assert "cut short" in data.left_out[0][2] and "not a tar archive" in data.left_out[2][2]


def test_duplicate_odd_and_ambiguous_samples_are_treated_as_in_the_pipeline(tmp_path: Path) -> None:
    one, two = encoded(noise(1), "PNG"), encoded(noise(2), "PNG")
    members = [("a.png", one), ("b.txt", b"x"), ("a.txt", b"joined"), ("a.png", two), ("d/é.v1.png", two), ("c.png", one), ("c.jpg", one)]
    (tmp_path / "odd.tar").write_bytes(tar_bytes(members))
    data = ShardPictures.open(str(tmp_path), size=SIZE)
    assert data.keys == ("a", "d/é")
    assert torch.equal(
        data.pictures(torch.tensor([0])), ShardPictures.open(str(tmp_path), size=SIZE, check=False).pictures(torch.tensor([0]))
    )
    reasons = {key: reason for _, key, reason in data.left_out}
    assert "comes again" in reasons["a"] and "no picture" in reasons["b"] and "2 pictures" in reasons["c"]
    assert ShardPictures.open(str(tmp_path), size=SIZE, image_ext="jpg").keys == ("c",)


def test_output_of_the_pipeline_gives_aligned_faces_and_latents(tmp_path: Path) -> None:
    samples = {f"{i:03d}": output_sample(i) for i in range(3)}
    write(tmp_path, "0.tar", samples | {"900": {"aligned.png": samples["000"]["aligned.png"], "edits.json": b"{}"}})
    write(tmp_path, "1.tar", {"stripped": {"smile.png": samples["000"]["smile.png"], "edits.json": b"{}"}})
    data = ShardPictures.open(str(tmp_path), size=SIZE, latents=True)
    assert data.keys == ("000", "001", "002")
    rows = torch.tensor([2, 0])
    for place, key in enumerate(("002", "000")):
        assert np.array_equal(data.pictures(rows)[place].permute(1, 2, 0), decode_image(samples[key]["aligned.png"]))
        assert np.array_equal(data.latents(rows)[place], np.load(io.BytesIO(samples[key]["latents.npy"])))
    assert data.latents(rows).dtype == torch.float32 and data.latents(rows).shape == (2, 4, 8)
    reasons = {key: reason for _, key, reason in data.left_out}
    assert "--keep latents" in reasons["900"] and "lost its aligned.png" in reasons["stripped"]
    assert len(ShardPictures.open(str(tmp_path), size=SIZE)) == 4
    with pytest.raises(DataError, match="latents=True"):
        ShardPictures.open(str(tmp_path), size=SIZE).latents(rows)


def test_unusable_latents_are_left_out(tmp_path: Path) -> None:
    picture = encoded(noise(0), "PNG")
    bad = {"c": npy(0, (3, 8)), "d": npy(0, kind="float64"), "e": npy(0)[:-4], "f": b"text", "g": npy(0, (8,))}
    latents = {"a": npy(0), "b": npy(1)} | bad
    write(tmp_path, "0.tar", {key: {"png": picture, "latents.npy": stored} for key, stored in latents.items()})
    data = ShardPictures.open(str(tmp_path), size=SIZE, latents=True)
    assert data.keys == ("a", "b") and {key for _, key, _ in data.left_out} == set("cdefg")
    late = ShardPictures.open(str(tmp_path), size=SIZE, latents=True, check=False)
    for row in range(2, 7):
        with pytest.raises(DataError, match=rf"shard 0, sample '{late.keys[row]}'.*latents.npy"):
            late.latents(torch.tensor([row]))


def test_nothing_to_train_on_is_refused_with_a_way_out(tmp_path: Path) -> None:
    write(tmp_path, "0.tar", {"a": {"png": encoded(noise(0), "PNG")}, "b": {"txt": b""}})
    with pytest.raises(DataError, match=r"found none in 1 shards, 2 left out.*jobs/edit_dataset.py --keep latents"):
        ShardPictures.open(str(tmp_path), size=SIZE, latents=True)
    with pytest.raises(InputError, match="--data .*no such file"):
        ShardPictures.open(str(tmp_path / "missing"), size=SIZE)


def test_a_picture_damaged_behind_its_header_is_named_when_it_is_read(tmp_path: Path) -> None:
    good = encoded(noise(0, 200, 200), "PNG")
    write(tmp_path, "0.tar", {"good": {"png": good}, "half": {"png": good[: len(good) // 2]}, "text": {"png": b"no picture at all"}})
    data = ShardPictures.open(str(tmp_path), size=SIZE)
    assert data.keys == ("good", "half") and data.left_out[0][:2] == ("0", "text")
    with pytest.raises(DataError, match="shard 0, sample 'half': the picture is damaged.*quarantine.*write the shard again"):
        data.pictures(torch.tensor([0, 1]))


def test_other_sizes_are_cut_to_the_centred_square_upright_and_without_aliasing(tmp_path: Path) -> None:
    wide = Image.new("RGB", (300, 100), "red")
    wide.paste("blue", (100, 0, 200, 100))
    wide.paste("white", (100, 0, 200, 50))
    turned = Image.Exif()
    turned[0x0112] = 6  # shown turned by 90 degrees, clockwise
    buffer = io.BytesIO()
    wide.save(buffer, "JPEG", exif=turned, quality=95, subsampling=0)
    stripes = Image.fromarray(np.tile(np.array([[[0] * 3, [255] * 3]], np.uint8), (128, 64, 1)))
    write(
        tmp_path,
        "0.tar",
        {"exif": {"jpg": buffer.getvalue()}, "plain": {"png": encoded(wide, "PNG")}, "x": {"png": encoded(stripes, "PNG")}},
    )
    exif, plain, fine = ShardPictures.open(str(tmp_path), size=SIZE).pictures(torch.arange(3)).float()
    white, blue = torch.tensor([255.0] * 3), torch.tensor([0.0, 0.0, 255.0])
    assert torch.allclose(plain[:, 2, SIZE // 2], white, atol=8) and torch.allclose(plain[:, -3, 2], blue, atol=8)
    assert torch.allclose(exif[:, SIZE // 2, -3], white, atol=8) and torch.allclose(exif[:, SIZE // 2, 2], blue, atol=8)
    assert (fine[:, :, 4:-4] - 127.5).abs().max() < 3


def test_remote_compressed_and_pickled_shards_read_the_same(tmp_path: Path, memory: str) -> None:
    samples = {f"{i:03d}": {"png": encoded(noise(i), "PNG"), "latents.npy": npy(i)} for i in range(6)}
    write(tmp_path / "plain", "0.tar", samples)
    write(memory, "0.tar", samples)
    (tmp_path / "gz").mkdir()
    (tmp_path / "gz" / "0.tar.gz").write_bytes(gzip.compress((tmp_path / "plain" / "0.tar").read_bytes()))
    rows = torch.tensor([4, 1, 5, 1])
    local = ShardPictures.open(str(tmp_path / "plain"), size=SIZE, latents=True)
    for other in (str(tmp_path / "gz" / "0.tar.gz"), memory):
        data = ShardPictures.open(other, size=SIZE, latents=True)
        assert data.keys == local.keys
        for copy in (data, pickle.loads(pickle.dumps(data))):  # noqa: S301 - made here
            assert torch.equal(copy.pictures(rows), local.pictures(rows)) and torch.equal(copy.latents(rows), local.latents(rows))
    assert ShardPictures.open(memory, size=SIZE, latents=True).fingerprint == local.fingerprint


def test_the_fingerprint_tells_other_data(tmp_path: Path) -> None:
    def fingerprint(name: str, samples: Mapping[str, Mapping[str, bytes]]) -> str:
        for old in tmp_path.iterdir():
            old.unlink()
        write(tmp_path, name, samples)
        return ShardPictures.open(str(tmp_path), size=SIZE).fingerprint

    picture, longer = encoded(noise(0), "PNG"), encoded(noise(0, 64, 64), "PNG")
    first = fingerprint("0.tar", {"a": {"png": picture}})
    assert fingerprint("0.tar", {"a": {"png": picture}}) == first
    others = [("1.tar", {"a": {"png": picture}}), ("0.tar", {"b": {"png": picture}}), ("0.tar", {"a": {"png": longer}})]
    assert len({first, *(fingerprint(name, samples) for name, samples in others)}) == 4


def test_workers_together_load_the_batch_that_one_loads(tmp_path: Path) -> None:
    for shard in range(3):
        write(tmp_path, f"{shard}.tar", {f"{shard}{i}": {"png": encoded(noise(shard * 5 + i), "PNG")} for i in range(5)})
    data = ShardPictures.open(str(tmp_path), size=SIZE)
    for step in range(5):
        rows = sample_rows(step, batch=8, n=len(data), seed=3, window=2, shard_rows=data.shard_rows)
        alone = data.pictures(rows)
        for workers in (2, 4):
            assert torch.equal(torch.cat([data.pictures(own) for own in rows.split(8 // workers)]), alone)


def test_threads_may_read_while_few_files_are_open(tmp_path: Path) -> None:
    content = {shard: bytes([shard]) * 1000 for shard in range(8)}
    for shard, data in content.items():
        (tmp_path / f"{shard}.tar").write_bytes(data)
    paths = [tmp_path / f"{shard}.tar" for shard in content]
    files = ShardFiles([ShardFile(name=path.stem, url=str(path), size_bytes=1000) for path in paths], most_open=2)
    spans = [Span(shard % 8, shard, 100) for shard in range(200)]
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(lambda span: files.read([span])[0], spans)) == [content[span.shard][:100] for span in spans]


def test_a_shard_that_changed_since_it_was_opened_is_noticed(tmp_path: Path, memory: str) -> None:
    for url in (str(tmp_path), memory):
        write(url, "0.tar", {f"{i}": {"png": encoded(noise(i, 90, 90), "PNG")} for i in range(3)})
        data = ShardPictures.open(url, size=SIZE)
        with Storage(url).fs.open(Storage(url).path("0.tar"), "wb") as file:
            file.write(b"shorter")
        with pytest.raises(DataError, match="shard 0 changed since it was opened: expected .* found"):
            data.pictures(torch.tensor([2]))


def test_a_row_that_is_not_there_is_refused(tmp_path: Path) -> None:
    write(tmp_path, "0.tar", {"a": {"png": encoded(noise(0), "PNG")}})
    data = ShardPictures.open(str(tmp_path), size=SIZE)
    for row in (-1, 1):
        with pytest.raises(IndexError, match=f"row {row}: expected 0 to 0"):
            data.pictures(torch.tensor([row]))
