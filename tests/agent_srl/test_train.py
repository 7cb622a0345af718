"""Risks: a killed run that starts anew or drifts, a run that goes on without signal, files that cannot be loaded.

The whole `agent-srl train` on a tiny model: warm-up, SRL, comparison. Nothing is replaced.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
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
    out, started = tmp_path_factory.mktemp("unbroken") / "run", time.monotonic()
    done = subprocess.run(
        command(expert, tiny_model, out, "train.max_steps=6"), capture_output=True, text=True, timeout=580
    )
    assert done.returncode == 0, done.stderr
    (out.parent / "seconds").write_text(str(time.monotonic() - started))
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


def killed(full: list[str], out: Path, where: str, seconds: float) -> str | None:
    """Start the command and kill it `seconds` after the moment `where`. What it was doing, or None if it had ended."""
    checkpoints, lines = out / "srl" / "checkpoints", out / "srl" / "metrics.jsonl"
    before = len(lines.read_text().splitlines()) if lines.exists() else 0
    for leftover in checkpoints.glob("*.tmp"):  # of an earlier kill: it would be taken for this run's
        leftover.rename(leftover.with_suffix(".old.tmp"))
    started = subprocess.Popen(full, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL, start_new_session=True)

    def reached() -> bool:
        if where == "step":
            return lines.exists() and len(lines.read_text().splitlines()) > before
        return where == "start" or any(checkpoints.glob("step-??????.tmp"))

    deadline = time.monotonic() + 300
    while started.poll() is None and not reached():
        assert time.monotonic() < deadline
        time.sleep(0.0005)
    with contextlib.suppress(subprocess.TimeoutExpired):
        started.wait(seconds)
    alive = started.poll() is None
    with contextlib.suppress(ProcessLookupError):
        os.killpg(started.pid, signal.SIGKILL)
    started.wait()
    return doing(out) if alive else None


def doing(out: Path) -> str:
    """What a killed run left shows where it was."""
    srl = out / "srl"
    if any(srl.glob("checkpoints/step-??????.tmp")):
        return "writing a checkpoint"
    if any(srl.glob("done-*")):
        return "comparing"
    if (srl / "metrics.jsonl").exists():
        return f"training, {len((srl / 'metrics.jsonl').read_text().splitlines())} steps made"
    return "before training" if (out / "warmup" / "model").exists() else "starting or warming up"


def same(out: Path, unbroken: Path) -> None:
    """Bit for bit."""
    assert metrics(out) == metrics(unbroken)
    for name in ("srl/samples.jsonl", "model/model.safetensors", "results.json"):
        assert (out / name).read_bytes() == (unbroken / name).read_bytes(), name


def test_a_run_killed_at_random_moments_reaches_the_same_metrics_and_weights(unbroken, expert, tiny_model, tmp_path):
    """`KILLS=10 pytest -s -k random_moments tests/agent_srl/test_train.py` kills ten times and says what it hit."""
    chance, kills, run = random.Random(int(os.environ.get("SEED", "0"))), int(os.environ.get("KILLS", "3")), 0
    whole = (unbroken.parent / "seconds").read_text()
    hit: list[str] = []
    while len(hit) < kills:
        out = tmp_path / f"run{run}"
        full = command(expert, tiny_model, out, "train.max_steps=6")
        where = ("start", "step", "checkpoint")[len(hit) % 3]
        seconds = chance.uniform(0, {"start": float(whole), "step": 1.0, "checkpoint": 0.02}[where])
        found = killed(full, out, where, seconds)
        if found is None:  # it ended first
            same(out, unbroken)
            run += 1
            continue
        hit.append(found)
        print(f"kill {len(hit)}, {seconds:.3f} s after {where}: {found}")
    done = subprocess.run(full, capture_output=True, text=True, timeout=580)
    assert done.returncode == 0, done.stderr
    same(out, unbroken)


def test_sigterm_ends_a_run_after_its_step_which_is_saved(unbroken, expert, tiny_model, tmp_path):
    out = tmp_path / "run"
    shutil.copytree(
        unbroken, out, ignore=lambda folder, _: ["srl", "model", "results.json"] if folder == str(unbroken) else []
    )
    full = command(expert, tiny_model, out, "train.max_steps=6")
    rare = [*full, "--set", "train.checkpoint_every=100"]
    started = subprocess.Popen(rare, stderr=subprocess.PIPE, text=True)
    lines, deadline = out / "srl" / "metrics.jsonl", time.monotonic() + 300
    while not (lines.exists() and lines.read_text()):
        assert started.poll() is None and time.monotonic() < deadline
        time.sleep(0.01)
    started.terminate()
    _, said = started.communicate(timeout=300)
    assert started.returncode == 143 and "Traceback" not in said
    steps = len(metrics(out))
    assert f"stopped by SIGTERM after step {steps} of 6" in said and f"--out {out}" in " ".join(said.split())
    assert [p.name for p in (out / "srl" / "checkpoints").iterdir()] == [f"step-{steps:06d}.pt"]
    done = subprocess.run(full, capture_output=True, text=True, timeout=580)
    assert done.returncode == 0, done.stderr
    same(out, unbroken)


def test_a_second_sigterm_waits_for_the_checkpoint_and_sigint_does_not(tmp_path):
    """A launcher passes SIGTERM on to processes that its sender has sent it to as well."""
    code = (
        "import signal, sys, time\nfrom pathlib import Path\nfrom agent_srl.train.stopping import Sigterm\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # a shell's background jobs ignore it
        "with Sigterm() as s:\n"
        "    print('ready', flush=True)\n    while not s.came: time.sleep(0.01)\n"
        "    print('noted', flush=True)\n    time.sleep(float(sys.argv[1]))\n    Path(sys.argv[2]).touch()"
    )
    for seconds, last in (("0.5", signal.SIGTERM), ("60", signal.SIGINT)):
        saved = tmp_path / last.name
        started = subprocess.Popen(
            [sys.executable, "-c", code, seconds, str(saved)],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        assert started.stdout is not None
        for line, sent in (("ready\n", signal.SIGTERM), ("noted\n", last)):
            assert started.stdout.readline() == line
            started.send_signal(sent)
        assert started.wait(10) == (0 if last == signal.SIGTERM else -signal.SIGINT)
        assert saved.exists() == (last == signal.SIGTERM)


def test_a_finished_run_is_used_again_and_takes_the_slower_comparisons(unbroken, expert, tiny_model, tmp_path):
    out = shutil.copytree(unbroken, tmp_path / "run")
    before = (out / "model" / "model.safetensors").stat().st_mtime_ns
    more = ("train.max_steps=6", "eval.controls=true")
    done = subprocess.run(command(expert, tiny_model, out, *more), capture_output=True, text=True, timeout=580)
    assert done.returncode == 0 and "already trained" in done.stderr
    assert (out / "model" / "model.safetensors").stat().st_mtime_ns == before
    policies = [r["policy"] for r in json.loads((out / "results.json").read_text())["rows"]]
    controls = {"warm-up, T=0.5", "SRL, T=0.5", "SFT continued", "SRL minus SFT continued"}
    assert controls <= set(policies) and "SRL minus warm-up" in policies


def test_a_longer_run_is_not_taken_for_a_shorter_one(unbroken, expert, tiny_model, tmp_path):
    out = shutil.copytree(unbroken, tmp_path / "run")
    fewer = command(expert, tiny_model, out, "train.max_steps=5")
    done = subprocess.run(fewer, capture_output=True, text=True, timeout=580)
    assert done.returncode == 2 and "holds a model of 6 steps" in done.stderr


def test_a_model_cut_off_is_named_and_made_anew_once_it_is_deleted(unbroken, expert, tiny_model, tmp_path):
    out = shutil.copytree(unbroken, tmp_path / "run")
    file, full = out / "model" / "model.safetensors", command(expert, tiny_model, out, "train.max_steps=6")
    file.write_bytes(file.read_bytes()[:-1000])
    done = subprocess.run(full, capture_output=True, text=True, timeout=580)
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert f"delete {out / 'model'} and start" in done.stderr
    shutil.rmtree(out / "model")
    done = subprocess.run(full, capture_output=True, text=True, timeout=580)
    assert done.returncode == 0, done.stderr
    same(out, unbroken)


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
