"""Risks: a killed run that starts anew or drifts, a run that goes on without signal, files that cannot be loaded.

The whole `agent-srl train` on a tiny model: warm-up, SRL, comparison. Nothing is replaced.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from agent_srl.data.formats import write_trajectories

SETTINGS = [
    "model.threads=1",
    "model.dtype=float32",
    "data.context=full",
    "warmup.steps=90",
    "warmup.lr=0.01",
    "train.groups=3",
    "train.samples=4",
    "train.max_new_tokens=64",
    "train.checkpoint_every=1",
    "train.lr=0.001",
    "eval.samples=2",
    "eval.steps=4",
]


def command(file: Path, model: Path, out: Path, *extra: str) -> list[str]:
    sets = [part for s in [*SETTINGS, *extra] for part in ("--set", s)]
    flags = ["--trajectories", str(file), "--model", str(model), "--out", str(out)]
    return [sys.executable, "-m", "agent_srl", "train", "--task", "swe", *flags, *sets]


@pytest.fixture(scope="module")
def expert(tmp_path_factory) -> Path:
    """Runs so alike that a tiny model learns the format from a short warm-up."""
    from env_server.schema import Action, Step, Trajectory

    file = tmp_path_factory.mktemp("data") / "expert.jsonl"
    steps = [
        Step(thought="Look.", action=Action(name="bash", arguments={"command": c}), observation="a.py")
        for c in ("ls", "cat a.py", "ls", "cat a.py")
    ]
    rows = [
        Trajectory(instance_id=f"p{i}__1", repo=f"p{i}", problem_statement="It is broken.", steps=steps, source="test")
        for i in range(4)
    ]
    write_trajectories(file, rows)
    return file


def metrics(out: Path) -> list[dict]:
    timing = {"sampling_s", "seconds", "cpu_s", "tokens_per_s"}
    rows = [json.loads(line) for line in (out / "srl" / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in row.items() if k not in timing} for row in rows]


@pytest.fixture(scope="module")
def unbroken(expert, tiny_model, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("unbroken") / "run"
    done = subprocess.run(
        command(expert, tiny_model, out, "train.max_steps=6"), capture_output=True, text=True, timeout=580
    )
    assert done.returncode == 0, done.stderr
    return out


def test_a_run_learns_and_leaves_everything_needed_to_repeat_it(unbroken, tiny_model):
    rows = metrics(unbroken)
    assert [r["step"] for r in rows] == [1, 2, 3, 4, 5, 6]
    assert all(r["kept_groups"] <= r["sampled_groups"] and r["grad_norm"] for r in rows)
    environment = json.loads((unbroken / "environment.json").read_text())
    assert environment["packages"]["torch"] and environment["seed"] == 0
    assert (unbroken / "config.yaml").exists()
    results = json.loads((unbroken / "results.json").read_text())
    policies = [r["policy"] for r in results["rows"]]
    assert policies[1:] == ["repeat the last action", "random expert action", "warm-up", "SRL", "SRL minus warm-up"]
    samples = [json.loads(line) for line in (unbroken / "srl" / "samples.jsonl").read_text().splitlines()]
    assert {s["reward"] for r in samples for s in r["samples"]} != {-1.0}


def test_the_model_is_loaded_by_transformers_and_has_changed(unbroken, tiny_model):
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    AutoTokenizer.from_pretrained(unbroken / "model")
    trained = AutoModelForCausalLM.from_pretrained(unbroken / "model")
    warm = AutoModelForCausalLM.from_pretrained(unbroken / "warmup" / "model")
    assert any(not torch.equal(a, b) for a, b in zip(trained.parameters(), warm.parameters(), strict=True))


def test_a_run_killed_in_training_goes_on_and_reaches_the_same_metrics(unbroken, expert, tiny_model, tmp_path):
    out = tmp_path / "run"
    full = command(expert, tiny_model, out, "train.max_steps=6")
    started = subprocess.Popen(full, stderr=subprocess.DEVNULL, start_new_session=True)
    file, deadline = out / "srl" / "metrics.jsonl", time.monotonic() + 300
    while not (file.exists() and len(file.read_text().splitlines()) >= 3):
        assert started.poll() is None and time.monotonic() < deadline
        time.sleep(0.02)
    os.killpg(started.pid, signal.SIGKILL)
    started.wait()
    before = metrics(out)
    assert 3 <= len(before) < 6
    done = subprocess.run(full, capture_output=True, text=True, timeout=580)
    assert done.returncode == 0, done.stderr
    assert metrics(out) == metrics(unbroken)
    assert json.loads((out / "results.json").read_text()) == json.loads((unbroken / "results.json").read_text())


def test_a_finished_run_is_used_again_and_takes_the_slower_comparisons(unbroken, expert, tiny_model):
    before = (unbroken / "model" / "model.safetensors").stat().st_mtime_ns
    more = ("train.max_steps=6", "eval.controls=true")
    done = subprocess.run(command(expert, tiny_model, unbroken, *more), capture_output=True, text=True, timeout=580)
    assert done.returncode == 0 and "already trained" in done.stderr
    assert (unbroken / "model" / "model.safetensors").stat().st_mtime_ns == before
    policies = [r["policy"] for r in json.loads((unbroken / "results.json").read_text())["rows"]]
    controls = {"warm-up, T=0.5", "SRL, T=0.5", "SFT continued", "SRL minus SFT continued"}
    assert controls <= set(policies) and "SRL minus warm-up" in policies


CHOICE = ("train.max_steps=5", "train.eval_every=2", "train.eval_steps=6", "data.heldout_fraction=0.5")


@pytest.fixture(scope="module")
def chosen(expert, tiny_model, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("chosen") / "run"
    done = subprocess.run(command(expert, tiny_model, out, *CHOICE), capture_output=True, text=True, timeout=580)
    assert done.returncode == 0, done.stderr
    assert "kept the model of step" in done.stderr
    return out


def test_the_model_that_scores_best_on_held_out_steps_is_kept(chosen):
    scored = {r["step"]: r["heldout"]["reward"] for r in metrics(chosen) if "heldout" in r}
    assert list(scored) == [2, 4, 5]
    best = max(scored, key=lambda step: (scored[step], -step))
    assert metrics(chosen)[-1]["best_step"] == best
    kept = (chosen / "model" / "model.safetensors").read_bytes()
    assert kept == (chosen / "srl" / "best" / f"step-{best:06d}" / "model.safetensors").read_bytes()
    measured = next(r["heldout"] for r in metrics(chosen) if "heldout" in r)
    assert measured.keys() >= {"exact_match", "tool_accuracy", "file_accuracy", "perplexity", "format_valid"}


def test_a_run_killed_between_two_evaluations_chooses_the_same_model(chosen, expert, tiny_model, tmp_path):
    out = tmp_path / "run"
    full = command(expert, tiny_model, out, *CHOICE)
    started = subprocess.Popen(full, stderr=subprocess.DEVNULL, start_new_session=True)
    file, deadline = out / "srl" / "metrics.jsonl", time.monotonic() + 300
    while not (file.exists() and len(file.read_text().splitlines()) >= 3):
        assert started.poll() is None and time.monotonic() < deadline
        time.sleep(0.02)
    os.killpg(started.pid, signal.SIGKILL)
    started.wait()
    done = subprocess.run(full, capture_output=True, text=True, timeout=580)
    assert done.returncode == 0, done.stderr
    assert metrics(out) == metrics(chosen)
    weights = ("model", "model.safetensors")
    assert out.joinpath(*weights).read_bytes() == chosen.joinpath(*weights).read_bytes()


def test_a_model_is_scored_on_the_steps_of_a_file(unbroken, expert, tmp_path):
    flags = ["--model", str(unbroken / "model"), "--trajectories", str(expert), "--out", str(tmp_path / "eval")]
    small = ("model.threads=1", "model.dtype=float32", "train.max_new_tokens=64", "eval.steps=6", "eval.samples=2")
    sets = [part for s in small for part in ("--set", s)]
    done = subprocess.run(
        [sys.executable, "-m", "agent_srl", "eval", *flags, *sets], capture_output=True, text=True, timeout=580
    )
    assert done.returncode == 0, done.stderr
    rows = json.loads((tmp_path / "eval" / "results.json").read_text())["rows"]
    assert len(rows) == 4 and rows[-1]["policy"] == str(unbroken / "model")
    assert rows[-1]["perplexity"] > 1 and rows[1]["policy"] == "repeat the last action"
    assert all(0 <= r["exact_match"] <= r["tool_accuracy"] <= 1 for r in rows)
    assert "perplexity" in done.stdout and "repeat the last" in done.stdout


def test_a_run_without_signal_stops_with_advice(expert, tiny_model, tmp_path):
    done = subprocess.run(
        command(expert, tiny_model, tmp_path / "run", "warmup.steps=0", "train.refill_rounds=0", "eval.steps=0"),
        capture_output=True,
        text=True,
        timeout=580,
    )
    assert done.returncode == 2
    assert "nothing to learn from" in done.stderr and "warmup.steps" in done.stderr and "Traceback" not in done.stderr
