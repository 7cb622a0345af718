"""Real tasks, and the two ways to reach the service."""

import tempfile
from pathlib import Path

import pytest

from env_server.schema import Action, Task
from env_server.tasks.environments import build
from env_server.tasks.hidden import without_tests
from env_server.tasks.sources import fetch
from env_server.tasks.trees import copy_tree, diff_files, make_repository, write_files

CODE, TESTS = "inflection/__init__.py", "test_inflection.py"
RIGHT, WRONG = "if number % 100 in (11, 12, 13):", "if number % 100 in (11, 12):"


@pytest.fixture(params=["process", "http"])
def how(request) -> str:
    """Every test that takes this runs against both."""
    return request.param


@pytest.fixture
def math_task() -> Task:
    """No sandbox needed."""
    return Task(kind="math", instance_id="sum", problem_statement="What is 1 + 1?", answer="2")


@pytest.fixture(scope="session")
def swe_task() -> Task:
    """The package inflection with a bug: it says 13rd. Its source is fetched once and kept in the cache."""
    source = fetch("inflection==0.5.1")
    record = build(source).record
    pristine = {path: (source.tree / path).read_bytes() for path in (CODE, TESTS)}
    bug = {CODE: pristine[CODE].replace(RIGHT.encode(), WRONG.encode())}
    tests = {TESTS: without_tests(pristine[TESTS], ["test_ordinal", "test_ordinalize"])}
    assert bug[CODE] != pristine[CODE]
    with tempfile.TemporaryDirectory() as folder:
        copy_tree(source.tree, Path(folder))
        write_files(Path(folder), {**bug, **tests})
        commit = make_repository(Path(folder))
    return Task(
        instance_id="inflection-0.5.1__13rd",
        repo="inflection",
        base_commit=commit,
        problem_statement="`inflection.ordinalize(13)` says 13rd. It should say 13th.",
        hints_text="Look at the numbers between 10 and 20.",
        patch=diff_files(bug, {CODE: pristine[CODE]}),
        test_patch=diff_files(tests, {TESTS: pristine[TESTS]}),
        FAIL_TO_PASS=[f"{TESTS}::test_ordinal[-13--13th]", f"{TESTS}::test_ordinalize[-13--13th]"],
        PASS_TO_PASS=[f"{TESTS}::test_ordinal[1-1st]", f"{TESTS}::test_dasherize[street-street]"],
        version="0.5.1",
        test_cmd="python -m pytest -rA -p no:cacheprovider",
        setup_patch=diff_files(pristine, {**bug, **tests}),
        environment=record,
    )


@pytest.fixture(scope="session")
def repair() -> Action:
    """The edit that mends `swe_task`."""
    arguments = {"command": "str_replace", "path": f"/testbed/{CODE}", "old_str": WRONG, "new_str": RIGHT}
    return Action(name="str_replace_editor", arguments=arguments)
