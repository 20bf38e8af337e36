"""What `--backend` may say: one name for everything, or a name for each graph of a run. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping

AUTO, EAGER = "auto", "eager"
COMPILED = ("compile", "onnxruntime", "tensorrt")
BACKENDS = (AUTO, EAGER, *COMPILED)
GRAPHS = ("encoder", "trunk", "heads", "generator")
"""The graphs of a run, in the order in which a picture meets them (trt_engines/graphs.py)."""


def per_graph(text: str) -> dict[str, str]:
    """Return the backend of each graph that is not eager: `encoder=compile,heads=onnxruntime`, or one name for all graphs.

    Raises ValueError for what is neither; `auto` is for the caller.
    """
    if "=" not in text:
        if text not in (EAGER, *COMPILED):
            raise ValueError(f"expected one of {', '.join(BACKENDS)}, or a mix such as encoder=compile,heads=onnxruntime")
        return {} if text == EAGER else dict.fromkeys(GRAPHS, text)
    found: dict[str, str] = {}
    for part in text.split(","):
        graph, _, name = (word.strip() for word in part.partition("="))
        if graph not in GRAPHS or name not in (EAGER, *COMPILED) or graph in found:
            raise ValueError(
                f"{part.strip()!r}: expected GRAPH=NAME, each graph once, of {', '.join(GRAPHS)} and {EAGER}, {', '.join(COMPILED)}"
            )
        found[graph] = name
    return {graph: name for graph, name in found.items() if name != EAGER}


def mix(chosen: Mapping[str, str]) -> str:
    """Return the text that `per_graph` reads."""
    return ",".join(f"{graph}={chosen[graph]}" for graph in GRAPHS if graph in chosen) or EAGER


def canonical(text: str) -> str:
    """Return the one spelling of what a text means, so that equal backends have equal hashes; `auto` and what is wrong stay as they are."""
    try:
        chosen = per_graph(text)
    except ValueError:
        return text
    names = set(chosen.values())
    return names.pop() if len(chosen) == len(GRAPHS) and len(names) == 1 else mix(chosen)
