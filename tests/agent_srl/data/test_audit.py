"""Risk: an audit that says other than what training does; a benchmark instance that is trained on unseen."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from agent_srl.config import DataConfig
from agent_srl.data.audit import audit, count_tokens, quantiles
from agent_srl.data.benchmark import Benchmark
from agent_srl.data.formats import read_records, read_trajectories, write_trajectories
from agent_srl.data.prepare import read_all
from agent_srl.errors import DataError
from agent_srl.progress import Console
from env_server.schema import Action, Step, Trajectory


def run(instance_id: str, *steps: Step, resolved: bool | None = True) -> Trajectory:
    repo = instance_id.partition("-")[0]
    return Trajectory(
        instance_id=instance_id, repo=repo, problem_statement="p", steps=list(steps), source="s", resolved=resolved
    )


def bash(command: str, thought: str = "why", answer: str = "x") -> Step:
    return Step(thought=thought, action=Action(name="bash", arguments={"command": command}), observation=answer)


SWE_BENCH = Path(__file__).resolve().parents[4] / "shared" / "data" / "swebench"
REFUSED = "sed: can't read a.py: No such file"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Five runs: a benchmark's, a twice recorded one, an unresolved one; and a broken line."""
    path = tmp_path / "runs.jsonl"
    twice = [bash("ls"), Step(thought="Hm.", action=None), bash("x" * 50)]
    again = [bash(" ls ", thought="why "), Step(thought="Hm.", action=None, observation="later"), bash("x" * 50)]
    rows = [
        run("django__django-123", bash("ls"), bash("sed -i s/a/b/ a.py", answer=REFUSED)),
        run("a__b-1", *twice),
        run("a__b-1", *again),
        run("a__c-2", bash("pwd"), resolved=False),
        run("a__d-3", bash("sed -i s/a/b/ a.py"), bash("git checkout a.py"), resolved=None),
    ]
    write_trajectories(path, rows)
    path.write_text(path.read_text() + "{broken\n")
    return path


def facts(file: Path, **settings: Any) -> dict[str, Any]:
    config = DataConfig(**settings)
    return audit(read_records(file, config.format), config).to_json()


def test_counts_add_up(file):
    found = facts(file)
    assert (found["format"], found["trajectories"], found["instances"]) == ("atif", 5, 4)
    assert (found["turns"], found["steps"], found["targets"]) == (11, 11, 9)
    assert found["rejected"] == {"no action": 2} and found["resolved"] == {"yes": 3, "no": 1, "unknown": 1}
    assert found["skipped"]["records"] == 1 and f"{file}:6" in found["skipped"]["first"][0]
    assert found["first_words"]["sed"] == 2 and found["tools"] == {"bash": 9}
    assert found["characters"]["action"]["max"] == 55 and found["tokens"] is None


def test_the_same_run_is_a_duplicate_whatever_its_spaces_and_outputs(file):
    assert facts(file)["duplicates"] == {"trajectories": 1, "groups": [["a__b-1", "a__b-1"]]}


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"exclude_benchmark": True},
        {"mask_failed_edits": True, "mask_reverted_edits": True},
        {"max_action_chars": 40},
        {"exclude_benchmark": True, "mask_reverted_edits": True, "max_thought_chars": 2},
    ],
)
def test_training_sees_what_the_audit_says(file, settings):
    config = DataConfig(trajectories=[str(file)], **settings)
    trained = read_all(config, Console())
    seen = facts(file, **settings)["training"]
    assert seen["trajectories"] == len(trained)
    assert seen["targets"] == sum(step.is_target for t in trained for step in t.steps)


def test_masks_and_outliers_are_reasons_beside_the_others(file):
    found = facts(file, mask_failed_edits=True, mask_reverted_edits=True, max_action_chars=40)
    assert found["rejected"] == {"no action": 2, "outlier": 2, "failed edit": 1, "reverted edit": 1}
    assert found["steps"] == found["targets"] + sum(found["rejected"].values())


def test_benchmark_instances_are_found_by_rule_and_by_list_and_can_be_left_out(file, tmp_path):
    found = facts(file)
    assert found["benchmark"]["instances"] == ["django__django-123"] and found["benchmark"]["excluded"] == 0
    assert facts(file, exclude_benchmark=True)["trajectories"] == 4
    listed = tmp_path / "ids.jsonl"
    listed.write_text('{"instance_id": "a__b-1"}\n')
    both = facts(file, exclude_benchmark=True, benchmark_lists=[str(listed)])
    assert both["trajectories"] == 2 and both["benchmark"]["excluded"] == 3
    listed.write_text('{"id": "a__b-1"}\n')
    with pytest.raises(DataError, match=r"ids\.jsonl names no instance"):
        Benchmark([str(listed)])


@pytest.mark.parametrize(
    ("instance_id", "held"),
    [
        ("django__django-11099", True),
        ("scikit-learn__scikit-learn-13135", True),
        ("sympy__sympy-20590_4", True),
        ("pydata__xarray.5d05d81b.func_pm__x", False),
        ("pylint-dev__astroid-1196", False),
        ("marshmallow-code__marshmallow-1867", False),
        ("notdjango__django-1", False),
    ],
)
def test_the_rule_knows_the_twelve_repositories_and_no_other(instance_id, held):
    assert Benchmark().holds(instance_id) is held


@pytest.mark.skipif(not SWE_BENCH.is_dir(), reason="the lists of SWE-bench are not on this machine")
@pytest.mark.parametrize(("name", "count"), [("swebench_verified", 500), ("swebench_lite", 300)])
def test_the_rule_finds_every_instance_of_verified_and_lite(name, count):
    lines = (SWE_BENCH / f"{name}.jsonl").read_text().splitlines()
    ids = [json.loads(line)["instance_id"] for line in lines]
    assert len(ids) == count and all(map(Benchmark().holds, ids))


def test_tokens_are_counted_on_a_sample_that_is_named(file):
    config = DataConfig()
    found = audit(read_records(file), config)
    count_tokens(found, "words", lambda text: len(text.split()))
    said = found.to_json()
    assert said["tokenizer"] == {"name": "words", "trajectories": 5} and said["tokens"]["thought"]["max"] == 1
    assert len(found.tokens["thought"]) == 11


def test_the_sample_is_bounded_and_reaches_the_end_of_a_long_file(tmp_path):
    path = tmp_path / "long.jsonl"
    write_trajectories(path, [run(f"a__b-{i}", bash(f"echo {i}")) for i in range(500)])
    sample = audit(read_records(path), DataConfig()).sample
    numbers = sorted(int(t.instance_id.removeprefix("a__b-")) for t in sample)
    assert len(set(numbers)) == 64 and numbers[0] < 50 and numbers[-1] > 450


def test_quantiles_are_values_that_occur():
    assert quantiles(list(range(1, 101))) == {"p10": 11, "p50": 51, "p90": 91, "max": 100}
    assert quantiles([]) == {}


def command(*args: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "COLUMNS": "160"}
    return subprocess.run(
        [sys.executable, "-m", "agent_srl", "trajectories", *args],
        capture_output=True,
        text=True,
        timeout=240,
        env=environment,
    )


def test_inspect_prints_one_object_a_table_and_a_plot(file, tmp_path, monkeypatch):
    monkeypatch.setenv("AGENT_SRL_HOME", str(tmp_path / "without-a-model"))
    done = command("inspect", str(file), "--json")
    assert done.returncode == 0 and json.loads(done.stdout)["targets"] == 9
    shown = command("inspect", str(file), "--plot", str(tmp_path / "plot.svg"))
    assert shown.returncode == 0 and "warning: 1 trajectories are on benchmark instances" in shown.stdout
    assert (tmp_path / "plot.svg").read_text().startswith("<svg")


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (("inspect", "FILE", "--strict"), ("runs.jsonl:6", "not JSON")),
        (("inspect", "FILE", "--format", "nonsense"), ("nonsense", "swe-agent")),
        (("inspect", "FILE", "--plot", "plot.png"), (".svg",)),
        (("inspect", "FILE", "--tokenizer", "/nowhere"), ("/nowhere",)),
        (("inspect", "missing.jsonl"), ("missing.jsonl",)),
        (("inspect", "no-org/no-data-set"), ("no-org/no-data-set", "network")),
        (("convert", "FILE", "OUT", "--to", "nonsense"), ("nonsense", "swe-smith-xml")),
        (("convert", "FILE", "OUT", "--strict"), ("runs.jsonl:6",)),
        (("convert", "FILE", "FILE/below.jsonl"), ("runs.jsonl",)),
    ],
)
def test_bad_input_is_one_line_and_exit_2(file, tmp_path, args, words):
    args = tuple(a.replace("FILE", str(file)).replace("OUT", str(tmp_path / "out.jsonl")) for a in args)
    done = command(*args)
    assert done.returncode == 2 and "Traceback" not in done.stderr
    for word in words:
        assert word in done.stderr


def test_convert_writes_what_reads_back_and_says_what_is_lost(file, tmp_path):
    for to in ("atif", "chat", "swe-smith-xml"):
        out = tmp_path / f"{to}.jsonl.gz"
        done = command("convert", str(file), str(out), "--to", to)
        assert done.returncode == 0 and "5 trajectories written" in done.stderr and "runs.jsonl:6" in done.stderr
        assert ("cannot hold" in done.stderr) == (to != "atif")
        targets = [[s.is_target for s in t.steps] for t in read_trajectories(out)[0]]
        assert targets == [[s.is_target for s in t.steps] for t in read_trajectories(file)[0]]
