"""The manifests for KubeRay hold only fields that it knows, and start what the documents say."""

from __future__ import annotations

import copy
import re
import shlex
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from hosting.scheduler import cron
from tests.commands import Command

ROOT = Path(__file__).parents[2]
KUBERAY: dict[str, Any] = yaml.safe_load((ROOT / "tests" / "house" / "data" / "kuberay.yaml").read_text())
MANIFESTS: dict[str, dict[str, Any]] = {path.name: yaml.safe_load(path.read_text()) for path in sorted((ROOT / "deploy").glob("*.yaml"))}


def schema_of(kind: str) -> dict[str, Any]:
    return {"$defs": KUBERAY["$defs"], **KUBERAY["kinds"][kind]}


def errors(manifest: dict[str, Any]) -> list[str]:
    """Return what KubeRay's definition of such a resource would refuse."""
    schema = schema_of(manifest["kind"])
    return [f"{error.json_path}: {error.message}" for error in jsonschema.Draft202012Validator(schema).iter_errors(manifest)]


def job_of(manifest: dict[str, Any]) -> dict[str, Any]:
    spec = manifest["spec"]
    found = spec["jobTemplate"] if manifest["kind"] == "RayCronJob" else spec
    assert isinstance(found, dict)
    return found


def fields(value: object, path: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    """Yield the path of every field."""
    if isinstance(value, dict):
        for name, one in value.items():
            yield (*path, name)
            yield from fields(one, (*path, name))
    elif isinstance(value, list):
        for place, one in enumerate(value):
            yield from fields(one, (*path, place))


def free(path: tuple[str | int, ...]) -> bool:
    """Say whether a field's name is the user's choice."""
    return len(path) > 1 and path[-2] in ("requests", "limits", "rayStartParams")


CHECKED = [(name, path) for name, manifest in MANIFESTS.items() for path in fields(manifest) if not free(path)]


def test_there_is_a_job_and_a_schedule() -> None:
    assert {manifest["kind"] for manifest in MANIFESTS.values()} == {"RayJob", "RayCronJob"}


@pytest.mark.parametrize("name", MANIFESTS)
def test_kuberay_accepts_the_manifest(name: str) -> None:
    assert errors(MANIFESTS[name]) == []


@pytest.mark.parametrize(("name", "path"), CHECKED, ids=lambda value: ".".join(map(str, value)) if isinstance(value, tuple) else value)
def test_a_misspelt_field_and_a_value_of_another_type_are_refused(name: str, path: tuple[str | int, ...]) -> None:
    misspelt, mistyped = copy.deepcopy(MANIFESTS[name]), copy.deepcopy(MANIFESTS[name])
    if path != ("kind",):
        assert errors(_renamed(misspelt, path)), path
        assert errors(_replaced(mistyped, path)), path


def _inside(manifest: dict[str, Any], path: tuple[str | int, ...]) -> Any:
    for step in path[:-1]:
        manifest = manifest[step]  # type: ignore[index]
    return manifest


def _renamed(manifest: dict[str, Any], path: tuple[str | int, ...]) -> dict[str, Any]:
    holder = _inside(manifest, path)
    holder[f"{path[-1]}x"] = holder.pop(path[-1])
    return manifest


def _replaced(manifest: dict[str, Any], path: tuple[str | int, ...]) -> dict[str, Any]:
    _inside(manifest, path)[path[-1]] = [["neither", "a text nor a number"]]
    return manifest


def _open_objects(schema: object, path: str = "") -> Iterator[str]:
    if isinstance(schema, dict):
        if schema.get("type") == "object" and "additionalProperties" not in schema:
            yield path
        for name, one in schema.items():
            yield from _open_objects(one, f"{path}.{name}")
    elif isinstance(schema, list):
        for place, one in enumerate(schema):
            yield from _open_objects(one, f"{path}.{place}")


@pytest.mark.parametrize("kind", KUBERAY["kinds"])
def test_the_schema_is_one_and_refuses_every_field_that_it_does_not_name(kind: str) -> None:
    jsonschema.Draft202012Validator.check_schema(schema_of(kind))
    assert list(_open_objects(schema_of(kind))) == []


POD = "spec.rayClusterSpec.headGroupSpec.template"
ONCE, RULE = {"policy": "DeleteSelf"}, {"condition": {"jobStatus": "FAILED"}, "policy": "DeleteSelf"}
BOTH = {"onSuccess": ONCE, "onFailure": ONCE}
WORKERS = {"groupName": "gpu", "template": {"spec": {"containers": [{"name": "worker"}]}}}


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("metadata.name", "n" * 47),
        ("spec.preRunningDeadlineSeconds", 600),
        ("spec.deletionStrategy", {"deletionRules": [RULE]}),
        ("spec.deletionStrategy", BOTH),
        ("spec.rayClusterSpec.authOptions", {"mode": "token", "secretName": "ray", "enableK8sTokenAuth": False}),
        ("spec.rayClusterSpec.workerGroupSpecs", [WORKERS | {"resources": {"GPU": "1"}, "labels": {"zone": "a"}}]),
        (f"{POD}.metadata", {"labels": {"team": "editing"}}),
        (f"{POD}.spec.volumes", [{"name": "packs", "persistentVolumeClaim": {"claimName": "packs"}}]),
        *[(f"{POD}.spec.containers.0.resources.limits.cpu", amount) for amount in (4, "0.5", ".5", "500m", "1e3", "2Ei")],
    ],
)
def test_what_kuberay_takes_passes(path: str, value: object) -> None:
    assert errors(_changed(path, value)) == []


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("metadata.name", "n" * 48),
        ("metadata.name", "hyperedit.evaluate"),
        ("metadata.name", "1st"),
        ("metadata.generateName", "n" * 43),
        ("spec.activeDeadlineSeconds", 0),
        ("spec.backoffLimit", -1),
        ("spec.ttlSecondsAfterFinished", 2**31),
        ("spec.shutdownAfterJobFinishes", False),
        ("spec.preRunningDeadlineSeconds", 0),
        ("spec.submissionMode", "http"),
        ("spec.managedBy", "hyperedit"),
        ("spec.deletionStrategy", {}),
        ("spec.deletionStrategy", {"onSuccess": ONCE}),
        ("spec.deletionStrategy", BOTH | {"deletionRules": [RULE]}),
        ("spec.deletionStrategy", {"deletionRules": [RULE | {"condition": {"jobStatus": "FAILED", "jobDeploymentStatus": "Failed"}}]}),
        ("spec.rayClusterSpec.authOptions.mode", "password"),
        ("spec.rayClusterSpec.gcsFaultToleranceOptions", {}),
        ("spec.rayClusterSpec.workerGroupSpecs", [{"groupName": "gpu"}]),
        ("spec.rayClusterSpec.workerGroupSpecs", [WORKERS | {"scaleStrategy": {"workers": []}}]),
        (f"{POD}.metadata", {"generateName": "head-"}),
        (f"{POD}.spec.containers", []),
        (f"{POD}.spec.tolerations", [{"name": "gpu"}]),
        (f"{POD}.spec.containers.0.env", [{"name": "TOKEN", "valueFrom": {"secret": "ray"}}]),
        (f"{POD}.spec.containers.0.resources.limits.cpu", "4 cores"),
    ],
)
def test_what_kuberay_refuses_is_refused(path: str, value: object) -> None:
    assert errors(_changed(path, value)), path


def _changed(path: str, value: object) -> dict[str, Any]:
    """Return the job with one field more, or with another value in it."""
    manifest = copy.deepcopy(next(one for one in MANIFESTS.values() if one["kind"] == "RayJob"))
    steps = tuple(int(step) if step.isdigit() else step for step in path.split("."))
    _inside(manifest, steps)[steps[-1]] = value
    return manifest


def test_the_schedule_starts_the_same_job() -> None:
    once, nightly = (next(one for one in MANIFESTS.values() if one["kind"] == kind) for kind in ("RayJob", "RayCronJob"))
    assert job_of(once) == job_of(nightly)


def test_the_job_is_one_that_this_ray_and_this_code_can_run(command: Command) -> None:
    job = job_of(next(iter(MANIFESTS.values())))
    pins = dict(line.split("==") for line in (ROOT / "constraints.txt").read_text().splitlines() if "==" in line)
    assert job["rayClusterSpec"]["rayVersion"] == pins["ray"] and job["rayClusterSpec"]["authOptions"] == {"mode": "token"}
    words = shlex.split(job["entrypoint"])
    place = words.index("python")
    assert words[:place] == ["env", f"--chdir={yaml.safe_load(job['runtimeEnvYAML'])['env_vars']['PYTHONPATH']}"]
    script, *flags = words[place + 1 :]
    shown = command(script, ["--help"])
    assert shown.code == 0 and {flag for flag in flags if flag.startswith("--")} <= set(re.findall(r"--[\w.]+", shown.out))
    assert all((ROOT / flag).exists() for flag in flags if "/" in flag and not flag.startswith("/"))


def test_a_run_has_ended_before_the_next_is_due_and_a_regression_is_not_measured_again() -> None:
    nightly = next(one for one in MANIFESTS.values() if one["kind"] == "RayCronJob")
    trigger, job = cron(nightly["spec"]["schedule"], "UTC"), job_of(nightly)
    first = trigger.get_next_fire_time(None, datetime(2026, 11, 27, tzinfo=UTC))
    second = trigger.get_next_fire_time(first, first + timedelta(seconds=1))
    assert job["activeDeadlineSeconds"] < (second - first).total_seconds()
    assert job["backoffLimit"] == 0 and job["submitterConfig"]["backoffLimit"] == 0
