"""What the tests of a source distribution need beside pytest, as far as its author says so somewhere.

Only names that the author declares are ever installed; a name that is merely imported could be anybody's package.
Left out: requirements that only a build tool's own configuration knows.
"""

from __future__ import annotations

import ast
import configparser
import contextlib
import re
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from env_server.tasks.sources import Source, normalise
from env_server.tasks.trees import is_test_side

EXTRAS = ("test", "tests", "testing")
PLUGINS = ("pytest-asyncio", "pytest-benchmark", "pytest-mock", "pytest-subtests", "pytest-timeout")
"""Installed if declared: tests use them without an import."""
DISTRIBUTIONS = {
    "attr": "attrs",
    "bs4": "beautifulsoup4",
    "dateutil": "python-dateutil",
    "railroad": "railroad-diagrams",
    "yaml": "pyyaml",
}
"""Modules whose distribution has another name."""


def extras(source: Source) -> str:
    """`[test]` or so, in pip's notation; empty if there is no such extra."""
    found = re.findall(r"^Provides-Extra: (\S+)", _text(source.tree / "PKG-INFO"), re.M)
    names = [name for name in found if name in EXTRAS]
    return f"[{','.join(names)}]" if names else ""


def groups(source: Source) -> list[str]:
    """pip's words for the dependency groups of that name (PEP 735)."""
    project = source.tree / "pyproject.toml"
    table = _project(source).get("dependency-groups", {})
    return [word for name in EXTRAS if name in table for word in ("--group", f"{project}:{name}")]


def declared_imports(source: Source) -> list[str]:
    """Distributions that the tests import and that the author requires for something, be it development."""
    names = (re.match(r"\s*([A-Za-z0-9][A-Za-z0-9._-]*)", line) for line in _requirements(source))
    required = {normalise(match[1]) for match in names if match}
    wanted = {normalise(DISTRIBUTIONS.get(module, module)) for module in _imported(source)}
    return sorted((wanted | set(PLUGINS)) & required - {source.name, "pytest"})


def _requirements(source: Source) -> Iterator[str]:
    """Every requirement of the metadata, the project file, tox and requirements files, as it is written."""
    yield from re.findall(r"^Requires-Dist: (.+)", _text(source.tree / "PKG-INFO"), re.M)
    for path in source.tree.rglob("*requirement*.txt"):
        yield from _text(path).splitlines()
    for name in ("tox.ini", "setup.cfg"):
        parser = configparser.ConfigParser(interpolation=None, strict=False)
        with contextlib.suppress(configparser.Error):
            parser.read_string(_text(source.tree / name))
        for section in parser.sections():
            for key, value in parser.items(section):
                if section == "options.extras_require" or key in ("deps", "tests_require"):
                    # tox writes `py311: mock` where a requirement is for some environments only
                    yield from (line.rpartition(": ")[2] for line in value.splitlines())
    project = _project(source)
    for table in (project.get("dependency-groups", {}), project.get("project", {}).get("optional-dependencies", {})):
        yield from (line for lines in table.values() for line in lines if isinstance(line, str))


def _project(source: Source) -> dict[str, Any]:
    try:
        return tomllib.loads(_text(source.tree / "pyproject.toml"))
    except tomllib.TOMLDecodeError:
        return {}


def _imported(source: Source) -> Iterator[str]:
    """Top-level modules that test files import, without the standard library and what lies in the tree."""
    own = {path.stem for path in source.tree.rglob("*.py")} | {p.name for p in source.tree.rglob("*") if p.is_dir()}
    for path in source.tree.rglob("*.py"):
        if not is_test_side(path.relative_to(source.tree).as_posix()):
            continue
        try:
            tree = ast.parse(path.read_bytes())
        except (SyntaxError, ValueError):
            continue
        for node in ast.walk(tree):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
                names = [node.module]
            tops = {name.split(".")[0] for name in names}
            yield from (top for top in tops if top not in sys.stdlib_module_names and top not in own)


def _text(path: Path) -> str:
    return path.read_text(errors="replace") if path.is_file() else ""
