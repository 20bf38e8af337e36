"""Reading shards: whatever a file holds, nothing raises, nothing is lost, and every failure says what and where."""

import io
import pickle
import tarfile
from pathlib import Path

import fsspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from pipeline.images import Limits, decode_image
from pipeline.sample import Damage, FailedSample, Sample, SampleFailure, ShardFailure
from pipeline.shards import ShardReader
from tests.pipeline.bad_inputs import BadInput, build_bad_inputs, encoded, sample, tar_bytes


def portrait() -> bytes:
    """A picture with detail, so that its JPEG has a length worth cutting."""
    noise = np.random.default_rng(0).integers(0, 255, (20, 20, 3), dtype=np.uint8)
    return encoded(Image.fromarray(noise).resize((120, 120), Image.Resampling.BICUBIC))


@pytest.fixture(scope="module")
def bad_inputs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, tuple[BadInput, ...]]:
    folder = tmp_path_factory.mktemp("bad")
    return folder, build_bad_inputs(folder, portrait())


def read(path: Path | str, **options: object) -> tuple[list[Sample | FailedSample], ShardReader]:
    with ShardReader(str(path), **options) as reader:  # type: ignore[arg-type]
        items = list(reader)
        assert len(items) == len(reader)
    return items, reader


def verdicts(path: Path) -> tuple[dict[str, Sample], list[FailedSample], ShardReader]:
    """Read and decode; return what is good, what failed, and the reader."""
    items, reader = read(path)
    good: dict[str, Sample] = {}
    failed: list[FailedSample] = []
    for item in items:
        try:
            if isinstance(item, Sample):
                assert decode_image(item.image).shape[2] == 3
                good[item.key] = item
            else:
                failed.append(item)
        except SampleFailure as failure:
            failed.append(item.failed(failure))
    return good, failed, reader


def test_every_bad_input_is_told_apart(bad_inputs: tuple[Path, tuple[BadInput, ...]]) -> None:
    folder, cases = bad_inputs
    for case in cases:
        good, failed, reader = verdicts(folder / case.file)
        assert tuple(good) == (*case.no_face, *case.good), case.name
        assert [item.key for item in failed] == list(case.failed), case.name
        for item in failed:
            stage, reason = case.failed[item.key]
            assert item.stage == stage and reason in item.reason, f"{case.name}: {item.reason}"
        assert bool(reader.damage) == bool(case.damage), case.name
        if reader.damage is not None:
            assert case.damage in reader.damage.reason, case.name
            assert reader.name in str(reader.damage) and "expected" in str(reader.damage) and "byte" in str(reader.damage)


def test_failed_samples_carry_the_original_bytes(bad_inputs: tuple[Path, tuple[BadInput, ...]]) -> None:
    folder, cases = bad_inputs
    for name in ("duplicate_keys", "two_pictures", "bad_pictures", "no_key"):
        case = next(case for case in cases if case.name == name)
        with tarfile.open(folder / case.file) as tar:
            stored = [(member.name, tar.extractfile(member).read()) for member in tar]  # type: ignore[union-attr]
        good, failed, _ = verdicts(folder / case.file)
        kept = [member for item in failed for member in item.members]
        passed = [(f"{key}.{ext}", data) for key, item in good.items() for ext, data in item.members.items()]
        assert sorted(kept + passed) == sorted(stored), name


def test_indices_count_every_sample_in_order(bad_inputs: tuple[Path, tuple[BadInput, ...]]) -> None:
    folder, _ = bad_inputs
    items, _ = read(folder / "bad_pictures.tar")
    assert [item.index for item in items] == list(range(7))
    assert {item.shard for item in items} == {"bad_pictures"}


def test_damage_names_the_byte(tmp_path: Path) -> None:
    whole = tar_bytes([*sample("a", b"1" * 100), *sample("b", b"2" * 100)])
    path = tmp_path / "x.tar"
    path.write_bytes(whole[:2048] + b"?" * 512 + whole[2560:])
    _, reader = read(path)
    assert reader.damage is not None and reader.damage.damage.offset == 2048
    assert reader.damage.damage.unread_bytes == len(whole) - 2048


def test_interleaved_members_come_together_and_it_is_said(bad_inputs: tuple[Path, tuple[BadInput, ...]]) -> None:
    folder, _ = bad_inputs
    items, reader = read(folder / "interleaved.tar")
    assert [sorted(item.members) for item in items] == [["jpg", "json"], ["jpg", "json"]]
    assert "put together" in reader.notes[0]


def test_one_picture_can_be_named(bad_inputs: tuple[Path, tuple[BadInput, ...]]) -> None:
    folder, _ = bad_inputs
    items, _ = read(folder / "two_pictures.tar", image_ext="v2.jpg")
    assert isinstance(items[0], Sample) and items[0].image_ext == "v2.jpg" and set(items[0].passed_through) == {"v1.jpg", "json"}
    assert isinstance(items[1], FailedSample) and "holds no member 'v2.jpg'" in items[1].reason


def test_large_members_stay_out_of_memory(tmp_path: Path) -> None:
    path = tmp_path / "x.tar"
    path.write_bytes(tar_bytes([*sample("big", bytes(3 << 20)), *sample("small", portrait())]))
    items, _ = read(path, limits=Limits(member_mb=2))
    assert isinstance(items[0], FailedSample) and "3145728 bytes" in items[0].reason and "limit is 2 MiB" in items[0].reason
    assert items[0].members == () and isinstance(items[1], Sample)
    items, _ = read(path, limits=Limits(sample_mb=2))
    assert isinstance(items[0], FailedSample) and "the sample has" in items[0].reason


def test_a_tar_bomb_is_stopped(tmp_path: Path) -> None:
    path = tmp_path / "x.tar.gz"
    with fsspec.open(str(path), "wb", compression="gzip") as file:
        file.write(tar_bytes(sample("a", bytes(1 << 20))))
    _, reader = read(path, limits=Limits(shard_gb=0))
    assert reader.damage is not None and "more than the limit of 0 GiB" in reader.damage.reason


@pytest.mark.parametrize("compression", ["gzip", "bz2", "xz"])
def test_a_compressed_shard_cut_late_gives_what_came_before(tmp_path: Path, compression: str) -> None:
    noise = [np.random.default_rng(seed).bytes(60_000) for seed in range(3)]
    path = tmp_path / "x.tar"
    with fsspec.open(str(path), "wb", compression=compression) as file:
        file.write(tar_bytes([(f"k{number}.jpg", data) for number, data in enumerate(noise)]))
    whole, _ = read(path)
    assert len(whole) == 3
    path.write_bytes(path.read_bytes()[:-70_000])
    items, reader = read(path)
    assert reader.damage is not None and "stream is cut or damaged" in reader.damage.reason
    if compression == "gzip":  # the blocks of the others are larger than this shard
        assert isinstance(items[0], Sample) and items[0].image == noise[0]
        failed = items[1]
        assert isinstance(failed, FailedSample) and noise[1].startswith(failed.members[0][1]) and len(failed.members[0][1]) > 40_000


def test_remote_shards_read_like_local_ones(tmp_path: Path, bad_inputs: tuple[Path, tuple[BadInput, ...]]) -> None:
    folder, cases = bad_inputs
    for case in cases:
        if case.name == "huge_picture":
            continue
        data = (folder / case.file).read_bytes()
        fsspec.filesystem("memory").pipe_file(f"/reader/{case.file}", data)
        local, local_reader = read(folder / case.file)
        remote, remote_reader = read(f"memory://reader/{case.file}")
        assert remote == local and remote_reader.sha256 == local_reader.sha256
        assert str(remote_reader.damage) == str(local_reader.damage)


def test_a_missing_shard_is_a_shard_failure(tmp_path: Path) -> None:
    with pytest.raises(ShardFailure, match="shard gone.*cannot be opened: FileNotFoundError"), ShardReader(str(tmp_path / "gone.tar")):
        pass


def test_failures_travel_between_processes() -> None:
    for failure in (SampleFailure("decode", "a reason"), ShardFailure("x", Damage(reason="cut", offset=5))):
        copy = pickle.loads(pickle.dumps(failure))  # noqa: S301
        assert str(copy) == str(failure) and vars(copy) == vars(failure)


WHOLE = [*sample("a", b"A" * 700), *sample("dir/b", b"B" * 512), *sample("c" * 150, b"C")]


@pytest.mark.parametrize("tar_format", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_a_cut_anywhere_is_seen(tmp_path: Path, tar_format: int) -> None:
    """Law: samples handed out are whole, and damage is told exactly when the end mark is gone."""
    data = tar_bytes(WHOLE, tar_format=tar_format)
    end = len(tar_bytes(WHOLE, tar_format=tar_format, closed=False))
    stored = dict(WHOLE)
    path = tmp_path / "x.tar"
    for cut in range(0, end + 1100, 37):
        path.write_bytes(data[:cut])
        items, reader = read(path)
        assert (reader.damage is None) == (cut >= end + 512), cut
        for item in items:
            if isinstance(item, Sample):
                assert item.members == {ext: stored[f"{item.key}.{ext}"] for ext in ("jpg", "json")}, cut


@settings(max_examples=150, deadline=None)
@given(offset=st.integers(0, 6000), junk=st.binary(min_size=1, max_size=600))
def test_scribbles_never_raise(tmp_path_factory: pytest.TempPathFactory, offset: int, junk: bytes) -> None:
    """Law: overwrite any part of a shard, and reading it still ends, with every sample either handed out or failed."""
    data = bytearray(tar_bytes(WHOLE))
    data[offset : offset + len(junk)] = junk
    path = tmp_path_factory.mktemp("scribble") / "x.tar"
    path.write_bytes(data)
    items, reader = read(path)
    for item in items:
        assert isinstance(item, Sample) or item.reason
    missing = {"a", "dir/b", "c" * 150} - {item.key for item in items}
    assert not missing or reader.damage is not None or any(item.key not in ("a", "dir/b", "c" * 150) for item in items)


def test_pictures_of_the_reader_are_decodable(bad_inputs: tuple[Path, tuple[BadInput, ...]]) -> None:
    folder, _ = bad_inputs
    items, _ = read(folder / "good.tar")
    assert isinstance(items[0], Sample)
    assert np.array_equal(decode_image(items[0].image), np.asarray(Image.open(io.BytesIO(portrait()))))
