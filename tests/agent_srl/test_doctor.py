"""Doctor: it never fails, whatever is broken, and what it says can be done is a command."""

import json
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from agent_srl import doctor as doctor_module
from agent_srl.doctor import Fact, doctor, machine_facts, possible_jobs

app = typer.Typer()
app.command()(doctor)

NAMES = ("memory", "torch", "transformers", "accelerate", "datasets", "trl", "swebench", "unidiff")
NAMES += ("math_verify", "vllm", "cuda", "bubblewrap", "docker", "default model")


def machine(*broken: str) -> list[Fact]:
    return [Fact(name, "not installed" if name in broken else "ok", name not in broken) for name in NAMES]


def can(*broken: str) -> dict[str, bool]:
    return {job.name: job.ok for job in possible_jobs(machine(*broken))}


def test_a_full_machine_can_do_everything():
    assert all(can().values())


def test_a_machine_without_anything_can_do_nothing_and_each_job_has_a_command():
    jobs = possible_jobs(machine(*NAMES))
    assert not any(job.ok for job in jobs)
    assert all(job.fix and job.missing for job in jobs)


def test_one_sandbox_is_enough_and_none_is_not():
    assert can("docker")["sandboxed tasks"] and can("bubblewrap")["sandboxed tasks"]
    assert not can("docker", "bubblewrap")["sandboxed tasks"]
    assert not can("docker", "bubblewrap")["train swe on CPU"]
    assert can("docker", "bubblewrap")["math"]


def test_no_gpu_closes_only_what_needs_one():
    closed = {name for name, ok in can("cuda", "vllm").items() if not ok}
    assert closed == {"train on GPU", "generate with vLLM"}


def test_this_machine_is_described_as_json():
    result = CliRunner().invoke(app, ["--json"])
    said = json.loads(result.stdout)
    assert result.exit_code == 0
    assert {"python", "cores", "torch", "cuda", "bubblewrap", "docker"} <= {fact["name"] for fact in said["facts"]}
    assert all(bool(job["fix"]) != job["ok"] for job in said["jobs"])


def test_a_broken_torch_is_a_line_and_not_a_traceback(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "torch.py").write_text("raise OSError('libcudart.so: cannot open shared object file')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    facts = {fact.name: fact for fact in machine_facts()}
    assert "libcudart" in facts["cuda"].value
    assert not facts["cuda"].ok


def test_nothing_to_run_is_exit_one_and_still_a_table(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(doctor_module, "machine_facts", lambda: machine(*NAMES))
    result = CliRunner().invoke(app, [])
    assert result.exit_code == 1
    assert "what to do" in result.stdout


def test_a_package_whose_metadata_is_gone_is_called_broken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "leftover_of_an_uninstall.py").write_text("")
    monkeypatch.syspath_prepend(str(tmp_path))
    fact = doctor_module._package("leftover_of_an_uninstall")
    assert not fact.ok
    assert "broken" in fact.value
