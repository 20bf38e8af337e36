"""ray_cluster.yaml is valid for Ray's own schema and for EC2, and a misspelt field is found without a cloud account."""

import copy
import json
from pathlib import Path
from typing import Any

import botocore.session
import jsonschema
import pytest
import ray.autoscaler
import yaml
from botocore.validate import ParamValidator
from ray.autoscaler._private.util import prepare_config, validate_config

ROOT = Path(__file__).parents[2]
CONFIG: dict[str, Any] = yaml.safe_load((ROOT / "ray_cluster.yaml").read_text())
SCHEMA = json.loads((Path(ray.autoscaler.__file__).parent / "ray-schema.json").read_text())
NODE_TYPES = sorted(CONFIG["available_node_types"])


def validate(config: dict[str, Any]) -> dict[str, Any]:
    prepared = prepare_config(copy.deepcopy(config))
    validate_config(prepared)
    return prepared


def misspell(mapping: dict[str, Any], field: str) -> None:
    mapping[field[:-1] + "x"] = mapping.pop(field)


def ec2_errors(node_config: dict[str, Any]) -> str:
    run_instances = botocore.session.get_session().get_service_model("ec2").operation_model("RunInstances").input_shape
    return ParamValidator().validate({"MinCount": 1, "MaxCount": 1, **node_config}, run_instances).generate_report()


def test_ray_accepts_the_file() -> None:
    prepared = validate(CONFIG)
    head, gpu = prepared["available_node_types"]["head"], prepared["available_node_types"]["gpu"]
    assert prepared["head_node_type"] == "head" and "GPU" not in head["resources"]
    assert gpu["min_workers"] == 0 and 0 < gpu["max_workers"] <= prepared["max_workers"] and gpu["resources"]["GPU"] == 1


@pytest.mark.parametrize("field", sorted(CONFIG))
def test_a_misspelt_field_is_refused(field: str) -> None:
    config = copy.deepcopy(CONFIG)
    misspell(config, field)
    with pytest.raises((jsonschema.ValidationError, KeyError, ValueError)):
        validate(config)


NODE_FIELDS = [(name, field) for name in NODE_TYPES for field in sorted(CONFIG["available_node_types"][name])]


@pytest.mark.parametrize(("node_type", "field"), NODE_FIELDS)
def test_a_misspelt_field_of_a_node_type_is_refused(node_type: str, field: str) -> None:
    config = copy.deepcopy(CONFIG)
    misspell(config["available_node_types"][node_type], field)
    with pytest.raises((jsonschema.ValidationError, KeyError, ValueError)):
        validate(config)


def test_provider_fields_are_known_to_ray() -> None:
    # Ray's schema lets unknown provider fields pass, so they are compared with the ones that it lists.
    assert set(CONFIG["provider"]) <= set(SCHEMA["properties"]["provider"]["properties"])


@pytest.mark.parametrize("node_type", NODE_TYPES)
def test_ec2_accepts_the_nodes(node_type: str) -> None:
    node_config = CONFIG["available_node_types"][node_type]["node_config"]
    assert ec2_errors(node_config) == ""
    for field in node_config:
        misspelt = copy.deepcopy(node_config)
        misspell(misspelt, field)
        assert field[:-1] + "x" in ec2_errors(misspelt)


def test_the_cluster_installs_the_ray_that_the_project_pins() -> None:
    pinned = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if line.startswith("ray==")]
    assert pinned == [f"ray=={ray.__version__}"]
    assert any("-r ~/hyperedit/constraints.txt" in command for command in CONFIG["setup_commands"])
    assert CONFIG["file_mounts"]["~/hyperedit/constraints.txt"] == "constraints.txt"
