"""Risks: a script that fails on the borrowed machine, sides that compute different gradients."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest
import torch
from packaging.requirements import Requirement

from benchmarks import gpu_tree


class Nothing:
    """Leaves the gradients where they are."""

    def collect(self) -> None: ...

    def clip(self, max_grad_norm: float) -> None: ...

    def step(self, lr: float) -> None: ...


def test_it_runs_on_a_cpu_and_writes_both_files(tmp_path, capsys):
    gpu_tree.main(["--device", "cpu", "--tiny", "--out", str(tmp_path)])
    (row,) = json.loads((tmp_path / "gpu_tree.json").read_text())["rows"]
    assert row["tree"]["s"] > 0 and row["rows"]["s"] > 0 and row["row_tokens"] > row["unique_tokens"]
    assert "| tiny | 64 |" in capsys.readouterr().out


def linked(folder: Path, names: set[str]) -> None:
    """Link the packages `names` and all that they require into `folder`."""
    waiting, done = set(names), set()
    while waiting:
        name = waiting.pop()
        done.add(name)
        package = metadata.distribution(name)
        for top in {file.parts[0] for file in package.files or []} - {"..", "__pycache__"}:
            if not (folder / top).exists():
                (folder / top).symlink_to(package.locate_file(top))
        needed = [Requirement(text) for text in package.requires or []]
        here = (r.name for r in needed if not r.marker or r.marker.evaluate({"extra": ""}))
        waiting |= {re.sub(r"[-_.]+", "-", name).lower() for name in here} - done


def test_it_needs_nothing_but_torch_and_transformers(tmp_path):
    """Else the call on a borrowed machine fails after its minutes of start."""
    linked(tmp_path, {"torch", "numpy", "transformers"})
    paths = [str(tmp_path), str(Path(gpu_tree.__file__).parent.parent)]
    code = f"import sys; sys.path[:0] = {paths}; from benchmarks.gpu_tree import main; main()"
    command = [sys.executable, "-I", "-S", "-c", code, "--device", "cpu", "--tiny", "--out", str(tmp_path / "out")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "| tiny | 64 |" in done.stdout


def test_the_limit_leaves_what_was_measured(tmp_path):
    gpu_tree.main(["--device", "cpu", "--tiny", "--out", str(tmp_path), "--limit", "0"])
    result = json.loads((tmp_path / "gpu_tree.json").read_text())
    assert result["rows"] == [] and "not measured" in result["stopped"]


@pytest.mark.parametrize("micro", [1, 4])
def test_trees_and_rows_have_the_same_gradient(micro):
    shape, work = gpu_tree.TINY_MODELS["tiny"], gpu_tree.TINY_SHAPES["64"]
    branches, found = gpu_tree.make_branches(work, shape), []
    for attention, update, size in (
        ("agent_srl", gpu_tree._tree_update, 10_000),
        ("sdpa", gpu_tree._rows_update, micro),
    ):
        model = gpu_tree.make_model(shape, torch.device("cpu"), attention).float()
        update(model, Nothing(), branches, size)
        found.append(torch.cat([p.grad.flatten() for p in model.parameters()]))
    assert (found[0] - found[1]).norm() / found[1].norm() < 1e-5
