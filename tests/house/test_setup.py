"""`make setup` installs when something changed and only then, falls back to pip, and says which Python it needs."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FAKE_PYTHON = f"""#!/bin/sh
echo "$*" >> "$INSTALL_LOG"
case "$*" in
    "-m uv"*) exit "$UV_EXIT_CODE" ;;
    "-m pip"*) exit 0 ;;
esac
exec "{sys.executable}" "$@"
"""


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A copy of what set-up reads, with an environment whose installers only write down that they were called."""
    for name in (".ci/setup", "pyproject.toml", "constraints.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    python = tmp_path / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text(FAKE_PYTHON)
    python.chmod(0o755)
    return tmp_path


def install_commands(tree: Path, *, uv_exit_code: int = 0) -> list[str]:
    """Run set-up and return how the installers were called."""
    log = tree / "log"
    log.unlink(missing_ok=True)
    env = os.environ | {"INSTALL_LOG": str(log), "UV_EXIT_CODE": str(uv_exit_code)}
    subprocess.run([tree / ".ci" / "setup"], env=env, check=True, capture_output=True)
    return [line for line in log.read_text().splitlines() if " install " in line and "uv==" not in line]


def test_setup_installs_the_pinned_packages_once(tree: Path) -> None:
    first = install_commands(tree)
    assert len(first) == 1 and first[0].startswith("-m uv pip install") and "--constraint constraints.txt --editable .[test]" in first[0]
    assert install_commands(tree) == []


@pytest.mark.parametrize("changed", ["pyproject.toml", "constraints.txt"])
def test_setup_installs_again_when_a_pin_changed(tree: Path, changed: str) -> None:
    install_commands(tree)
    with (tree / changed).open("a") as file:
        file.write("\n# a change\n")
    assert len(install_commands(tree)) == 1
    assert install_commands(tree) == []


def test_setup_installs_again_in_a_copy_of_the_folder(tree: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    install_commands(tree)
    copy = tmp_path_factory.mktemp("copies") / "copy"
    shutil.copytree(tree, copy)
    assert len(install_commands(copy)) == 1


def test_setup_goes_on_with_pip_where_uv_fails(tree: Path) -> None:
    uv, pip = install_commands(tree, uv_exit_code=1)
    assert uv.startswith("-m uv") and pip.startswith("-m pip install") and "--constraint constraints.txt --editable .[test]" in pip
    assert install_commands(tree) == []


def test_setup_names_the_python_that_it_needs(tree: Path) -> None:
    shutil.rmtree(tree / ".venv")
    old = tree / "bin" / "python3"
    old.parent.mkdir()
    old.write_text('#!/bin/sh\n[ "$1" = --version ] && echo "Python 3.9.18" && exit 0\nexit 1\n')
    old.chmod(0o755)
    (tree / "bin" / "dirname").symlink_to(shutil.which("dirname") or "")
    bash = shutil.which("bash") or ""
    run = subprocess.run([bash, ".ci/setup"], cwd=tree, env={"PATH": str(old.parent)}, capture_output=True, text=True, check=False)
    assert run.returncode == 1
    assert "Python 3.11 or 3.12 is needed; found: Python 3.9.18" in run.stderr and "make setup PYTHON=" in run.stderr
    assert not (tree / ".venv").exists()
