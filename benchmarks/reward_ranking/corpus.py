"""Real actions: every trajectory file of a folder, each accepted step with what a rule may know about its run."""

from __future__ import annotations

import hashlib
import random
import re
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path

from agent_srl.data.formats import read_trajectories
from agent_srl.errors import DataError
from agent_srl.rewards.similarity import bare_call
from benchmarks.reward_ranking.forms import Call, Search, take_apart
from env_server.schema import Action, Trajectory

SUFFIXES = (".jsonl", ".jsonl.gz", ".json", ".traj")
_FILE = re.compile(r"[\w./+-]*\w\.(?:py|rst|txt|cfg|toml|ini|html|js|c|h)\b")
_ROOT = re.compile(r"\A(?:\./|/testbed/|/workspace/[^/]+/)?")
_STRAY = re.compile(r"\.(?:orig|bak|backup)\b|\A/(?:tmp|dev|usr)/|\*")


@dataclass(frozen=True)
class Item:
    """One accepted step of a real run."""

    source: str
    """The file's name."""
    instance_id: str
    step: int
    action: Action
    previous: Action | None
    """What the expert did just before, accepted or not."""

    @property
    def id(self) -> str:
        return f"{self.source}:{self.instance_id}#{self.step}"

    @property
    def run(self) -> str:
        return f"{self.source}:{self.instance_id}"


@dataclass
class Surroundings:
    """What else one run touched: material for plausible wrong actions."""

    files: list[str] = field(default_factory=list)
    """Without their root, in order of appearance."""
    patterns: list[str] = field(default_factory=list)
    """Raw grep patterns."""


@dataclass
class Corpus:
    """All accepted steps, and where they came from."""

    items: list[Item] = field(default_factory=list)
    runs: dict[str, Surroundings] = field(default_factory=dict)
    sha256: dict[str, str] = field(default_factory=dict)
    unread: dict[str, str] = field(default_factory=dict)
    """Files that no reader takes, with the reason."""


def load(data: Path) -> Corpus:
    """Read `data/trajectories`.

    Raises:
        DataError: there is no such folder, or nothing in it can be read.
    """
    folder = data / "trajectories"
    corpus = read(sorted(p for p in folder.rglob("*") if p.name.endswith(SUFFIXES)) if folder.is_dir() else [])
    if not corpus.items:
        raise DataError(
            f"no expert trajectories under {folder}; give the folder that holds `trajectories/` with --data"
        )
    return corpus


def read(files: list[Path]) -> Corpus:
    """Files that no reader takes are listed, not fatal."""
    corpus = Corpus()
    for path in files:
        try:
            trajectories, _ = read_trajectories(path)
        except DataError as error:
            corpus.unread[path.name] = str(error)
            continue
        corpus.sha256[path.name] = hashlib.sha256(path.read_bytes()).hexdigest()
        for trajectory in trajectories:
            _add(corpus, path.name, trajectory)
    return corpus


def rootless(path: str) -> str:
    """`/testbed/a/b.py` and `./a/b.py` are `a/b.py`."""
    return path[_ROOT.match(path).end() :]  # type: ignore[union-attr]


def root(path: str) -> str:
    return path[: len(path) - len(rootless(path))]


def split(corpus: Corpus, seed: int, heldout_runs: int = 60) -> tuple[list[Item], list[Item]]:
    """Training and held-out steps. Whole tasks are held out, whichever file they are in; last steps are no targets
    (arXiv 2510.25992, section 4.2: k in 1..N-1)."""
    by_task: dict[str, list[Item]] = defaultdict(list)
    for item in corpus.items:
        by_task[item.instance_id].append(item)
    names = sorted(by_task)
    random.Random(f"{seed}:split").shuffle(names)
    inner = [item for name in names for item in by_task[name] if item.action.name not in ("submit", "finish")]
    held = set(names[:heldout_runs])
    return [i for i in inner if i.instance_id not in held], [i for i in inner if i.instance_id in held]


def _add(corpus: Corpus, source: str, trajectory: Trajectory) -> None:
    previous: Action | None = None
    around = corpus.runs.setdefault(f"{source}:{trajectory.instance_id}", Surroundings())
    for number, step in enumerate(trajectory.steps):
        if step.is_target and step.action is not None:
            corpus.items.append(Item(source, trajectory.instance_id, number, step.action, previous))
            _note(around, take_apart(step.action))
        previous = step.action


def _note(around: Surroundings, call: Call) -> None:
    first_line = bare_call(call.action).partition("\n")[0]
    for path in _FILE.findall(first_line):
        name = rootless(path)
        if not _STRAY.search(name) and name not in around.files:
            around.files.append(name)
    if isinstance(call.form, Search) and call.form.pattern not in around.patterns:
        around.patterns.append(call.form.pattern)
