"""Risks: two processes that learn something else than one, one without work or with an error that leaves the others
waiting, an error that is told once per process.

Real processes over gloo, on the whole `agent-srl train`.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from agent_srl.data.formats import write_trajectories
from env_server.schema import Action, Step, Trajectory

DRIVER = Path(__file__).with_name("scored_by_tokens.py")
ROOT = DRIVER.parents[2]
SETTINGS = {
    "model.threads": 1,
    "model.dtype": "float32",
    "data.heldout_fraction": 0,
    "data.first_step": "true",
    "warmup.steps": 0,
    "train.max_steps": 5,
    "train.groups": 2,
    "train.samples": 3,
    "train.steps_per_trajectory": 2,
    "train.max_new_tokens": 6,
    "train.checkpoint_every": 2,
    "train.lr": 0.001,
    "eval.steps": 0,
    "eval.episodes": 0,
}
TIMING = {"sampling_s", "seconds", "cpu_s", "tokens_per_s"}


@pytest.fixture(scope="module")
def expert(tmp_path_factory) -> Path:
    file = tmp_path_factory.mktemp("data") / "expert.jsonl"
    rows = []
    for i in range(4):
        commands = [f"ls {i}", f"cat {i}.py", "pwd", f"grep x {i}.py", "git diff"]
        steps = [
            Step(thought="Go.", action=Action(name="bash", arguments={"command": c}), observation=c) for c in commands
        ]
        rows.append(
            Trajectory(instance_id=f"p__{i}", repo="p", problem_statement="Broken.", steps=steps, source="test")
        )
    write_trajectories(file, rows)
    return file


TORCHRUN = ("torch.distributed.run", "--standalone", "--nproc_per_node=2")
# --multi_gpu is accelerate's word for several processes: without it and without GPUs it starts one.
ACCELERATE = ("accelerate.commands.launch", "--multi_gpu", "--num_processes=2", "--num_machines=1")
ACCELERATE += ("--main_process_port=0", "--mixed_precision=no", "--dynamo_backend=no")


def train(processes, expert, model, out, fault="", by=TORCHRUN, **more) -> subprocess.CompletedProcess[str]:
    launcher = ["-m", *by] if processes > 1 else []
    sets = [part for k, v in (SETTINGS | more).items() for part in ("--set", f"{k}={v}")]
    flags = ["train", "--trajectories", str(expert), "--model", str(model), "--out", str(out), *sets]
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": path, "FAULT": fault}
    return subprocess.run(
        [sys.executable, *launcher, str(DRIVER), *flags], capture_output=True, text=True, timeout=300, env=env
    )


def metrics(out: Path) -> list[dict]:
    rows = [json.loads(line) for line in (out / "srl" / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in row.items() if k not in TIMING and isinstance(v, int | float)} for row in rows]


@pytest.fixture(scope="module")
def alone(expert, tiny_model, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("alone") / "run"
    done = train(1, expert, tiny_model, out)
    assert done.returncode == 0, done.stderr
    return out


@pytest.fixture(scope="module")
def together(expert, tiny_model, tmp_path_factory) -> Path:
    """Two processes, ended after three steps and gone on with."""
    out = tmp_path_factory.mktemp("together") / "run"
    for steps in (3, 5):
        done = train(2, expert, tiny_model, out, **{"train.max_steps": steps})
        assert done.returncode == 0, done.stderr
        assert done.stderr.count("run folder:") == 1 and done.stderr.count("SRL 3/") == (steps == 3)
    return out


def test_two_processes_sample_the_same_groups_as_one(alone, together):
    name = ("srl", "samples.jsonl")
    assert together.joinpath(*name).read_text() == alone.joinpath(*name).read_text()
    assert any(row["sampled_groups"] == 2 for row in metrics(alone)), "one trajectory in a round: one process has none"


def test_two_processes_reach_the_metrics_and_weights_of_one(alone, together):
    for one, two in zip(metrics(alone), metrics(together), strict=True):
        assert one.keys() == two.keys()
        # What trajectories of different processes share is computed on each.
        assert two.pop("trained_tokens") >= one.pop("trained_tokens")
        assert one == pytest.approx(two, rel=1e-3, abs=1e-5)
    before, after = (load_file(out / "model" / "model.safetensors") for out in (alone, together))
    for name, weight in before.items():
        torch.testing.assert_close(after[name], weight, rtol=1e-4, atol=1e-5)


def test_accelerate_launch_starts_the_same_run(alone, expert, tiny_model, tmp_path):
    pytest.importorskip("accelerate", reason="accelerate is not installed")
    done = train(2, expert, tiny_model, tmp_path, by=ACCELERATE, **{"train.max_steps": 1, "model.device": "cpu"})
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("run folder:") == 1 and done.stderr.count("SRL 1/") == 1
    checkpoint = torch.load(tmp_path / "srl" / "checkpoints" / "step-000001.pt", weights_only=True)
    assert len(checkpoint["random"]) == 2, "one state of the generators for each process"
    name, [one] = ("srl", "samples.jsonl"), metrics(tmp_path)
    expected = alone.joinpath(*name).read_text().splitlines()[: one["sampled_groups"]]
    assert tmp_path.joinpath(*name).read_text().splitlines() == expected


@pytest.mark.parametrize("file", ["checkpoints/step-000005.pt", "metrics.jsonl"])
def test_a_broken_file_is_named_once_by_two_processes(file, together, expert, tiny_model, tmp_path):
    out = shutil.copytree(together, tmp_path / "run")
    broken = out / "srl" / file
    broken.write_bytes(broken.read_bytes()[:100] + b"\n\n")
    done = train(2, expert, tiny_model, out, **{"train.max_steps": 6})
    said = [text for text in done.stderr.splitlines() if text.startswith("agent-srl:")]
    assert done.returncode and len(said) == 1 and broken.name in said[0], done.stderr


@pytest.mark.parametrize(("fault", "line"), [("memory:1:2", "memory ran out"), ("kill:1:2", "lost the others")])
def test_a_process_that_fails_ends_the_others_with_one_line(fault, line, expert, tiny_model, tmp_path):
    started = time.monotonic()
    settings = {"train.steps_per_trajectory": 1, "train.groups": 4}
    done = train(2, expert, tiny_model, tmp_path / "run", fault, **settings)
    assert done.returncode and time.monotonic() - started < 120
    said = [text for text in done.stderr.splitlines() if text.startswith("agent-srl:")]
    assert len(said) == 1 and line in said[0], done.stderr
