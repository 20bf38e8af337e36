"""The tree keeps the rules of the house: short files, models without an engine, nothing of one machine, no grab-bag modules."""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = ("portraits", "models", "training", "pipeline", "hosting", "jobs", "evaluation", "trt_engines", "benchmarks")
MAX_LINES = 500
TEXT = {"", ".py", ".md", ".yaml", ".yml", ".toml", ".txt", ".j2", ".json", ".sh", ".css", ".js"}
# Written so that they do not match themselves.
REGISTRY = re.compile(r"(https?://[^\s\"']*/(simple|packages|-)[/]|pythonhosted[.]org|index[-]url|find[-]links|registry [=] )")
MACHINE_PATH = re.compile(r"(?<![\w./-])/(work|root|home|Users|farm|opt)[/][\w.]")


def listed_files() -> list[Path]:
    """Return what git holds or would hold; in a copy without git, everything but the environment and what runs leave behind."""
    listing = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    if listing.returncode == 0:
        files = [ROOT / name for name in listing.stdout.split("\0") if name]
    else:
        kept = [top for top in ROOT.iterdir() if top.name not in {".venv", ".git", "out", "build"}]
        files = [path for top in kept for path in ([top] if top.is_file() else top.rglob("*")) if "__pycache__" not in path.parts]
    return [path for path in files if path.is_file()]


FILES = listed_files()
SOURCES = [path for path in FILES if path.suffix == ".py"]


def name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def in_package(path: Path, *packages: str) -> bool:
    return path.relative_to(ROOT).parts[0] in packages


def imported(path: Path) -> Iterator[str]:
    """Yield every module that a file imports, also inside functions."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module


def lines_matching(pattern: re.Pattern[str]) -> list[str]:
    texts = [path for path in FILES if path.suffix in TEXT and name(path) != "LICENSE"]
    return [
        f"{name(path)}:{number}: {line.strip()[:120]}"
        for path in texts
        for number, line in enumerate(path.read_text(errors="replace").splitlines(), 1)
        if pattern.search(line)
    ]


def test_the_listing_sees_the_project() -> None:
    # Every other test here would pass on an empty list.
    seen = {name(path) for path in FILES}
    assert {"pyproject.toml", "models/state.py", "jobs/demo.py", "tests/house/test_tree.py"} <= seen
    assert not [path for path in seen if path.startswith(".venv/")]


def test_file_length_is_at_most_500_lines() -> None:
    long = {name(path): count for path in SOURCES if (count := len(path.read_text().splitlines())) > MAX_LINES}
    assert not long, f"split these files by topic: {long}"


def test_function_length_is_at_most_60_lines() -> None:
    long = [
        f"{name(path)}:{node.lineno} {node.name}: {node.end_lineno - node.lineno + 1} lines"
        for path in SOURCES
        if in_package(path, *PACKAGES)
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.end_lineno is not None and node.end_lineno - node.lineno >= 60
    ]
    assert not long, "\n".join(long)


@pytest.mark.parametrize(
    ("package", "forbidden"),
    [
        ("models", {"ray", "mlflow", "webdataset", "argparse", "jsonargparse", "pipeline", "hosting", "jobs", "training", "portraits"}),
        ("training", {"ray", "mlflow", "hosting", "jobs"}),
        ("portraits", {"ray", "mlflow", "hosting", "jobs", "training", "models"}),
        ("pipeline", {"hosting", "jobs", "training", "portraits", "tensorrt"}),
        ("hosting", {"jobs", "portraits", "evaluation", "tensorrt"}),
    ],
)
def test_a_package_imports_only_what_its_layer_allows(package: str, forbidden: set[str]) -> None:
    sources = [path for path in SOURCES if in_package(path, package)]
    assert sources
    wrong = [f"{name(path)} imports {module}" for path in sources for module in imported(path) if module.split(".")[0] in forbidden]
    assert not wrong, "\n".join(wrong)


def test_only_trt_engines_imports_tensorrt() -> None:
    importers = {name(path) for path in SOURCES if "tensorrt" in {module.split(".")[0] for module in imported(path)}}
    assert all(path.startswith("trt_engines/") for path in importers), importers


def test_models_and_training_load_without_an_engine() -> None:
    # What their own import statements say is not all: something that they import may pull Ray in.
    modules = [name(path).removesuffix(".py").replace("/", ".") for path in SOURCES if in_package(path, "models", "training")]
    assert len(modules) > 10
    code = f"import {', '.join(modules)}, sys; print(sorted({{'ray', 'mlflow'}} & set(sys.modules)))"
    loaded = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert loaded.stdout.strip() == "[]"


def test_nothing_at_the_root_hides_a_standard_module() -> None:
    roots = {path.relative_to(ROOT).parts[0] for path in SOURCES}
    assert not {root.removesuffix(".py") for root in roots} & sys.stdlib_module_names


def test_no_grab_bag_modules() -> None:
    grab_bags = {"utils", "util", "helpers", "common", "misc"}
    assert not [name(path) for path in SOURCES if {path.stem, *path.relative_to(ROOT).parts[:-1]} & grab_bags]


def test_no_module_edits_the_import_path() -> None:
    pattern = re.compile(r"sys\.path\.(append|insert|extend)|sys\.path\s*[+]?=[^=]")
    assert not [line for line in lines_matching(pattern) if ".py:" in line]


def test_no_registry_host_and_no_path_of_one_machine() -> None:
    assert REGISTRY.search("https://registry.example/simple" + "/") and MACHINE_PATH.search(" /home" + "/someone")
    assert not lines_matching(REGISTRY)
    assert not lines_matching(MACHINE_PATH)


def test_nothing_is_left_unfinished_or_skipped() -> None:
    marks = re.compile(r"\b(TO" r"DO|FIX" r"ME|XX" r"X)\b|NotImplemented" r"Error|pytest\.(mark\.)?(skip|xfail)" r"|@unittest\.skip")
    assert not [line for line in lines_matching(marks) if ".py:" in line]


def test_requirements_and_constraints_agree() -> None:
    """Every package that pyproject.toml pins is pinned to the same version in constraints.txt."""
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    pins = dict(line.lower().split("==") for line in (ROOT / "constraints.txt").read_text().splitlines() if "==" in line)
    extras = [name for extra, names in project["optional-dependencies"].items() if extra != "tensorrt" for name in names]
    for requirement in [*project["dependencies"], *extras]:
        package, version = requirement.split("==")
        package = re.sub(r"\[.*]", "", package).replace("_", "-").lower()
        assert pins.get(package) == version, f"{requirement} in pyproject.toml, {pins.get(package)} in constraints.txt: run `make lock`"
