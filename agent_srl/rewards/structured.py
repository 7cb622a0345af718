"""The structured reward, ours: tool, then target, then content.

Both actions are read as intents (`reading`), whatever tool or shell idiom says them. Two intents agree by kind x target
x content, each in [0, 1] with a floor that keeps reasonable attempts apart; chains of intents are matched by an optimal
assignment in which what is left over costs. Work that the candidate destroys and the expert does not closes a gate.
Shared words count a little, most where nothing else agrees, so that a group of poor samples keeps a spread.

Bounds [0, 1]; 1 for the expert's own call; symmetric where neither side destroys anything that the other leaves.
Left out: running anything, the state of the tree (`cat f | head -50` shows all of a short file; we cannot know).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from agent_srl.rewards.assignment import assign, matched_share
from agent_srl.rewards.content import content_similarity
from agent_srl.rewards.edits import RIGHT_PLACE, edit_similarity, text_similarity
from agent_srl.rewards.reading.intents import Intent, Loss, is_scratch
from agent_srl.rewards.reading.tools import read_action
from agent_srl.rewards.similarity import MAX_CHARS, bare_call
from agent_srl.rewards.targets import targets_similarity
from agent_srl.rewards.tokens import tokenise
from env_server.schema import Action

HARMLESS = 0.02
"""Worth of any action that destroys nothing: above one that does."""
WORDS_ALONE = 0.07
"""Worth of the expert's words in an action that does something else."""
WORDING = 0.03
"""Cost of other words in an action that does the same."""
SAME_KIND = 0.06
"""What the right kind alone is worth."""


@dataclass(frozen=True)
class Rule:
    """How intents of one kind are compared."""

    weight: float
    """In a chain of commands."""
    target: float = 0.0
    """What is left of the worth in another place."""
    content: float = 0.0
    """What is left of it with another content."""


RULES: dict[str, Rule] = {
    "view": Rule(0.8, content=0.5),
    "search": Rule(0.8, target=0.15),
    "find": Rule(0.8, target=0.25),
    "list": Rule(0.5, content=0.7),
    "run": Rule(1.0, content=0.5),
    "test": Rule(1.0, content=0.5),
    "edit": Rule(1.5),
    "create": Rule(1.5, target=0.2),
    "delete": Rule(0.8, content=0.6),
    "move": Rule(0.6, content=0.6),
    "restore": Rule(0.8, content=0.6),
    "vcs": Rule(0.5, target=0.5, content=0.4),
    "install": Rule(0.8),
    "submit": Rule(1.0),
    "think": Rule(0.3),
    "text": Rule(1.0),
    "tool": Rule(1.0, target=0.2),
    "other": Rule(0.6),
}

NEAR: dict[frozenset[str], float] = {
    frozenset(pair): worth
    for *pair, worth in (
        ("view", "search", 0.25),
        ("view", "list", 0.25),
        ("view", "find", 0.15),
        ("search", "find", 0.4),
        ("search", "list", 0.15),
        ("find", "list", 0.4),
        ("run", "test", 0.4),
        ("list", "test", 0.1),
        ("run", "other", 0.15),
        ("edit", "create", 0.35),
        ("edit", "run", 0.05),
        ("create", "run", 0.4),
        ("delete", "restore", 0.15),
        ("vcs", "view", 0.1),
        ("vcs", "submit", 0.08),
    )
}
"""Worth of another kind, in the same place."""


_NEAR_VERBS: dict[frozenset[str], float] = {
    frozenset(("diff", "show")): 0.45,
    frozenset(("diff", "status")): 0.4,
    frozenset(("log", "show")): 0.4,
}
"""Worth of another sub-command of git that shows nearly the same; 0.3 of any other."""
_VERBS_NEAR = frozenset(["run", "restore", "view", "search"])


@dataclass(frozen=True)
class Agreement:
    """Of two intents; every number in [0, 1]."""

    kind: float
    target: float
    content: float
    value: float


def structured(candidate: Action, expert: Action) -> tuple[float, dict[str, float]]:
    """The value in [0, 1] and its parts: kind, target, content (means over matched intents), gate, text."""
    if candidate == expert:
        return 1.0, dict.fromkeys(("kind", "target", "content", "gate", "text"), 1.0)
    ours, theirs = read_action(candidate), read_action(expert)
    table = [[agreement(a, b) for b in theirs] for a in ours]
    weights = [_weight(i) for i in ours], [_weight(i) for i in theirs]
    share = matched_share([[a.value for a in row] for row in table], *weights)
    gate = _gate(ours, theirs)
    text = _text(candidate, expert)
    parts = _parts(table, *weights) | {"gate": gate, "text": text}
    value = share * (1 - WORDING + WORDING * text) + (1 - share) * WORDS_ALONE * text
    return gate * (HARMLESS + (1 - HARMLESS) * value), parts


def agreement(left: Intent, right: Intent) -> Agreement:
    """kind x target x content of two intents; symmetric."""
    if left == right:
        return Agreement(1.0, 1.0, 1.0, 1.0)
    kind = 1.0 if left.kind == right.kind else NEAR.get(frozenset((left.kind, right.kind)), 0.0)
    if kind == 0.0:
        return Agreement(0.0, 0.0, 0.0, 0.0)
    target = targets_similarity(left.targets, right.targets)
    if left.kind != right.kind:
        content = _across(left, right)
        return Agreement(kind, target, content, kind * target * content)
    rule = RULES[left.kind]
    kind *= _verbs(left, right) * _flags(left.flags, right.flags)
    floor = rule.target
    if left.kind == "edit":
        content = _edits(left, right)
    elif left.kind == "create":
        content = _files(left, right)
        floor = 0.5 if all(is_scratch(t.path) for i in (left, right) for t in i.targets) else floor
    else:
        least = rule.content if left.targets or right.targets or not left.content else 0.0
        content = least + (1 - least) * content_similarity(left.kind, left.content, right.content)
    worth = (floor + (1 - floor) * target) * content
    return Agreement(kind, target, content, kind * (SAME_KIND + (1 - SAME_KIND) * worth))


def _edits(left: Intent, right: Intent) -> float:
    if left.change is None or right.change is None:
        return float(left.change == right.change)
    place, change = edit_similarity(left.change, right.change, _path(left, right))
    return (0.1 + 0.9 * place) * (RIGHT_PLACE + (1 - RIGHT_PLACE) * change)


def _files(left: Intent, right: Intent) -> float:
    if left.change is None or right.change is None:
        return float(left.change == right.change)
    return text_similarity(left.change.new, right.change.new, _path(left, right))


def _path(left: Intent, right: Intent) -> str:
    """The file whose language both changes are in; the same whichever comes first."""
    return min((target.path for intent in (left, right) for target in intent.targets[:1]), default="")


def _across(left: Intent, right: Intent) -> float:
    """Content of near kinds: new text of edits and new files, else what both name."""
    if left.change is not None and right.change is not None:
        return text_similarity(left.change.new, right.change.new, _path(left, right))
    if "create" in (left.kind, right.kind):  # a file, and code that is run in place
        made, run = (left, right) if left.change else (right, left)
        return max(0.1, text_similarity(made.change.new, run.content, "")) if made.change else 0.1
    if left.content and right.content:
        return 0.3 + 0.7 * content_similarity(min(left.kind, right.kind), left.content, right.content)
    return 0.6


def _verbs(left: Intent, right: Intent) -> float:
    if left.verb == right.verb:
        return 1.0
    if left.kind == "edit":  # an editor's replacement has no reach
        return 0.5 if left.verb and right.verb else 1.0
    if left.kind == "vcs":
        return _NEAR_VERBS.get(frozenset((left.verb, right.verb)), 0.3)
    return 0.93 if left.kind == "test" else 0.3 if left.kind in _VERBS_NEAR else 0.1


def _flags(left: frozenset[str], right: frozenset[str]) -> float:
    return 1.0 if left == right else 0.85 + 0.15 * len(left & right) / len(left | right)


def _weight(intent: Intent) -> float:
    return intent.weight * RULES[intent.kind].weight


def _gate(ours: Sequence[Intent], theirs: Sequence[Intent]) -> float:
    """What is left where the candidate destroys what the expert keeps, or makes files where it makes none."""
    spared = [loss for intent in ours for loss in intent.losses if not _covered(loss, theirs)]
    gates = [0.6 if is_scratch(loss.path) else 0.015 if loss.broad else 0.05 for loss in spared]
    if not any(intent.change for intent in theirs):
        gates += [0.3 for i in ours if i.kind == "create" and not all(is_scratch(t.path) for t in i.targets)]
    return min(gates, default=1.0)


def _covered(loss: Loss, theirs: Sequence[Intent]) -> bool:
    """Whether the expert destroys this too."""
    for other in (loss for intent in theirs for loss in intent.losses):
        everything = other.broad and other.path in ("*", ".", "/")
        if everything or other.path == loss.path or (other.broad and loss.path.startswith(other.path + "/")):
            return True
    return False


def _text(candidate: Action, expert: Action) -> float:
    """Words that both hold, in any order, over all words."""
    left, right = (Counter(tokenise(bare_call(action)[:MAX_CHARS])) for action in (candidate, expert))
    total = left.total() + right.total()
    return 2 * (left & right).total() / total if total else 1.0


def _parts(table: list[list[Agreement]], rows: list[float], columns: list[float]) -> dict[str, float]:
    """Means over the matched pairs, weighted as the value is."""
    weights = [[a + b for b in columns] for a in rows]
    pairs = assign(
        [[w * cell.value for w, cell in zip(*line, strict=True)] for line in zip(weights, table, strict=True)]
    )
    total = sum(weights[i][j] for i, j in pairs) or 1.0

    def mean(name: str) -> float:
        return sum(weights[i][j] * float(getattr(table[i][j], name)) for i, j in pairs) / total

    return {name: mean(name) for name in ("kind", "target", "content")}
