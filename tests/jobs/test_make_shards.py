"""A folder of pictures becomes shards that the pipeline and trainings read: same bytes each time, and nothing vanishes without a word."""

from __future__ import annotations

import io
import json
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from jobs import make_shards as job
from jobs.make_shards import find_pictures
from pipeline.shard_writer import ShardWriter
from training.shards import ShardPictures

ROOT = Path(__file__).parents[2]


def picture(colour: int, kind: str = "JPEG") -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.full((40, 48, 3), colour, dtype=np.uint8)).save(buffer, kind)
    return buffer.getvalue()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return five pictures in two folders among files that are none."""
    files = {
        "alice.jpg": picture(10), "bob.v2.PNG": picture(20, "PNG"), "alice.png": picture(30, "PNG"),
        "more/alice.webp": picture(40, "WEBP"), "more/z.jpeg": picture(50),
        "notes.txt": b"who is who", "broken.jpg": b"no picture at all", ".DS_Store": b"\0\0\0\1",
    }  # fmt: skip
    for name, data in files.items():
        path = tmp_path / "pictures" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return tmp_path / "pictures"


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "jobs" / "make_shards.py"), *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


def contents(shards: Path) -> dict[str, dict[str, bytes]]:
    found: dict[str, dict[str, bytes]] = {}
    for path in sorted(shards.iterdir()):
        with tarfile.open(path) as tar:
            found[path.name] = {member.name: tar.extractfile(member).read() for member in tar}  # type: ignore[union-attr]
    return found


def test_every_picture_is_in_a_shard_untouched_and_the_rest_is_counted_and_named(folder: Path, tmp_path: Path) -> None:
    ended = run("--input", folder, "--output", tmp_path / "shards", "--shard_size", 2)
    assert ended.returncode == 0, ended.stderr
    result = json.loads(ended.stdout.splitlines()[-1])
    assert {name: result[name] for name in ("pictures", "left_out", "shards")} == {"pictures": 5, "left_out": 3, "shards": 3}
    names = {"alice.jpg": "alice.jpg", "alice~2.png": "alice.png", "bob_v2.png": "bob.v2.PNG"}
    names |= {name: name for name in ("more/alice.webp", "more/z.jpeg")}
    found = contents(tmp_path / "shards")
    assert [len(members) for members in found.values()] == [2, 2, 1]
    assert {k: v for members in found.values() for k, v in members.items()} == {k: (folder / v).read_bytes() for k, v in names.items()}
    assert all(f"left out {name}: " in ended.stderr for name in ("notes.txt", "broken.jpg", ".DS_Store"))
    assert "'no picture at all'" in ended.stderr


def test_a_training_reads_all_of_them(folder: Path, tmp_path: Path) -> None:
    assert run("--input", folder, "--output", tmp_path / "shards").returncode == 0
    pictures = ShardPictures.open(str(tmp_path / "shards"), size=32)
    assert pictures.keys == ("alice", "alice~2", "bob_v2", "more/alice", "more/z") and not pictures.left_out


def test_the_same_pictures_give_the_same_bytes_and_old_shards_do_not_stay(folder: Path, tmp_path: Path) -> None:
    for name, size in (("a", 1), ("a", 3), ("b", 3)):
        assert run("--input", folder, "--output", tmp_path / name, "--shard_size", size).returncode == 0
    a, b = ({path.name: path.read_bytes() for path in (tmp_path / name).iterdir()} for name in "ab")
    assert a == b and sorted(a) == ["pictures-00000.tar", "pictures-00001.tar"]


def test_the_order_in_which_a_folder_is_listed_does_not_matter() -> None:
    names = ["b/x.jpg", "a.b.jpg", "a_b.jpg", "a.jpg", "a.png"]
    assert find_pictures(names) == find_pictures(names[::-1])
    keys = [picture.key for picture in find_pictures(names)[0]]
    assert keys == ["a_b", "a", "a~2", "a_b~2", "b/x"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--input", "{0}/nowhere", "--output", "{0}/out"), "expected a folder with pictures, found nothing"),
        (("--input", "{0}/pictures/notes.txt", "--output", "{0}/out"), "expected a folder with pictures, found a file"),
        (("--input", "{0}/pictures", "--output", "{0}/pictures/shards"), "lies in --input"),
        (("--input", "{0}/pictures", "--output", "{0}/taken"), "holds mine.tar, which this command did not write"),
        (("--input", "{0}/taken", "--output", "{0}/out"), "no picture among 1 files"),
        (("--input", "{0}/pictures", "--output", "{0}/out", "--shard_size", "0"), "--shard_size 0: expected 1 or more"),
    ],
)
def test_wrong_arguments_are_refused_in_a_sentence(folder: Path, tmp_path: Path, arguments: tuple[str, ...], said: str) -> None:
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "mine.tar").write_bytes(b"precious")
    ended = run(*(argument.format(tmp_path) for argument in arguments))
    assert ended.returncode == 2 and said in ended.stderr and "Traceback" not in ended.stderr
    assert (tmp_path / "taken" / "mine.tar").read_bytes() == b"precious" and not list(folder.rglob("*.tar"))


def test_what_cannot_be_read_is_left_out_counted_and_named(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "aa.jpg").symlink_to(tmp_path / "nowhere.jpg")
    result = job.make_shards(job.Options(input=str(folder), output=str(tmp_path / "shards")))
    assert (result["pictures"], result["left_out"]) == (5, 4)
    assert "left out aa.jpg: the file cannot be read: No such file" in capsys.readouterr().err


def test_old_shards_stay_until_there_are_new_ones(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def write(source: Path) -> None:
        job.make_shards(job.Options(input=str(source), output=str(tmp_path / "shards"), shard_size=2))

    write(folder)
    old = {path.name: path.read_bytes() for path in (tmp_path / "shards").iterdir()}
    (tmp_path / "wrong").mkdir()
    (tmp_path / "wrong" / "notes.txt").write_bytes(b"no picture")
    with pytest.raises(job.FolderError, match="no picture among 1 files"):
        write(tmp_path / "wrong")

    def full(_writer: ShardWriter, key: str, _members: object) -> None:
        if key == "more/z":
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(ShardWriter, "write", full)
    with pytest.raises(OSError, match="No space left"):
        write(folder)
    assert {path.name: path.read_bytes() for path in (tmp_path / "shards").iterdir()} == old
