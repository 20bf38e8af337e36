"""What the documents promise exists: commands, flags, links, licences, instructions."""

import importlib
import re
import subprocess
import tomllib
from pathlib import Path

import pytest

from models.instruction import load_instructions
from pipeline.config import parse_config
from pipeline.manifest import SCHEMA
from portraits.parameters import ATTRIBUTE_NAMES, STYLE_NAMES
from tests.commands import Command

ROOT = Path(__file__).parents[2]
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
CODE_BLOCK = re.compile(r"^```(?:bash|sh|console)\n(.*?)^```", re.MULTILINE | re.DOTALL)


def canonical(package: str) -> str:
    return re.sub(r"[-_.]+", "-", package).lower()


def commands(document: Path) -> list[str]:
    """Return the command lines of a document's shell blocks, continued lines joined, comments dropped."""
    blocks = CODE_BLOCK.findall(document.read_text())
    lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
    return [line.split(" #")[0].strip() for line in lines if line.strip() and not line.lstrip().startswith("#")]


ALL_COMMANDS = [(document.name, command) for document in DOCUMENTS for command in commands(document)]


def job_flags() -> list[tuple[str, list[str]]]:
    """Return each job that a document runs with the flags that it shows."""
    found: dict[str, set[str]] = {}
    for _, command in ALL_COMMANDS:
        for part in command.split(" -- "):  # what is submitted follows the flags of what submits it
            match = re.match(r"(?:.*\bpython )?(jobs/\w+\.py)(.*)", part)
            if match:
                found.setdefault(match[1], set()).update(re.findall(r"(?<=\s)--[\w.]+", match[2]))
    return [(job, sorted(flags)) for job, flags in sorted(found.items())]


def test_the_readme_starts_with_the_two_commands() -> None:
    first_screen = (ROOT / "README.md").read_text().splitlines()[:30]
    assert any("docs/images/sheet.png" in line for line in first_screen)
    assert {"make demo", "make test"} <= {line.split("#")[0].strip() for line in first_screen}


def test_make_targets_in_documents_exist() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    spoken = "\n".join(document.read_text() for document in DOCUMENTS)
    named = set(re.findall(r"`make ([a-z-]+)", spoken))
    named |= {match[1] for _, command in ALL_COMMANDS if (match := re.match(r"make ([a-z-]+)", command))}
    assert {"demo", "test"} <= named <= targets


def test_make_help_lists_every_target() -> None:
    makefile = (ROOT / "Makefile").read_text()
    phony = re.search(r"^\.PHONY: (.*)$", makefile, re.MULTILINE)
    assert phony is not None
    shown = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert set(re.findall(r"^make ([a-z-]+) +\w", shown, re.MULTILINE)) == set(phony[1].split())
    assert subprocess.run(["make"], cwd=ROOT, capture_output=True, text=True, check=True).stdout == shown


@pytest.mark.parametrize(("job", "flags"), job_flags(), ids=lambda value: value if isinstance(value, str) else "")
def test_jobs_and_flags_in_documents_exist(job: str, flags: list[str], command: Command) -> None:
    networks = sorted(set(re.findall(rf"{job}.* --network (\w+)", "\n".join(spoken for _, spoken in ALL_COMMANDS))))
    shown = ""
    for more in [[], *(["--network", network] for network in networks)]:
        helped = command(job, [*more, "--help"])
        assert helped.code == 0, helped.err[-2000:]
        shown += helped.out
    known = set(re.findall(r"--[\w.]+", shown))
    assert set(flags) <= known, f"{job} has no {sorted(set(flags) - known)}"


def test_the_build_machine_runs_the_test_command_of_the_readme() -> None:
    script = (ROOT / ".ci" / "run").read_text()
    assert "set -euo pipefail" in script and script.rstrip().endswith("\nmake test")
    assert (ROOT / ".ci" / "run").stat().st_mode & 0o111


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_links_and_file_names_lead_somewhere(document: Path) -> None:
    text = document.read_text()
    linked = [target.split("#")[0] for target in re.findall(r"\]\(([^)\s]+)\)", text) if "://" not in target]
    missing = [target for target in linked if target and not (document.parent / target).exists()]
    tops = "portraits|models|training|pipeline|hosting|jobs|evaluation|trt_engines|configs|tests|docs"
    named = re.findall(rf"`((?:{tops})/[\w./-]+\.(?:py|yaml|md|j2))", text)
    missing += [target for target in named if not (ROOT / target).exists()]
    assert not missing


def test_every_dependency_has_its_licence_listed() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    requirements = [*project["dependencies"], *(name for extra in project["optional-dependencies"].values() for name in extra)]
    direct = {canonical(re.split(r"[\[=<>]", requirement)[0]) for requirement in requirements}
    pinned = {canonical(line.split("==")[0]) for line in (ROOT / "constraints.txt").read_text().splitlines() if "==" in line}
    own, others = (ROOT / "docs" / "licences.md").read_text().split("## What those packages need")
    rows_own, rows_others = (dict(re.findall(r"^\| ([\w.-]+) \| ([^|]+?) \|", part, re.MULTILINE)) for part in (own, others))
    headings = {"package", "---"}
    assert set(rows_own) - headings == direct
    assert set(rows_others) - headings == pinned - direct
    stated = [licence for package, licence in (rows_own | rows_others).items() if package not in headings]
    assert all(re.search(r"\w{2}", licence) and "unknown" not in licence.lower() for licence in stated)


def test_the_portrait_instructions_ask_for_what_the_classifier_names() -> None:
    instructions = load_instructions(str(ROOT / "configs" / "instructions" / "portraits.yaml"))
    names = {*ATTRIBUTE_NAMES, *(f"style_{style}" for style in STYLE_NAMES)}
    assert len(instructions) >= 10
    assert all(instruction.expects and set(instruction.expects) <= names for instruction in instructions)
    assert sum(any(attribute.startswith("style_") for attribute in instruction.expects) for instruction in instructions) >= 2


def test_methods_name_code_that_exists() -> None:
    references = re.findall(r"`([\w/]+\.py)::(\w+)(?:\.(\w+))?`", (ROOT / "docs" / "methods.md").read_text())
    assert len(references) > 20
    for path, name, attribute in references:
        found = importlib.import_module(path.removesuffix(".py").replace("/", "."))
        found = getattr(found, name)
        assert not attribute or hasattr(found, attribute), f"{path}::{name} has no {attribute}"


def test_the_columns_in_the_data_format_are_those_of_the_manifest() -> None:
    table = (ROOT / "docs" / "data-format.md").read_text().split("### manifests/")[1].split("###")[0]
    documented = {name for row in re.findall(r"^\| (`[^|]+) \|", table, re.MULTILINE) for name in re.findall(r"`(\w+)`", row)}
    assert documented == set(SCHEMA.names)


@pytest.mark.parametrize("preset", sorted((ROOT / "configs" / "edit").glob("*.yaml")), ids=lambda path: path.stem)
def test_presets_are_valid_and_say_how_they_are_used(preset: Path) -> None:
    config = parse_config(["--config", str(preset), "--input", "shards", "--output", "edited"])
    assert config.input == "shards" and config.instructions
    assert f"--config {preset.relative_to(ROOT)} " in preset.read_text()
