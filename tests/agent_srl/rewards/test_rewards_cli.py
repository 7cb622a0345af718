"""Risks: output that scripts cannot read, a broken line that is not named, a traceback."""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from agent_srl.errors import ConfigError, DataError
from agent_srl.rewards.cli import app

LS = {"name": "bash", "arguments": {"command": "ls"}}
SAME = {"name": "execute_bash", "arguments": '{"command": "ls"}'}
OTHER = {"name": "submit"}


def run(*args: str, text: str = ""):
    done = CliRunner().invoke(app, list(args), input=text, catch_exceptions=True)
    if done.exception and not isinstance(done.exception, SystemExit):
        raise done.exception
    return done.stdout


def lines(*rows: object) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def test_a_list_of_scores_per_line_and_nothing_else():
    row = {"expert": LS, "candidates": [LS, SAME, OTHER]}
    both = {"expert": [LS, OTHER], "candidates": [[OTHER, LS], LS]}
    found = [json.loads(line) for line in run("score", "--kind", "structured", "-", text=lines(row, both)).splitlines()]
    assert found[0][0] == 1 and found[0][1] > 0.95 and found[0][2] < 0.1
    assert found[1] == [1, pytest.approx(2 / 3)]
    assert run("score", "--kind", "exact", "-", text="\n" + lines({"expert": LS, "candidates": []})) == "[]\n"


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("{", "not JSON"),
        ("[]", "a line is"),
        ('{"expert": 3, "candidates": []}', "a call is"),
        ('{"expert": {"name": "x", "arguments": "["}, "candidates": []}', "not JSON"),
        ('{"expert": {"name": "x", "arguments": [1]}, "candidates": []}', "no JSON object"),
        ('{"expert": {"name": "x"}, "candidates": [null]}', "a call is"),
        ("[" * 100_000, "nested too deeply"),
    ],
)
def test_a_broken_line_is_named_with_its_file_and_number(line, reason, tmp_path):
    path = tmp_path / "pairs.jsonl"
    path.write_text(lines({"expert": LS, "candidates": [LS]}) + line + "\n")
    with pytest.raises(DataError, match=f"{path}:2: .*{reason}"):
        run("score", str(path))


def test_bytes_that_are_no_text_are_named(tmp_path):
    path = tmp_path / "pairs.jsonl"
    path.write_bytes(b"\xff\xfe{}\n")
    with pytest.raises(DataError, match=r"pairs\.jsonl:1: not"):
        run("score", str(path))


def test_an_unknown_kind_or_file_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"unknown reward 'best'.*structured"):
        run("score", "--kind", "best", "-")
    with pytest.raises(DataError, match=r"missing\.jsonl"):
        run("score", str(tmp_path / "missing.jsonl"))


def test_explain_shows_values_parts_and_intents(tmp_path):
    shown = run("explain", json.dumps(LS), json.dumps({"name": "bash", "arguments": {"command": "rm -rf [red]x [/]"}}))
    for word in ("structured", "gate", "list", "delete", "rm -rf [red]x [/]", "matching blocks"):
        assert word in shown
    path = tmp_path / "pairs.jsonl"
    path.write_text(lines({"expert": LS, "candidates": [LS, OTHER]}))
    assert "submit" in run("explain", str(path), "--number", "2")
    with pytest.raises(DataError, match="2 candidates"):
        run("explain", str(path), "--number", "3")
    with pytest.raises(DataError, match="no line 4"):
        run("explain", str(path), "--line", "4")
