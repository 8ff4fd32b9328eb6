"""The rules of the house: layout, sizes, names, and documents that agree with the code."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = {"server": "optimus_server", "kernels": "optimus_kernels", "ui": "optimus_ui"}
TOP = {"server", "kernels", "ui", "migrations", "tests", "Dockerfile", "pyproject.toml", "README.md", "LICENSE"}
SOURCES = sorted(path for top, package in PACKAGES.items() for path in (ROOT / top / package).rglob("*.py"))

# Lines a file may have. A larger budget is a decision: write the reason in the commit that raises it.
BUDGET = 300
ENGINE_BUDGET = 2550


def tracked() -> list[Path]:
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False).stdout
    files = [Path(name) for name in listed.splitlines()]
    if not files:
        pytest.skip("not a git checkout")
    return [file for file in files if (ROOT / file).exists()]


def readme() -> str:
    return (ROOT / "README.md").read_text()


def lines(path: Path) -> int:
    return len(path.read_text().splitlines())


def test_top_level_is_fixed():
    found = {file.parts[0] for file in tracked() if not file.parts[0].startswith(".")}
    assert found <= TOP


@pytest.mark.parametrize(("top", "package"), PACKAGES.items())
def test_a_top_level_directory_holds_its_package_and_nothing_else(top, package):
    """A ``kernels/__init__.py`` on the import path can break ``import transformers``, which looks for that name."""
    assert {file.parts[1] for file in tracked() if file.parts[0] == top} == {package}
    assert not (ROOT / top / "__init__.py").exists()


def test_transformers_imports_from_the_repository_root():
    subprocess.run(
        [sys.executable, "-W", "error", "-c", "import transformers.integrations.hub_kernels"], cwd=ROOT, check=True
    )


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_files_are_short_and_say_what_they_are(path):
    assert lines(path) <= BUDGET
    text = path.read_text()
    if text.strip():
        assert text.startswith('"""')


def test_the_engine_fits_in_one_head():
    assert sum(lines(path) for path in SOURCES if path.parent.name == "engine") <= ENGINE_BUDGET


def test_names_carry_no_history():
    stale = re.compile(r"_(v?\d+|old|new|loop|copy)\.py$")
    assert [path for path in SOURCES if stale.search(path.name)] == []


def test_every_module_has_its_tests():
    """``tests/`` mirrors the packages: a module is tested by its name, or by its directory's."""
    for path in SOURCES:
        if path.name == "__init__.py":
            continue
        top, _, *parts = path.relative_to(ROOT).parts
        if top == "kernels":
            tests = [ROOT / "tests" / "kernels" / f"test_{parts[0].removesuffix('.py')}.py"]
        elif len(parts) == 1:
            tests = [ROOT / "tests" / f"test_{path.name}"]
        else:
            tests = list((ROOT / "tests" / parts[0]).glob("test_*.py"))
        assert any(test.exists() for test in tests), path


def test_the_readmes_tree_is_the_tree_on_disk():
    block = re.search(r"<!-- tree -->\n```\n(.*?)```", readme(), re.DOTALL)
    assert block
    described, stack = {}, []
    for line in block[1].splitlines():
        name, _, comment = line.strip().partition("  ")
        depth = (len(line) - len(line.lstrip())) // 2
        stack = [*stack[:depth], name.rstrip("/")]
        if not name.endswith("/"):
            described["/".join(stack)] = comment.strip()
    present = {str(f) for f in tracked() if f.parts[0] in (*PACKAGES, "migrations") and f.suffix in (".py", ".md")}
    present -= {f for f in present if f.endswith("__init__.py") or "/models/demo" in f}
    assert set(described) == present
    assert all(described.values())


def test_the_readmes_commands_are_the_ones_ci_runs():
    test = "python3 -m venv .venv && .venv/bin/pip install -e '.[test]' && .venv/bin/pytest"
    serve = "python3 -m venv .venv && .venv/bin/pip install -e . && .venv/bin/optimus serve"
    assert f"\n{test}\n" in readme()
    assert f"\n{serve}\n" in readme()
    assert test.replace("install -e", "install -q -e") in (ROOT / ".ci" / "run").read_text()


def test_the_demo_models_stay_small():
    for directory in (ROOT / "server/optimus_server/demo/models").iterdir():
        assert sum(file.stat().st_size for file in directory.iterdir()) <= 18 * 2**20
