"""Trajectory files: many formats are read into `Trajectory`, three are written; ATIF is the canonical one.

One module per family (`atif`, `chat` with `styles`, `mini`, `sweagent`, `openhands`, `openhands_sdk`); `files` finds
the records, `read` picks the reader, `write` writes. What is decided for all:
  - Every turn of the agent becomes at least one step; a turn of several calls one step for each (`same_turn`). So
    targets and rejected steps add up to what the source holds.
  - A step that must not be learnt from stays as history, with the reason in `rejected`.
  - Names and arguments of calls are kept as the expert wrote them; commands in text are `bash`, handing in is `submit`.

Left out: clipping, which is the renderer's; which steps to learn from by choice (`agent_srl.data.curate`).
"""

from agent_srl.data.formats.identity import Origin, repo_of
from agent_srl.data.formats.read import READERS, Record, Rejected, read_records, read_trajectories
from agent_srl.data.formats.write import WRITERS, write_trajectories

__all__ = [
    "READERS",
    "WRITERS",
    "Origin",
    "Record",
    "Rejected",
    "read_records",
    "read_trajectories",
    "repo_of",
    "write_trajectories",
]
