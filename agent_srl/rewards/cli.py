"""`agent-srl rewards`: score calls, and see why a pair scores as it does. No model is needed."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from agent_srl.errors import ConfigError, DataError

if TYPE_CHECKING:
    from env_server.schema import Action

app = typer.Typer(help="Score actions against an expert's.", no_args_is_help=True)
Calls = tuple[list["Action"], list[list["Action"]]]


@app.callback()
def rewards() -> None:
    """Score actions against an expert's."""


@app.command()
def score(
    file: Annotated[str, typer.Argument(help="JSON lines; - reads standard input.")],
    kind: Annotated[str, typer.Option(help="ratio, tokens, structured, exact or tool_name.")] = "structured",
) -> None:
    """Print one JSON list of scores per line of FILE.

    A line is {"expert": CALL, "candidates": [CALL, ...]}, a CALL {"name": ..., "arguments": {...}}; the arguments may
    be a JSON string, and a list of calls in the place of a CALL means parallel calls.

    Example:

      agent-srl rewards score --kind structured pairs.jsonl
    """
    from agent_srl.rewards.kinds import score_calls

    _known(kind)
    for _, (expert, candidates) in _lines(file):
        values = [round(score_calls(kind, calls, expert).value, 6) for calls in candidates]
        typer.echo(json.dumps(values))


@app.command()
def explain(
    expert: Annotated[str, typer.Argument(help="The expert's CALL as JSON, or a file of `rewards score`.")],
    candidate: Annotated[str, typer.Argument(help="The candidate's CALL as JSON; leave it out with a file.")] = "",
    line: Annotated[int, typer.Option(help="Line of the file, from 1.", min=1)] = 1,
    number: Annotated[int, typer.Option(help="Candidate of that line, from 1.", min=1)] = 1,
) -> None:
    """Show every kind's score of one pair, the parts, what each call is taken for, and the matching blocks.

    Examples:

      agent-srl rewards explain '{"name": "bash", "arguments": {"command": "ls"}}' '{"name": "submit"}'

      agent-srl rewards explain pairs.jsonl --line 3 --number 2
    """
    from rich.console import Console

    from agent_srl.rewards.explain import explanation

    if candidate:
        pair = _calls_of(expert, "EXPERT"), _calls_of(candidate, "CANDIDATE")
    else:
        pair = _from_file(expert, line, number)
    Console(highlight=False, soft_wrap=not sys.stdout.isatty()).print(explanation(pair[1], pair[0]))


def _known(kind: str) -> None:
    from agent_srl.rewards.kinds import REWARDS

    if kind not in REWARDS:
        raise ConfigError(f"unknown reward {kind!r}: choose from {', '.join(REWARDS)}")


def _calls_of(text: str, name: str) -> list[Action]:
    from agent_srl.rewards.calls import read_calls, read_json

    try:
        return read_calls(read_json(text))
    except ValueError as error:
        raise DataError(f"{name}: {error}") from None


def _from_file(file: str, line: int, number: int) -> tuple[list[Action], list[Action]]:
    if file != "-" and not Path(file).is_file():
        raise DataError(f"{file!r} is no file: give one, or two calls as JSON")
    for found, (expert, candidates) in _lines(file):
        if found == line:
            if number > len(candidates):
                raise DataError(f"{file}:{line}: there are {len(candidates)} candidates, not {number}")
            return expert, candidates[number - 1]
    raise DataError(f"{file} holds no line {line}")


def _lines(file: str) -> Iterator[tuple[int, Calls]]:
    """(line number, expert's calls and candidates) of every line that is not empty."""
    name = "standard input" if file == "-" else file
    for number, raw in enumerate(_stream(file), start=1):
        if raw.strip():
            try:
                yield number, _row(raw)
            except ValueError as error:
                raise DataError(f"{name}:{number}: {error}") from None


def _stream(file: str) -> Iterator[bytes]:
    if file == "-":
        yield from sys.stdin.buffer
        return
    try:
        with Path(file).open("rb") as lines:
            yield from lines
    except OSError as error:
        raise DataError(f"cannot read {file}: {error.strerror}") from None


def _row(raw: bytes) -> Calls:
    from agent_srl.rewards.calls import read_calls, read_json

    row: Any = read_json(raw)
    if not isinstance(row, dict) or "expert" not in row or not isinstance(row.get("candidates"), list):
        raise ValueError('a line is {"expert": CALL, "candidates": [CALL, ...]}')
    return read_calls(row["expert"]), [read_calls(one) for one in row["candidates"]]
