"""Writing shards: bytes depend on content alone, other readers understand them, and what goes in comes out."""

import hashlib
import json
import tarfile
import time
from pathlib import Path

import pytest
import webdataset
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.sample import FailedSample, Sample
from pipeline.shards import QuarantineWriter, ShardReader, ShardWriter, WrittenFile
from pipeline.storage import Storage

SAMPLES = {
    "a": {"json": b"{}", "jpg": b"picture"},
    "дом/é": {"smile.png": b"edited", "jpg": b""},
    "k" * 200: {"x" * 120: b"long", "jpg": b"1"},
}

letters = st.characters(exclude_categories=("Cs",), exclude_characters="\0")
bases = st.text(letters, min_size=1, max_size=40).filter(lambda text: not set(text) & set("./"))
keys = st.lists(bases, min_size=1, max_size=3).map("/".join)
extensions = st.text(letters, min_size=1, max_size=12).filter(lambda text: "/" not in text)
members = st.dictionaries(extensions, st.binary(max_size=1500), max_size=4)


def write(url: str, name: str, samples: dict[str, dict[str, bytes]]) -> WrittenFile:
    with ShardWriter(Storage(url), name) as writer:
        for key, parts in samples.items():
            writer.write(key, parts)
    return writer.finished


def test_bytes_depend_on_content_alone(tmp_path: Path) -> None:
    first = write(str(tmp_path / "one"), "x.tar", SAMPLES)
    time.sleep(1.1)  # a tar header counts whole seconds
    turned = {key: dict(reversed(parts.items())) for key, parts in SAMPLES.items()}
    second = write("memory://writer/two", "y.tar", turned)
    assert first == second
    data = (tmp_path / "one" / "x.tar").read_bytes()
    assert first == WrittenFile(sha256=hashlib.sha256(data).hexdigest(), size_bytes=len(data), samples=3)
    assert data == Storage("memory://writer/two").read("y.tar")


def test_the_bytes_do_not_change_between_versions(tmp_path: Path) -> None:
    """A golden digest: a change of it makes every output folder in the world a new one."""
    assert write(str(tmp_path), "x.tar", SAMPLES).sha256 == "65ee359e422e91340cf7b1e4279f31df75d41401fd55fad00bf9acf2240cad7f"


@pytest.mark.filterwarnings("ignore::ResourceWarning")  # webdataset leaves its file open
def test_others_read_what_we_write(tmp_path: Path) -> None:
    write(str(tmp_path), "x.tar", SAMPLES)
    with tarfile.open(tmp_path / "x.tar") as tar:
        infos = tar.getmembers()
    assert [info.name for info in infos] == [f"{key}.{ext}" for key, parts in SAMPLES.items() for ext in sorted(parts)]
    assert {(info.mtime, info.uid, info.gid, info.mode, info.uname) for info in infos} == {(0, 0, 0, 0o644, "")}
    read = list(webdataset.WebDataset(str(tmp_path / "x.tar"), shardshuffle=False))
    assert [(item["__key__"], item["jpg"]) for item in read] == [(key, parts["jpg"]) for key, parts in SAMPLES.items()]


@settings(max_examples=100, deadline=None)
@given(samples=st.dictionaries(keys, members, max_size=4), place=st.sampled_from(["local", "memory"]))
def test_what_goes_in_comes_out(tmp_path_factory: pytest.TempPathFactory, samples: dict[str, dict[str, bytes]], place: str) -> None:
    """Law: write then read is the identity on keys and members, for any names."""
    samples = {key: {**parts, "jpg": b"picture"} for key, parts in samples.items()}
    url = str(tmp_path_factory.mktemp("trip")) if place == "local" else "memory://writer/trip"
    written = write(url, "x.tar", samples)
    with ShardReader(Storage(url).url_of("x.tar"), image_ext="jpg") as reader:
        items = list(reader)
        assert reader.sha256 == written.sha256
        assert (reader.damage is None) == bool(samples)
    assert [item.key for item in items] == list(samples)
    for item in items:
        assert isinstance(item, Sample) and item.members == samples[item.key]


@pytest.mark.parametrize("key", ["", "a/", "a.b", "a\0"])
def test_unusable_keys_are_refused(tmp_path: Path, key: str) -> None:
    with pytest.raises(ValueError, match="no WebDataset key"), ShardWriter(Storage(str(tmp_path)), "x.tar") as writer:
        writer.write(key, {"jpg": b""})


def test_a_key_is_written_once(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="'a' was written before"), ShardWriter(Storage(str(tmp_path)), "x.tar") as writer:
        writer.write("a", {"jpg": b"1"})
        writer.write("a", {"png": b"2"})
    with ShardReader(str(tmp_path / "x.tar")) as reader:
        assert reader.damage is not None and "without an end mark" in reader.damage.reason


def test_quarantine_can_be_fed_back(tmp_path: Path) -> None:
    picture = (("a.jpg", b"1"), ("a.json", b"{}"))
    failed = [
        FailedSample(key="a", shard="s", index=0, stage="align", reason="no face found", members=picture),
        FailedSample(key="a", shard="s", index=7, stage="read", reason="comes again", members=(("a.jpg", b"2"), ("a.jpg", b"3"))),
        FailedSample(key="README", shard="s", index=8, stage="read", reason="no key", members=(("README", b"text"),)),
        FailedSample(key=".h.jpg", shard="s", index=9, stage="read", reason="no key", members=((".h.jpg", b"h"),)),
        FailedSample(key="big", shard="s", index=10, stage="read", reason="too large"),
    ]
    with QuarantineWriter(Storage(str(tmp_path)), "s.tar") as writer:
        for item in failed:
            writer.write_failed(item)
    with ShardReader(str(tmp_path / "s.tar"), image_ext="jpg") as reader:
        items = list(reader)
    assert reader.damage is None and [item.key for item in items] == ["a", "a~7", "README", "_h_jpg", "big"]
    first = items[0]
    assert isinstance(first, Sample) and first.image == b"1"
    entry = json.loads(first.members["quarantine.json"])
    assert entry == {"index": 0, "key": "a", "reason": "no face found", "shard": "s", "stage": "align"}
    second = items[1]
    assert isinstance(second, Sample) and second.members["jpg"] == b"2" and second.members["again.jpg"] == b"3"
    third, fourth = items[2], items[3]
    assert isinstance(third, FailedSample) and ("README.bin", b"text") in third.members
    assert isinstance(fourth, FailedSample) and ("_h_jpg.bin", b"h") in fourth.members
    with QuarantineWriter(Storage(str(tmp_path)), "again.tar") as writer:  # fails a second time: one reason, the newer
        writer.write_failed(FailedSample(key="a", shard="t", index=0, stage="edit", reason="new", members=_members_of(first)))
    with ShardReader(str(tmp_path / "again.tar")) as reader:
        (item,) = reader
    assert isinstance(item, Sample) and json.loads(item.members["quarantine.json"])["reason"] == "new"


def _members_of(item: Sample) -> tuple[tuple[str, bytes], ...]:
    return tuple((f"{item.key}.{ext}", data) for ext, data in item.members.items())
