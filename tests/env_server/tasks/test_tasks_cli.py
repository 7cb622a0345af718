"""Risks: a bad row that exits 0, a bad file that is a traceback, a test requirement nobody declared being installed."""

import json

import pytest
from typer.testing import CliRunner

from env_server.errors import TaskError
from env_server.tasks import needs
from env_server.tasks.base import load_tasks
from env_server.tasks.cli import app
from env_server.tasks.sources import Source

run = CliRunner()
TEXTS = (
    None,
    "{broken\n",
    '{"instance_id": 3}\n',
    "",
    json.dumps({"instance_id": "a", "problem_statement": "p", "FAIL_TO_PASS": "9" * 5000}),
    json.dumps({"instance_id": "a", "problem_statement": "p", "FAIL_TO_PASS": "[" * 50_000}),
    '{"instance_id": "a", "problem_statement": "p", "n": ' + "9" * 5000 + "}",
)


def test_validate_names_the_bad_row_and_fails(made, tmp_path):
    good, bad = made[0][0], made[0][1].model_copy(update={"patch": ""})
    file = tmp_path / "tasks.jsonl"
    file.write_text(good.model_dump_json() + "\n" + bad.model_dump_json() + "\n")
    result = run.invoke(app, ["validate", str(file), "--json", "--sandbox", "bubblewrap"])
    rows = {row["instance_id"]: row for row in map(json.loads, result.stdout.splitlines())}
    assert result.exit_code == 1
    assert rows[good.instance_id]["ok"] and not rows[bad.instance_id]["ok"]
    assert "gold does not resolve" in rows[bad.instance_id]["problem"]
    file.write_text(good.model_dump_json())
    result = run.invoke(app, ["validate", str(file), "--sandbox", "bubblewrap"])
    assert result.exit_code == 0 and "1 of 1 rows are good" in result.stdout


def test_make_says_what_came_of_each_package(index, tmp_path):
    words = ["make", "--packages", "tiny-demo, untested-demo", "--count", "2", "--out", str(tmp_path)]
    result = run.invoke(app, [*words, "--sandbox", "bubblewrap"])
    assert result.exit_code == 0, result.output
    assert "2 of 2 tasks" in result.stdout and "no test can be run" in result.stdout
    assert len((tmp_path / "tasks.jsonl").read_text().splitlines()) == 2


@pytest.mark.parametrize("text", TEXTS)
def test_a_bad_file_is_one_clear_error(tmp_path, text):
    file = tmp_path / "tasks.jsonl"
    if text is not None:
        file.write_text(text)
    result = run.invoke(app, ["validate", str(file)])
    assert isinstance(result.exception, TaskError)
    assert "tasks.jsonl" in str(result.exception) and "\n" not in str(result.exception)


@pytest.mark.parametrize("seconds", ["0", "-1", "nan", "inf"])
def test_a_timeout_that_is_none_is_one_clear_error(tmp_path, seconds):
    result = run.invoke(app, ["validate", str(tmp_path / "tasks.jsonl"), "--timeout", seconds])
    assert isinstance(result.exception, TaskError) and "--timeout" in str(result.exception)


def test_a_byte_order_mark_is_no_part_of_the_first_row(tmp_path):
    row = json.dumps({"instance_id": "a", "problem_statement": "p"})
    (tmp_path / "tasks.jsonl").write_text(row, encoding="utf-8-sig")
    assert [task.instance_id for task in load_tasks(tmp_path / "tasks.jsonl")] == ["a"]


def test_only_what_the_author_requires_is_installed(tmp_path):
    (tmp_path / "tests").mkdir()
    (tmp_path / "tests/test_a.py").write_text("import hypothesis, freezegun, icu, yaml, json, helper\n")
    (tmp_path / "tests/helper.py").write_text("")
    (tmp_path / "PKG-INFO").write_text(
        "Provides-Extra: icu\nProvides-Extra: tests\nRequires-Dist: PyICU; extra == 'icu'\n"
    )
    (tmp_path / "tox.ini").write_text(
        "[testenv]\ndeps =\n    hypothesis>=6\n    py311: PyYAML\n    pytest-mock\n    helper\n"
    )
    source = Source("a", "1", "", "", tmp_path, tmp_path)
    assert needs.extras(source) == "[tests]"
    assert needs.declared_imports(source) == ["hypothesis", "pytest-mock", "pyyaml"]
