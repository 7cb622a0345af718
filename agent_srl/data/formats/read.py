"""Records to trajectories: detects the format, reads, and names what could not be read."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sized
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from agent_srl.data.formats import atif, chat, openhands, openhands_sdk, sweagent
from agent_srl.data.formats.files import find_records
from agent_srl.data.formats.identity import Origin
from agent_srl.data.formats.styles import STYLES
from agent_srl.errors import DataError
from env_server.schema import Trajectory

Reader = Callable[[dict[str, Any], Origin], Trajectory]

_CHATS = (*STYLES, "mini-swe-agent-v2", chat.NEBIUS)
READERS: dict[str, Reader] = {
    atif.NAME: atif.read_atif,
    sweagent.NAME: sweagent.read_traj,
    openhands.NAME: openhands.read_events,
    openhands_sdk.NAME: openhands_sdk.read_sdk_events,
    **{name: partial(chat.read_chat, style=name) for name in _CHATS},
}
"""One reader per format that can be named."""
_BROKEN = (ValueError, LookupError, TypeError, AttributeError, RecursionError)


@dataclass(frozen=True)
class Rejected:
    """A record that was skipped."""

    origin: Origin
    reason: str

    @property
    def line(self) -> int:
        return self.origin.line

    def __str__(self) -> str:
        return f"{self.origin}: {self.reason}"


@dataclass(frozen=True)
class Record:
    """A record that was read."""

    origin: Origin
    format: str
    trajectory: Trajectory


def detect(record: Any) -> str:
    """The name of a record's format. Raises ValueError where no reader knows it."""
    if not isinstance(record, dict):
        raise ValueError("not a JSON object")
    if atif.is_atif(record):
        return atif.NAME
    if openhands_sdk.is_sdk_events(record):
        return openhands_sdk.NAME
    if openhands.is_events(record):
        return openhands.NAME
    if sweagent.is_traj(record):
        return sweagent.NAME
    if any(record.get(key) for key in chat.LISTS):
        return chat.style_of(record)
    keys = ", ".join(list(record)[:6]) or "none"
    raise ValueError(f"not a known trajectory format (keys: {keys})")


def read_records(path: Path | str, format: str = "auto", *, strict: bool = False) -> Iterator[Record | Rejected]:
    """Each record of a file, folder or data set, in order.

    Raises:
        DataError: the path cannot be read, the format has no such name, or (with `strict`) a record cannot be read.
    """
    if format != "auto" and format not in READERS:
        raise DataError(f"unknown format {format!r}: choose auto or one of {', '.join(READERS)}")
    for origin, value in find_records(path):
        read = read_value(value, origin, format)
        if strict and isinstance(read, Rejected):
            raise DataError(f"{read} (strict: nothing is skipped)")
        yield read


def read_trajectories(
    path: Path | str, format: str = "auto", *, strict: bool = False
) -> tuple[list[Trajectory], list[Rejected]]:
    """Every trajectory, and the records that were skipped.

    Raises:
        DataError: as `read_records`; or there is no valid trajectory.
    """
    return split_records(path, read_records(path, format, strict=strict))


def split_records(path: Path | str, records: Iterable[Record | Rejected]) -> tuple[list[Trajectory], list[Rejected]]:
    """Raises DataError if no record could be read."""
    trajectories: list[Trajectory] = []
    rejected: list[Rejected] = []
    for record in records:
        if isinstance(record, Record):
            trajectories.append(record.trajectory)
        else:
            rejected.append(record)
    require_some(path, trajectories, rejected)
    return trajectories, rejected


def require_some(path: Path | str, read: Sized, rejected: list[Rejected]) -> None:
    """Raises DataError if no record could be read."""
    if not read:
        first = f"; {rejected[0]}" if rejected else ""
        raise DataError(
            f"{path} holds no valid trajectory ({len(rejected)} rejected{first}); "
            "`agent-srl trajectories inspect --help` names the formats"
        )


def read_value(value: Any, origin: Origin, format: str = "auto") -> Record | Rejected:
    """The record, or why it cannot be read; never raises for what it holds."""
    if isinstance(value, Exception):
        return Rejected(origin, str(value))
    try:
        name = detect(value) if format == "auto" else format
        if not isinstance(value, dict):
            raise ValueError("not a JSON object")
        trajectory = READERS[name](value, origin)
        if not trajectory.steps:
            raise ValueError("no turn of an agent")
    except _BROKEN as error:
        return Rejected(origin, _reason(error))
    return Record(origin, name, trajectory)


def _reason(error: Exception) -> str:
    if isinstance(error, ValidationError):
        first = error.errors()[0]
        return f"{'.'.join(str(part) for part in first['loc'])}: {first['msg']}"
    if isinstance(error, KeyError):
        return f"no key {error}"
    return (str(error) or type(error).__name__).partition("\n")[0]
