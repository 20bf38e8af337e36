"""TensorRT's operator list, and what an ONNX model has to keep to."""

from __future__ import annotations

import json
from pathlib import Path

import onnx

SUPPORTED = json.loads((Path(__file__).parent / "data" / "supported_ops.json").read_text())["ops"]


def assert_supported(found: onnx.ModelProto) -> None:
    """Check operators against the parser's list for TensorRT 10.1 and 11.1, and what it restricts."""
    used = {node.op_type for node in found.graph.node}
    assert used and {entry.domain for entry in found.opset_import} == {""} and not found.functions
    missing = {op for op in used if not SUPPORTED.get(op, {}).get("supported_in_lower_bound")}
    assert not missing
    # What the list restricts, for the operators with restrictions that these graphs use.
    assert {op for op in used if SUPPORTED[op].get("restrictions")} <= {
        "MaxPool",
        "ReduceMax",
        "ReduceMean",
        "Resize",
        "Unsqueeze",
        "Squeeze",
    }
    constants = {value.name for value in found.graph.initializer}
    for node in found.graph.node:
        attributes = {attribute.name: onnx.helper.get_attribute_value(attribute) for attribute in node.attribute}
        if node.op_type in ("ReduceMax", "ReduceMean", "Unsqueeze", "Squeeze"):
            assert node.input[1] in constants
        if node.op_type == "Resize":
            assert (attributes["mode"], attributes["coordinate_transformation_mode"]) == (b"linear", b"align_corners")
            assert not attributes.get("antialias") and attributes["keep_aspect_ratio_policy"] == b"stretch"
        if node.op_type == "MaxPool":
            assert len(node.output) == 1 and len(attributes["kernel_shape"]) == 2
