"""Packs in the model registry: kept, named, found again, and refused where they are not what was registered."""

from __future__ import annotations

from pathlib import Path

import pytest

from models.pack import Pack, PackError
from models.pack_format import CACHE_VARIABLE
from pipeline.config import ConfigError, TrackingConfig
from pipeline.registry import PackSource, find_pack, register_pack, resolve_pack
from pipeline.tracking import TrackingError
from pipeline.training_run import Run, open_run
from tests.models.small_pack import write_small_pack
from tests.tracking_server import Store, free_port

pytestmark = pytest.mark.timeout(900)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Keep packs in a folder of this test."""
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "cache"))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return tmp_path / "cache"


def test_a_pack_is_registered_found_by_alias_and_kept_as_it_was(store: Store, cache: Path, tmp_path: Path) -> None:
    from mlflow import MlflowClient

    first, second = (write_small_pack(tmp_path / str(seed), seed=seed) for seed in (0, 1))
    run = open_run(TrackingConfig(uri=store.uri), output=str(tmp_path), name="x", params={}, tags={})
    assert register_pack(run, first, model="small", alias="champion") == "1"
    assert register_pack(run, first, model="small", alias="champion") == "1", "a resumed training registers its pack once"
    found = find_pack("models:/small@champion", uri=store.uri)
    assert found.url == "models:/small/1" and Pack.load(found.folder).sha256 == Pack.load(first).sha256
    assert Path(found.folder).parent == cache / "packs"

    assert register_pack(run, second, model="small", alias="champion") == "2"
    moved = find_pack("models:/small@champion", uri=store.uri)
    assert moved.url == "models:/small/2" and Pack.load(moved.folder).sha256 == Pack.load(second).sha256
    sha256 = Pack.load(first).sha256
    nowhere = PackSource(url="models:/small/1", sha256=sha256, registry="http://127.0.0.1:1")
    assert nowhere.path_or_url() == found.folder, "what is in the cache needs no server"
    assert MlflowClient(store.uri).get_model_version("small", "1").tags == {
        "pack_sha256": sha256,
        "pack_name": "small",
        "domain": "portraits",
    }

    for file in store.artifacts.rglob("pack/generator.safetensors"):
        file.write_bytes(file.read_bytes()[:-1] + b"x")
    (Path(found.folder) / "pack.yaml").unlink()  # a broken cache is filled again, here with what somebody changed
    with pytest.raises(PackError, match=r"models:/small/1 of .* not what was registered.*generator\.safetensors was changed"):
        resolve_pack("models:/small/1", uri=store.uri)
    assert not list((cache / "packs").glob(".download-*"))

    with pytest.raises(PackError, match=r"'small' has no such version or alias; found versions 2, 1 and aliases champion \(version 2\)"):
        resolve_pack("models:/small@best", uri=store.uri)
    with pytest.raises(PackError, match=r"no model 'smal' is registered at .*; there are: .*small"):
        resolve_pack("models:/smal@champion", uri=store.uri)


def test_what_is_no_registered_pack_stays_as_it_is() -> None:
    assert resolve_pack("packs/portraits64") == "packs/portraits64"
    assert resolve_pack("s3://bucket/pack", uri="http://nowhere") == "s3://bucket/pack"


@pytest.mark.parametrize("url", ["models:/small", "models:/small/latest", "models:/a@b@c", "models:/@champion", "models://small/1"])
def test_urls_that_name_no_version_are_refused(url: str) -> None:
    with pytest.raises(ConfigError, match="expected models:/NAME@ALIAS or models:/NAME/VERSION"):
        resolve_pack(url, uri="http://nowhere")


def test_a_registry_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="MLFLOW_TRACKING_URI"):
        resolve_pack("models:/small/1")
    with pytest.raises(PackError, match=r"there is no MLflow database at sqlite:///.*absent\.db"):
        resolve_pack("models:/small/1", uri=f"sqlite:///{tmp_path}/absent.db")
    with pytest.raises(PackError, match=r"models:/small/1: MLflow at http://127.*is the address right"):
        resolve_pack("models:/small/1", uri=f"http://127.0.0.1:{free_port()}")


def test_a_pack_without_a_run_is_not_registered(tmp_path: Path) -> None:
    pack = write_small_pack(tmp_path / "pack")
    with pytest.raises(TrackingError, match="no run in MLflow"):
        register_pack(Run(uri="sqlite:///x.db"), pack, model="small", alias=None)
    (pack / "generator.safetensors").unlink()
    with pytest.raises(PackError, match="generator.safetensors is missing"):
        register_pack(Run(uri="sqlite:///x.db", run_id="1"), pack, model="small", alias=None)
