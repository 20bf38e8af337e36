"""Finding shards: what a user may name, and what is said when it is not there."""

from pathlib import Path

import fsspec
import pytest

from pipeline.shards import InputError, list_shards, shard_name


@pytest.fixture
def data(tmp_path: Path) -> Path:
    folder = tmp_path / "data"
    folder.mkdir()
    for name in ("b-0001.tar", "a-0000.tar", "c.tar.gz", "d.TGZ", "notes.txt"):
        (folder / name).write_bytes(b"")
    (folder / "sub").mkdir()
    (folder / "sub" / "e.tar").write_bytes(b"")
    return folder


def names(spec: object) -> list[str]:
    return [shard.name for shard in list_shards(str(spec))]


def test_all_ways_to_name_shards(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert names(data) == names(f"{data}/") == ["a-0000", "b-0001", "c", "d"]
    assert names(f"{data}/*.tar") == ["a-0000", "b-0001"]
    assert names(f"{data}/?-000[01].tar") == ["a-0000", "b-0001"]
    assert names(data / "b-0001.tar") == ["b-0001"]
    assert names(data / "notes.txt") == ["notes.txt"]
    assert names(f"{data}/b-0001.tar, {data}/sub ,{data}/b-0001.tar") == ["b-0001", "e"]
    (data / "b-0002.tar").write_bytes(b"")
    assert names(f"{data}/b-{{0001..0002}}.tar") == ["b-0001", "b-0002"]
    monkeypatch.chdir(data.parent)
    assert [shard.url for shard in list_shards("data/sub")] == [str(data / "sub" / "e.tar")]


def test_urls(data: Path) -> None:
    memory = fsspec.filesystem("memory")
    for name in ("x.tar", "y.tar"):
        memory.pipe_file(f"/listing/{name}", b"")
    for spec in ("memory://listing", "memory://listing/*.tar", "memory://listing/x.tar,memory://listing/y.tar"):
        shards = list_shards(spec)
        assert [shard.name for shard in shards] == ["x", "y"]
        assert all(fsspec.open(shard.url).open().read() == b"" for shard in shards)
    assert names(f"file://{data}/c.tar.gz") == ["c"]


def test_names() -> None:
    assert shard_name("s3://bucket/a.b/part-1.tar.gz") == "part-1"
    assert shard_name("/x/.tar") == ".tar"


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("", "is empty"),
        ("{data}/nope/deeper", "no such file or folder.*data exists and holds.*a-0000.tar"),
        ("{data}/a-9999.tar", "no such file or folder.*holds a-0000.tar"),
        ("{data}/*.zip", "no file matches.*holds a-0000.tar"),
        ("{data}/b-{{0001..0003}}.tar", "b-0002.tar: there is no such file"),
        ("{data}/b-{{3..1}}.tar", "must go up"),
        ("{data}/a-0000.tar,{data}/other/a-0000.tar.gz", "both called 'a-0000'"),
        ("{data}/hollow", "holds no shard. Looked for [*].tar.*found nothing"),
        ("{data}/outer", "found readme.md. It has a folder 'shards': did you mean .*outer/shards"),
        ("nosuch://bucket/x", "cannot be opened.*nosuch"),
    ],
)
def test_what_is_missing_is_told(data: Path, spec: str, message: str) -> None:
    (data / "other").mkdir()
    (data / "other" / "a-0000.tar.gz").write_bytes(b"")
    (data / "hollow").mkdir()
    (data / "outer" / "shards").mkdir(parents=True)
    (data / "outer" / "shards" / "x.tar").write_bytes(b"")
    (data / "outer" / "readme.md").write_bytes(b"")
    with pytest.raises(InputError, match=message):
        list_shards(spec.format(data=data))
