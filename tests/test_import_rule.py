"""Risks: packages that grow into each other, and a command line that takes seconds to say --help."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
OURS = ("agent_srl", "env_server", "sandboxes")
ALLOWED = {
    "sandboxes": ("sandboxes",),
    "env_server": ("env_server", "sandboxes"),
    "agent_srl": (
        "agent_srl",
        "env_server.client",
        "env_server.schema",
        "env_server.errors",
        "env_server.settings",
        "env_server.service",
        "env_server.local",
        "sandboxes.errors",
    ),
}


def imported(path: Path) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
    return {name for name in found if name.split(".")[0] in OURS}


@pytest.mark.parametrize("package", OURS)
def test_packages_import_only_what_they_may(package):
    files = [p for p in (ROOT / package).rglob("*.py") if p != ROOT / "agent_srl" / "cli.py"]
    assert files
    for path in files:
        for name in imported(path):
            allowed = any(name == a or name.startswith(a + ".") for a in ALLOWED[package])
            assert allowed, f"{path.relative_to(ROOT)} imports {name}"


@pytest.mark.parametrize(
    "code",
    [
        "import env_server, env_server.client, env_server.service",
        "import agent_srl.data, agent_srl.data.steps, agent_srl.data.formats",
        "import agent_srl.rewards, agent_srl.rewards.kinds, agent_srl.rewards.batch, agent_srl.rewards.trl",
        "import sys; sys.argv = ['x', '--help']; from agent_srl.cli import main\ntry: main()\nexcept SystemExit: pass",
    ],
)
def test_torch_is_not_imported_where_it_is_not_needed(code):
    check = f"{code}\nimport sys\nassert 'torch' not in sys.modules and 'transformers' not in sys.modules"
    done = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
