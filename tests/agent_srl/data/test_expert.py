"""The expert: it solves what it records, edits only what it saw, and never shows that it knows the patch."""

import re
import shutil
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from repository import BUGS, FILES, SmallService, buggy, task

from agent_srl.data.expert import Dropped, Part, record_trajectories, record_trajectory
from agent_srl.data.expert_facts import parse_patch, printing, snippets_in
from agent_srl.data.expert_probe import definitions, probe, route, unique_edit
from agent_srl.data.expert_thoughts import describe_change, last_line, say
from env_server.schema import Task, Trajectory
from sandboxes import open_backend
from sandboxes.errors import SandboxUnavailable

LEAKS = re.compile(r"gold|patch|FAIL_TO_PASS|hidden test|as given|reference solution", re.IGNORECASE)
TIMES = re.compile(r"\d+\.\d+s|index [0-9a-f.]+")


@pytest.fixture
async def service() -> AsyncIterator[SmallService]:
    try:
        backend = open_backend("bubblewrap")
    except SandboxUnavailable as error:
        pytest.skip(str(error))
    if shutil.which("git") is None:
        pytest.skip("needs git")
    yield SmallService(backend, [task(bug) for bug in BUGS])
    await backend.close()


_recorded: dict[tuple[str, int], Trajectory] = {}


async def record(service: SmallService, bug: str, seed: int = 0) -> Trajectory:
    """Recorded once for all tests that look at the same run."""
    if (bug, seed) not in _recorded:
        _recorded[bug, seed] = await record_trajectory(task(bug), service, seed)  # type: ignore[arg-type]
    return _recorded[bug, seed]


@pytest.mark.parametrize("bug", BUGS)
async def test_every_kind_of_bug_is_solved_in_sight(service: SmallService, bug: str):
    trajectory = await record(service, bug)
    actions = [step.action for step in trajectory.steps]
    assert trajectory.resolved is True
    assert 7 <= len(actions) <= 14
    assert [a.name for a in actions].count("submit") == 1 and actions[-1].name == "submit"
    edits = [a for a in actions if a.arguments.get("command") == "str_replace"]
    assert len(edits) == len(BUGS[bug])
    assert changed(trajectory.patch) == changed(task(bug).patch)


@pytest.mark.parametrize("bug", ["indirect", "two"])
async def test_nothing_is_edited_before_it_was_shown(service: SmallService, bug: str):
    for seed in range(2):
        shown = ""
        for step in (await record(service, bug, seed)).steps:
            old = str(step.action.arguments.get("old_str", ""))
            assert all(line.strip() in shown for line in old.split("\n"))
            shown += step.observation


async def test_thoughts_are_short_and_never_leak(service: SmallService):
    for bug in BUGS:
        for step in (await record(service, bug)).steps:
            assert 8 <= len(step.thought.split()) <= 40, step.thought
            assert not LEAKS.search(step.thought), step.thought
            assert "{" not in step.thought.replace("{s.first}", "")


async def test_the_same_seed_takes_the_same_steps_and_another_seed_others(service: SmallService):
    again = await record_trajectory(task("indirect"), service, 0)  # type: ignore[arg-type]
    runs = [again, *[await record(service, "indirect", seed) for seed in (0, 1, 2)]]
    plain = [[(s.thought, s.action.model_dump_json(), TIMES.sub("", s.observation)) for s in r.steps] for r in runs]
    assert plain[0] == plain[1]
    assert len({tuple(action for _, action, _ in run) for run in plain}) >= 2


async def test_nothing_of_the_reproduction_is_left_in_the_change(service: SmallService):
    for seed in range(2):
        trajectory = await record(service, "direct", seed)
        assert set(re.findall(r"^\+\+\+ b/(.*)$", trajectory.patch, re.MULTILINE)) == {"ranges/text.py"}


async def test_runs_that_do_not_resolve_are_dropped_and_named(service: SmallService):
    wrong = task("direct").model_copy(
        update={"patch": task("direct").patch.replace("+    return", "+    return ''  #")}
    )
    empty = task("two").model_copy(update={"patch": ""})
    dropped: list[Dropped] = []
    ticks: list[int] = []
    found = await record_trajectories(
        [wrong, empty, task("raises")],
        service,  # type: ignore[arg-type]
        seed=5,
        workers=2,
        on_progress=lambda: ticks.append(1),
        on_drop=dropped.append,
    )
    assert [t.instance_id for t in found] == ["ranges__raises"]
    assert [(d.instance_id, d.seed) for d in dropped] == [("ranges__direct", 5), ("ranges__two", 5)]
    assert len(ticks) == 3


async def test_an_interrupted_recording_goes_on_where_it_was(service: SmallService, tmp_path: Path):
    rows, out = [task("direct"), task("raises")], tmp_path / "expert.jsonl.gz"
    part = Part(out)

    async def run(tasks: list[Task], part: Part) -> list[Trajectory]:
        return await record_trajectories(tasks, service, seed=0, workers=1, part=part)  # type: ignore[arg-type]

    first = await run(rows[:1], part)
    with part.path.open("a") as handle:
        handle.write('{"run": "torn')
    part, opened = Part(out), []
    service.create_session = counting(service.create_session, opened)  # type: ignore[method-assign]
    found = await run(rows, part)
    assert found[:1] == first and [t.instance_id for t in found] == ["ranges__direct", "ranges__raises"]
    assert set(opened) == {"ranges__raises"}
    assert len(Part(out)) == 2 and Part(out).get(rows[0], 1) is None
    assert Part(out).get(rows[0].model_copy(update={"patch": "other"}), 0) is None
    part.drop()
    assert list(tmp_path.iterdir()) == []


def counting(create, opened: list[str]):  # type: ignore[no-untyped-def]
    async def wrapped(instance_id: str):  # type: ignore[no-untyped-def]
        opened.append(instance_id)
        return await create(instance_id)

    return wrapped


def changed(patch: str) -> list[str]:
    return [line for line in patch.split("\n") if line[:1] in "+-" and not line.startswith(("+++", "---"))]


def test_patches_become_edits_that_apply_exactly(tmp_path: Path):
    for bug in BUGS:
        files = buggy(bug)
        for name, text in files.items():
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_text(text)
        found = probe(tmp_path, {"edits": parse_patch(task(bug).patch), "named": ["parse"]})
        for edit in found["edits"]:
            assert files[edit["path"]].count(edit["old"]) == 1
            files[edit["path"]] = files[edit["path"]].replace(edit["old"], edit["new"])
        assert files == FILES


def test_deleted_lines_leave_no_empty_line():
    text = "a\nb\nc\n"
    old, new = unique_edit(text, 1, ["b"], [])
    assert text.replace(old, new) == "a\nc\n"


def test_repeated_text_is_told_apart_by_its_surroundings():
    text = "def f():\n    x = 1\n\ndef g():\n    x = 1\n"
    old, new = unique_edit(text, 4, ["    x = 1"], ["    x = 2"])
    assert text.count(old) == 1
    assert text.replace(old, new) == "def f():\n    x = 1\n\ndef g():\n    x = 2\n"


def test_close_changes_are_one_edit_and_far_ones_two():
    near = "--- a/f.py\n+++ b/f.py\n@@ -1,4 +1,4 @@\n-a\n+A\n b\n-c\n+C\n d\n"
    far = "--- a/f.py\n+++ b/f.py\n@@ -1,7 +1,7 @@\n-a\n+A\n b\n c\n d\n e\n-f\n+F\n g\n"
    assert parse_patch(near) == [("f.py", 0, ["a", "b", "c"], ["A", "b", "C"])]
    assert parse_patch(far) == [("f.py", 0, ["a"], ["A"]), ("f.py", 5, ["f"], ["F"])]


def test_the_way_leads_over_calls_from_the_named_function(tmp_path: Path):
    for name, text in FILES.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    found = definitions(tmp_path)
    goal = next(d for d in found if d["name"] == "merge")
    assert [d["name"] for d in route(found, ["parse"], goal)] == ["parse", "_merged", "merge"]
    assert not any(d["path"].startswith("tests/") for d in found)


def test_only_code_that_runs_alone_is_taken_for_a_reproduction():
    statement = "```python\nimport x\n\nx.f(1)\n```\n`y.g(2)` and\n```\nassert 1 == 2\n```\n>>> import z\n>>> z.h()\n"
    assert snippets_in(statement) == ["import x\nprint(x.f(1))", "import z\nprint(z.h())"]
    assert printing("not python (") == ""


def test_changes_are_described_by_what_differs():
    assert describe_change("if a < b:", "if a <= b:") == (
        "`if a < b:` should be `if a <= b:`",
        "so the boundary is on the wrong side",
    )
    assert describe_change("    pass", "    if x:\n        return 1")[1] == "so the wrong path is taken"
    assert describe_change("f(a, b)", "f(b, a)")[1] == "so things are in the wrong order"
    assert last_line("....\n27 passed in 0.3s\n\n(exit code 1)\n") == "27 passed"


def test_a_thought_with_a_missing_slot_is_an_error():
    import random

    with pytest.raises(KeyError):
        say("edit", random.Random(0), function="f")


def test_a_task_without_a_test_file_has_none():
    from agent_srl.data.expert_facts import test_file

    assert test_file(Task(instance_id="x", problem_statement="p")) == ""
