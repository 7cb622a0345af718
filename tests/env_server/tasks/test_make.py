"""Risks: a task that gives its bug away, cannot be solved or cannot be rebuilt; a package that crashes the run."""

import asyncio
import json

import pytest
from swebench.types import SWEbenchInstance

from env_server.errors import TaskError
from env_server.settings import Settings
from env_server.tasks.base import load_tasks
from env_server.tasks.environments import ensure
from env_server.tasks.make import Writer, make_tasks
from env_server.tasks.swe import collect_patch, prepare
from env_server.tasks.validate import validate_tasks
from sandboxes.base import Outcome


def test_packages_without_usable_tests_are_skipped_with_a_reason(made):
    tasks, out, notes = made
    report = json.loads((out / "report.json").read_text())
    assert len(tasks) == report["made"] == 6
    assert {task.repo for task in tasks} == {"shapes-demo"}
    assert "no test can be run" in report["packages"]["untested-demo"]["reason"]
    assert "a_module_that_nobody_has" in report["packages"]["broken-demo"]["reason"]
    assert [note for note in notes if note.startswith("skipped broken-demo")]


def test_rows_survive_the_file_and_keep_their_promises(made):
    tasks, out, _ = made
    assert load_tasks(out / "tasks.jsonl") == tasks
    assert len({task.instance_id for task in tasks}) == len({task.setup_patch for task in tasks}) == 6
    for task in tasks:
        assert 1 <= len(task.FAIL_TO_PASS) <= 10 and task.PASS_TO_PASS
        assert not set(task.FAIL_TO_PASS) & set(task.PASS_TO_PASS)
        assert "tests/" not in task.patch and "src/" not in task.test_patch
        assert "vendored" not in task.patch
        assert task.difficulty.edits == len(task.difficulty.kinds)


def test_the_statement_tells_the_symptom_and_not_the_fix(made):
    for task in made[0]:
        text = task.problem_statement
        assert 250 <= len(text) <= 1500
        fixed = [line[1:].strip() for line in task.patch.splitlines() if line.startswith("+") and line[1:2] != "+"]
        assert not [line for line in fixed if len(line) > 6 and line in text]
        assert "shapes_demo." in text
        assert not [word for word in ("src/", ".py", "diff --git", task.FAIL_TO_PASS[0]) if word in text]


async def test_the_agents_tree_holds_one_commit_and_no_pristine_copy(made, backend):
    for task in made[0][:3]:
        async with await prepare(task, backend, Settings()) as sandbox:

            async def sh(command, sandbox=sandbox):
                return (await sandbox.exec(command, timeout_s=60)).output.strip()

            assert await sh("git rev-list --all --count; git rev-parse HEAD") == f"1\n{task.base_commit}"
            assert await sh("git status --porcelain; git remote; git reflog; git stash list") == ""
            name = task.FAIL_TO_PASS[0].split("::")[-1].split("[")[0]
            assert await sh(f"grep -rn 'def {name}\\b' /testbed") == ""
            found = await sh("grep -rlF 'def to_places' /testbed /opt /home /tmp /etc /run 2>/dev/null")
            assert found.split() == ["/testbed/src/shapes_demo/_round.py"]
            assert await sh("find / -path /proc -prune -o -name 'shapes*demo*' -print 2>/dev/null | sort") == "\n".join(
                ["/opt/env/lib/python3.11/site-packages/shapes_demo-1.0.dist-info", "/testbed/src/shapes_demo"]
            ).replace("3.11", task.environment.python)
            run = await sandbox.exec(task.test_cmd, timeout_s=60)
            assert run.outcome is Outcome.OK, run.output


async def test_gold_resolves_and_empty_does_not(made, backend):
    results = await validate_tasks(made[0], backend, Settings(), 2)
    assert [row.problem for row in results] == [""] * 6
    assert [(row.gold, row.empty) for row in results] == [(True, False)] * 6


async def test_a_wrong_row_is_named_with_what_is_wrong(task, backend):
    rows = [
        task.model_copy(update={"patch": ""}),
        task.model_copy(update={"FAIL_TO_PASS": task.PASS_TO_PASS}),
        task.model_copy(update={"setup_patch": ""}),
        task.model_copy(update={"environment": None}),
    ]
    results = await validate_tasks(rows, backend, Settings(), 2)
    wanted = ("gold does not resolve", "empty patch resolves", "rebuilt tree", "has no Python environment")
    assert not any(row.ok for row in results)
    assert [word for row, word in zip(results, wanted, strict=True) if word not in row.problem] == []


async def test_the_same_seed_makes_the_same_tasks(made, backend, tmp_path):
    tasks = await make_tasks(["shapes-demo"], 2, tmp_path, seed=1, difficulty="medium", workers=1, backend=backend)
    again = await make_tasks(["shapes-demo"], 2, tmp_path, seed=1, difficulty="medium", workers=1, backend=backend)
    assert tasks == again
    assert load_tasks(tmp_path / "tasks.previous.jsonl") == tasks


async def test_calls_that_make_nothing_leave_the_task_files_alone(made, backend, tmp_path):
    (tmp_path / "tasks.jsonl").write_text(good := (made[1] / "tasks.jsonl").read_text())
    (tmp_path / "tasks.previous.jsonl").write_text(older := good.splitlines()[0])
    for _ in range(2):
        assert not await make_tasks(["a b"], 1, tmp_path, seed=0, difficulty="easy", workers=1, backend=backend)
    assert (tmp_path / "tasks.jsonl").read_text() == good
    assert (tmp_path / "tasks.previous.jsonl").read_text() == older


def test_an_empty_file_does_not_take_the_place_of_a_good_one(made, task, tmp_path):
    (tmp_path / "tasks.previous.jsonl").write_text("good")
    (tmp_path / "tasks.jsonl").write_text("")
    writer = Writer(tmp_path, 1, None, None)
    writer.add(task)
    writer.close({}, {})
    assert (tmp_path / "tasks.previous.jsonl").read_text() == "good"


def test_rows_hold_all_columns_of_swe_bench(made):
    rows = [json.loads(line) for line in (made[1] / "tasks.jsonl").read_text().splitlines()]
    assert not [row for row in rows if not set(SWEbenchInstance.__annotations__) <= row.keys()]


async def test_an_interruption_keeps_what_was_found(index, backend, tmp_path):
    running = asyncio.create_task(
        make_tasks(["shapes-demo"], 50, tmp_path, seed=3, difficulty="easy", workers=1, backend=backend)
    )
    while not (tmp_path / "tasks.jsonl").exists() or not (tmp_path / "tasks.jsonl").read_text():
        await asyncio.sleep(0.05)
        assert not running.done()
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert load_tasks(tmp_path / "tasks.jsonl")
    assert json.loads((tmp_path / "report.json").read_text())["made"] >= 1


async def test_more_than_a_package_has_ends_with_a_reason(index, backend, tmp_path):
    tasks = await make_tasks(["tiny-demo"], 60, tmp_path, seed=0, difficulty="easy", workers=2, backend=backend)
    reason = json.loads((tmp_path / "report.json").read_text())["packages"]["tiny-demo"]["reason"]
    assert 1 <= len(tasks) < 20
    assert f"only {len(tasks)} of" in reason


async def test_the_environment_is_rebuilt_from_the_row_alone(task, monkeypatch, tmp_path, backend):
    monkeypatch.setenv("AGENT_SRL_HOME", str(tmp_path))
    assert ensure(task.environment).record == task.environment
    async with await prepare(task, backend, Settings()) as sandbox:
        await sandbox.exec("echo 'x = 1' > new.py; mkdir -p build __pycache__; echo 1 > build/y", timeout_s=60)
        assert (await collect_patch(task, sandbox)).count("diff --git a/new.py b/new.py") == 1


@pytest.mark.parametrize("change", [{"difficulty": "silly"}, {"count": 0}, {"packages": []}, {"packages": ["a b"]}])
async def test_bad_arguments_are_refused_in_one_line(change, backend, tmp_path):
    arguments = {"packages": ["shapes-demo"], "count": 1, "difficulty": "easy"} | change
    if arguments["packages"] == ["a b"]:
        assert await make_tasks(out=tmp_path, seed=0, workers=1, backend=backend, **arguments) == []
        assert "NAME==VERSION" in (tmp_path / "report.json").read_text()
    else:
        with pytest.raises(TaskError):
            await make_tasks(out=tmp_path, seed=0, workers=1, backend=backend, **arguments)
