"""Risks: a traceback instead of one clear line, a wrong exit code, work lost on a full disk.

Every case runs the real command and must name the thing, say the way out, and exit with 2.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from agent_srl.data.formats import write_trajectories
from agent_srl.run_folder import locked
from env_server.schema import Action, Step, Trajectory

STEPS = [Step(thought="Look.", action=Action(name="bash", arguments={"command": "ls"}), observation="a")] * 2


def run(*args: str, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "agent_srl", *args],
        capture_output=True,
        text=True,
        timeout=240,
        env={**os.environ, "HF_HUB_OFFLINE": "1", **(env or {})},
    )


def refused(done: subprocess.CompletedProcess[str], *names: str) -> None:
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr + done.stdout
    for name in names:
        assert name in " ".join((done.stdout + done.stderr).split())


@pytest.fixture
def good(tmp_path) -> Path:
    path = tmp_path / "good.jsonl"
    write_trajectories(
        path,
        [
            Trajectory(
                instance_id=f"p__{i}", repo=f"p{i}", problem_statement="It is broken.", source="test", steps=STEPS
            )
            for i in range(3)
        ],
    )
    return path


@pytest.mark.parametrize(
    ("args", "names"),
    [
        (("train", "--task", "chess"), ("unknown task 'chess'", "swe or math")),
        (("train", "--config", "no/such"), ("no config 'no/such'", "swe/quickstart")),
        (("train", "--set", "train.steps=3"), ("unknown key 'train.steps'",)),
        (("train", "--method", "magic"), ("method",)),
        (("train", "--set", "train.max_steps=2026-13-45"), ("train.max_steps=2026-13-45", "YAML")),
        (("train", "--set", "train.lr=.inf"), ("train.lr",)),
        (("train", "--config", "x" * 300), ("File name too long",)),
        (("train", "--task", "math", "--trajectories", "x.jsonl"), ("--data",)),
        (("train", "--trajectories", "missing.jsonl"), ("missing.jsonl",)),
        (("train", "--model", "./nowhere"), ("./nowhere", "folder")),
        (("train", "--model", "no-org/no-model-of-this-name"), ("no-org/no-model-of-this-name",)),
        (("train", "--task", "math", "--data", "missing.jsonl"), ("missing.jsonl",)),
        (("eval", "--tasks", "missing.jsonl", "--gold"), ("missing.jsonl", "tasks make")),
        (("eval", "--gold"), ("--tasks",)),
        (("eval", "--gold", "--trajectories", "x.jsonl"), ("--trajectories", "--model")),
        (("eval", "--model", "smollm2", "--trajectories", "missing.jsonl"), ("missing.jsonl",)),
        (("train", "--set", "data.context=budget"), ("data.budget_tokens",)),
        (("eval", "--tasks", "x.jsonl", "--gold", "--empty"), ("exactly one",)),
        (("tasks", "validate", "missing.jsonl"), ("missing.jsonl",)),
        (("trajectories", "record", "--tasks", "missing.jsonl", "--out", "x.jsonl"), ("missing.jsonl",)),
        (("rewards", "score", "missing.jsonl"), ("missing.jsonl",)),
        (("rewards", "score", "--kind", "magic", "-"), ("unknown reward 'magic'", "structured")),
        (("rewards", "explain", "{", "{}"), ("EXPERT", "not JSON")),
        (("serve", "--tasks", "missing.jsonl"), ("missing.jsonl",)),
    ],
)
def test_wrong_arguments_are_named(args, names, tmp_path):
    out = ("--out", str(tmp_path / "run")) if args[0] == "train" else ()
    refused(run(*args, *out), *names)


def test_a_broken_line_is_named_with_its_number_and_the_rest_is_used(good, tmp_path, tiny_model):
    good.write_text(good.read_text() + '{"instance_id": \n')
    sets = [part for s in ("warmup.steps=0", "train.max_steps=0", "eval.steps=0") for part in ("--set", s)]
    out = ("--out", str(tmp_path / "run"))
    done = run("train", "--trajectories", str(good), "--model", str(tiny_model), *out, *sets)
    assert done.returncode == 0, done.stderr
    assert f"{good}:4" in "".join(done.stderr.split("\n"))


def test_a_file_without_a_usable_line_is_refused(tmp_path):
    broken = tmp_path / "broken.jsonl"
    broken.write_text("not json\n")
    refused(run("train", "--trajectories", str(broken), "--out", str(tmp_path / "run")), "broken.jsonl")


def test_a_broken_task_row_is_named_with_its_line(tmp_path):
    tasks = tmp_path / "tasks.jsonl"
    tasks.write_text('{"instance_id": "a", "problem_statement": "b"}\n{"instance_id": "c"}\n')
    refused(run("tasks", "validate", str(tasks)), f"{tasks}:2", "problem_statement")


@pytest.mark.parametrize("text", ["- a", "plain", "a: [", "\xff"])
def test_a_folder_whose_config_is_no_runs_is_named(text, good, tmp_path, tiny_model):
    (tmp_path / "config.yaml").write_text(text, encoding="latin-1")
    refused(
        run("train", "--trajectories", str(good), "--model", str(tiny_model), "--out", str(tmp_path)), "config.yaml"
    )


def test_a_file_in_the_place_of_the_run_folder_is_not_touched(good, tmp_path, tiny_model):
    out = tmp_path / "thesis.txt"
    out.write_text("precious")
    refused(run("train", "--trajectories", str(good), "--model", str(tiny_model), "--out", str(out)), "thesis.txt")
    assert out.read_text() == "precious"


def test_a_folder_that_another_process_writes_into_is_refused(good, tmp_path, tiny_model):
    tasks, out = tmp_path / "tasks.jsonl", tmp_path / "run"
    tasks.write_text('{"instance_id": "a", "problem_statement": "b"}\n')
    with locked(out):
        for args in (
            ("train", "--trajectories", str(good), "--model", str(tiny_model)),
            ("eval", "--gold", "--tasks", str(tasks)),
        ):
            refused(run(*args, "--out", str(out)), f"{out} is in use", "--out")
    assert [p.name for p in out.iterdir()] == [".lock"]


def test_without_any_sandbox_the_message_says_what_to_install(tmp_path):
    tasks = tmp_path / "tasks.jsonl"
    tasks.write_text('{"instance_id": "a", "problem_statement": "b"}\n')
    nothing = {"PATH": str(tmp_path), "DOCKER_HOST": f"unix://{tmp_path}/none.sock"}
    refused(run("eval", "--tasks", str(tasks), "--gold", env=nothing), "bubblewrap", "install")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount a small file system")
def test_a_full_disk_is_named_and_nothing_written_before_is_lost(good, tmp_path, tiny_model):
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(disk)], check=False).returncode:
        pytest.skip("mounting is not allowed here")
    try:
        sets = [part for s in ("warmup.steps=1", "eval.steps=0") for part in ("--set", s)]
        done = run("train", "--trajectories", str(good), "--model", str(tiny_model), "--out", str(disk / "run"), *sets)
        refused(done, "disk", "space")
        assert (disk / "run" / "config.yaml").exists()
    finally:
        subprocess.run(["umount", str(disk)], check=True)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_without_permission_is_named(good, tmp_path, tiny_model):
    locked = tmp_path / "locked"
    locked.mkdir(mode=0o500)
    refused(
        run("train", "--trajectories", str(good), "--model", str(tiny_model), "--out", str(locked / "run")), "locked"
    )
