"""Packs in MLflow's model registry: registered, found by version or alias, downloaded."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

from models.pack_format import PackError
from pipeline.child import Message
from pipeline.mlflow_client import connect
from pipeline.tracking import SQLITE

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion, RegisteredModel

ARTIFACT = "pack"
SHA256_TAG = "pack_sha256"
ABSENT = "RESOURCE_DOES_NOT_EXIST"
MOST_LISTED = 20


def answer(request: Message) -> Message:
    """Serve one request. Raises PackError."""
    uri = str(request["uri"])
    if uri.startswith(SQLITE) and not Path(uri.removeprefix(SQLITE)).is_file():
        raise PackError(f"pack {request.get('url', request.get('folder'))}: there is no MLflow database at {uri}; set MLFLOW_TRACKING_URI")
    client = connect(uri)
    if request["do"] == "register":
        return {"version": register(client, request)}
    if request["do"] == "find":
        found = find(client, str(request["url"]), uri)
        return {"model": found.name, "version": str(found.version), "sha256": dict(found.tags).get(SHA256_TAG, "")}
    return {"folder": download(client, request)}


def register(client: MlflowClient, request: Message) -> str:
    """Log the pack, create model and version where they are missing, set the alias, and return the version."""
    run_id, model, tags = str(request["run_id"]), str(request["model"]), request["tags"]
    assert isinstance(tags, dict)
    version = _registered(client, run_id, model, str(tags[SHA256_TAG]))
    if version is None:
        # Another pack of this run may be a version already, whose files must stay what they are.
        artifact = f"{ARTIFACT}-{str(tags[SHA256_TAG])[:12]}" if client.list_artifacts(run_id, ARTIFACT) else ARTIFACT
        client.log_artifacts(run_id, str(request["folder"]), artifact)
        source = f"{client.get_run(run_id).info.artifact_uri}/{artifact}"
        version = str(client.create_model_version(model, source, run_id, tags=tags).version)
    if request["alias"]:
        client.set_registered_model_alias(model, str(request["alias"]), version)
    return version


def _registered(client: MlflowClient, run_id: str, model: str, sha256: str) -> str | None:
    """Return the version that this run made of this pack, if it did; create the model where it is missing."""
    from mlflow.exceptions import MlflowException

    try:
        client.create_registered_model(model)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    versions = client.search_model_versions(f"name = '{model}'")
    same = [found for found in versions if found.run_id == run_id and found.tags.get(SHA256_TAG) == sha256]
    return str(same[0].version) if same else None


def find(client: MlflowClient, url: str, uri: str) -> ModelVersion:
    """Return the version that a URL names. Raises PackError with what there is."""
    from mlflow.exceptions import MlflowException

    name, mark, which = _parts(url)
    try:
        return client.get_model_version_by_alias(name, which) if mark == "@" else client.get_model_version(name, which)
    except MlflowException as error:
        if error.error_code not in (ABSENT, "INVALID_PARAMETER_VALUE"):
            raise
    try:
        model = client.get_registered_model(name)
    except MlflowException:
        names = sorted(found.name for found in client.search_registered_models(max_results=MOST_LISTED))
        raise PackError(f"pack {url}: no model {name!r} is registered at {uri}; there are: {', '.join(names) or 'none'}") from None
    raise PackError(f"pack {url}: {_known(client, model)} at {uri}; name one of these, or set the alias") from None


def _known(client: MlflowClient, model: RegisteredModel) -> str:
    """Say which versions and aliases a model has."""
    aliases = ", ".join(f"{name} (version {version})" for name, version in sorted(model.aliases.items()))
    versions = sorted((int(found.version) for found in client.search_model_versions(f"name = '{model.name}'")), reverse=True)
    listed = ", ".join(str(version) for version in versions[:MOST_LISTED])
    return f"{model.name!r} has no such version or alias; found versions {listed or 'none'} and aliases {aliases or 'none'}"


def download(client: MlflowClient, request: Message) -> str:
    """Copy the files of a pinned version into a folder; return where they are."""
    from mlflow.artifacts import download_artifacts

    name, _, version = _parts(str(request["url"]))
    source = client.get_model_version_download_uri(name, version)
    return str(download_artifacts(artifact_uri=source, dst_path=str(request["folder"]), tracking_uri=str(request["uri"]))).rstrip("/")


def _parts(url: str) -> tuple[str, str, str]:
    match = re.fullmatch(r"models:/([^/@]+)([/@])(.+)", url)
    assert match is not None
    return match[1], match[2], match[3]
