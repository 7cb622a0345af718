"""Math tasks: generated or loaded problems, the judge of answers, and a session without a sandbox.

Left out: proofs and answers in words, tools for the solver, benchmark-specific answer formats.
"""

from __future__ import annotations

import contextlib
import gzip
import json
import random
import re
from collections.abc import Iterable
from fractions import Fraction
from pathlib import Path
from typing import Any

from env_server.errors import TaskError
from env_server.schema import Action, Observation, Task
from env_server.tasks.math_worker import Comparer
from env_server.tasks.word_problems import make

NEXT = "Next step."
DONE = "Done."
JUDGE_TIMEOUT_S = 10.0
SHARDS = 20
"""A loaded file is spread over this many `repo`s, so that a split by `repo` splits it too."""
MAX_ANSWER_CHARS = 1000

BOXED = re.compile(r"\\(?:boxed|fbox)\s*\{")
LABELLED = re.compile(r"(?:answer\s*(?:is)?\s*:|####)\s*(.+?)\s*$", re.IGNORECASE | re.MULTILINE)
NUMBERED = re.compile(r"^\s*\d+\.\s+\*\*", re.MULTILINE)
OPENING = re.compile(r"\\\[|\[asy\]|\\begin\{")
CLOSING = re.compile(r"\\\]|\[/asy\]|\\end\{")
CALCULATOR = re.compile(r"<<[^<>]*>>")

_comparer = Comparer(JUDGE_TIMEOUT_S)


def generate_problems(count: int, seed: int) -> list[Task]:
    """`count` different word problems with worked solutions; the same seed gives the same problems.

    The last step of each solution boxes the answer. `repo` names the kind of problem, so that a split by
    `repo` holds out kinds that were never trained on.
    """
    rng = random.Random(seed)
    tasks: dict[str, Task] = {}
    while len(tasks) < count:
        draft = make(rng)
        text = " ".join(draft.text)
        tasks.setdefault(
            text,
            Task(
                kind="math",
                instance_id=f"word-problems__{seed}-{len(tasks)}",
                repo=f"word-problems/{draft.kind}",
                problem_statement=text,
                answer=str(draft.answer),
                solution=draft.steps,
            ),
        )
    return list(tasks.values())


def load_math(path_or_hub_id: str | Path) -> list[Task]:
    """Problems of a local `.jsonl`, `.jsonl.gz` or `.json` file, or of the hub (`owner/name[:config]`).

    A row has `question` or `problem`; a solution in `steps`, `deepseek_attempt` (s1K), `solution` or before
    `####` in `answer` (GSM8K), or none; and an answer in `answer`, after `####`, or in the last box.

    Raises:
        TaskError: it cannot be read, a row is broken (named by its line), or there is no row.
    """
    path = Path(path_or_hub_id)
    if path.exists() or path.suffix in (".jsonl", ".json", ".gz"):
        name, rows = path.name.split(".")[0], _file_rows(path)
    else:
        name, rows = str(path_or_hub_id), enumerate(_hub_rows(str(path_or_hub_id)), start=1)
    tasks = [_task(row, name, f"{path_or_hub_id}:{line}", number) for number, (line, row) in enumerate(rows)]
    if not tasks:
        raise TaskError(f"{path_or_hub_id} holds no problem; each line needs `problem` and `answer`")
    return tasks


def judge(text: str, task: Task) -> bool:
    """Whether the last answer in `text` (`\\boxed{...}`, else `Answer: ...`) means the same as the task's.

    Wrong, strange or endless expressions are False, within about ten seconds. Safe in threads.

    Raises:
        EnvError: math-verify cannot run, so that nothing is known of the answer.
    """
    answer, gold = extract_answer(text), task.answer.strip()
    if not answer or not gold or len(answer) > MAX_ANSWER_CHARS:
        return False
    if _plain(answer) == _plain(gold):
        return True
    numbers = _number(answer), _number(gold)
    if numbers[0] is not None and numbers[1] is not None:
        return numbers[0] == numbers[1]
    return _comparer.equal(gold, answer)


def extract_answer(text: str) -> str:
    """The last boxed expression, else what follows the last `Answer:` or `####`; empty if there is none."""
    boxes = list(BOXED.finditer(text))
    for box in reversed(boxes):
        depth = 1
        for position in range(box.end(), len(text)):
            depth += {"{": 1, "}": -1}.get(text[position], 0)
            if depth == 0:
                return text[box.end() : position].strip()
    labelled = LABELLED.findall(text)
    return str(labelled[-1]).strip(" *$").rstrip(".") if labelled else ""


def split_solution(text: str) -> list[str]:
    """Steps of a worked solution: at `1. **Title**` if there are at least two, else line by line."""
    starts = [found.start() for found in NUMBERED.finditer(text)]
    if len(starts) >= 2:
        ends = [*starts[1:], len(text)]
        return [
            text[0 if i == 0 else start : end].strip() for i, (start, end) in enumerate(zip(starts, ends, strict=True))
        ]
    return _whole_lines(CALCULATOR.sub("", text))


class MathSession:
    """Takes one step of a solution per action, `Action("step", {"text": ...})`, until one boxes an answer."""

    def __init__(self, task: Task, max_steps: int) -> None:
        self._task = task
        self._max_steps = max_steps
        self.steps: list[str] = []
        self.done = False

    def observe(self) -> str:
        """The problem and the steps so far."""
        return "\n".join([self._task.problem_statement, *self.steps])

    def step(self, action: Action) -> Observation:
        """Take a step. Anything but a step with text is a bad action, which counts but changes nothing."""
        text = action.arguments.get("text") if action.name == "step" else None
        if not isinstance(text, str) or not text.strip():
            return Observation(output="The only action is `step` with a non-empty `text`.", outcome="bad_action")
        self.steps.append(text.strip())
        boxed = bool(BOXED.search(text))
        self.done = boxed or len(self.steps) >= self._max_steps
        left = self._max_steps - len(self.steps)
        return Observation(output=DONE if self.done else NEXT, done=self.done, steps_left=left)

    def resolved(self) -> bool:
        """Whether the answer boxed in the steps so far is right."""
        return judge("\n".join(self.steps), self._task)


def _whole_lines(text: str) -> list[str]:
    """Non-empty lines; a displayed formula or a drawing stays in one piece with the line before it."""
    steps: list[str] = []
    depth = 0
    for line in filter(None, map(str.strip, text.split("\n"))):
        opened = len(OPENING.findall(line)) - len(CLOSING.findall(line))
        if steps and (depth > 0 or opened > 0 or OPENING.match(line)):
            steps[-1] += "\n" + line
        else:
            steps.append(line)
        depth += opened
    return steps


def _plain(text: str) -> str:
    return re.sub(r"\s+|\\[,;!]|\\left|\\right|\\\$|\$", "", text).rstrip(".")


def _number(text: str) -> Fraction | None:
    """An exact number, or None if there is more than digits, a sign, a point, a slash, thousands commas."""
    plain = re.sub(r"(?<=\d),(?=\d{3}(?!\d))", "", _plain(text))
    if not re.fullmatch(r"[+-]?\d+(?:\.\d+)?(?:/\d+)?", plain) or ("/" in plain and "." in plain):
        return None
    with contextlib.suppress(ZeroDivisionError, ValueError):
        return Fraction(plain)
    return None


def _file_rows(path: Path) -> Iterable[tuple[int, Any]]:
    try:
        data = path.read_bytes()
        text = (gzip.decompress(data) if path.suffix == ".gz" else data).decode()
    except FileNotFoundError:
        raise TaskError(f"no such file: {path}; give a local JSONL with `problem` and `answer`") from None
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise TaskError(f"cannot read {path}: {error}") from None
    if path.suffix == ".json":
        with contextlib.suppress(json.JSONDecodeError):
            value = json.loads(text)
            return list(enumerate(value if isinstance(value, list) else [value], start=1))
    rows = []
    for line, raw in enumerate(text.split("\n"), start=1):
        if raw.strip():
            try:
                rows.append((line, json.loads(raw)))
            except json.JSONDecodeError as error:
                raise TaskError(f"{path}:{line} is not JSON ({error}); mend or remove the line") from None
    return rows


def _hub_rows(name: str) -> Iterable[Any]:
    repository, _, config = name.partition(":")
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", repository):
        raise TaskError(f"no such file and no hub id: {name}; give a local JSONL, or `owner/name` of a data set")
    try:
        from datasets import load_dataset

        return list(load_dataset(repository, config or None, split="train"))
    except ImportError:
        raise TaskError(
            f"{name} needs the package datasets; install it with `pip install 'agent-srl[train]'`"
        ) from None
    except Exception as error:
        reason = str(error).strip().split("\n")[0]
        raise TaskError(f"cannot load {name} from the hub ({reason}); offline, give a local JSONL instead") from None


def _task(row: Any, source: str, where: str, number: int) -> Task:
    problem = (row.get("question") or row.get("problem")) if isinstance(row, dict) else None
    if not isinstance(problem, str) or not problem.strip():
        raise TaskError(f"{where} has no `question` or `problem`; mend or remove the line")
    worked, answer = _solution(row), str(row.get("answer") or "")
    if "####" in answer or not answer:
        answer = extract_answer(answer) or extract_answer(str(row.get("solution") or ""))
    if not answer and len(str(row.get("solution") or "")) <= 100:
        answer = str(row.get("solution") or "")  # s1K: where the solution is only the answer
    answer = answer or (extract_answer(worked[-1]) if worked else "")
    if not answer:
        raise TaskError(f"{where} has no `answer` and no boxed result; mend or remove the line")
    if worked and not any(BOXED.search(step) for step in worked):
        worked[-1] += f" The answer is \\boxed{{{answer}}}."
    return Task(
        kind="math",
        instance_id=f"{source}__{row.get('id', number)}",
        repo=f"{source}/{number % SHARDS:02d}",
        problem_statement=problem.strip(),
        answer=answer,
        solution=worked,
    )


def _solution(row: dict[str, Any]) -> list[str]:
    if isinstance(row.get("steps"), list):
        return [str(step).strip() for step in row["steps"] if str(step).strip()]
    answer = str(row.get("answer") or "")
    worked = row.get("deepseek_attempt") or row.get("solution") or answer.rpartition("####")[0]
    steps = split_solution(str(worked))
    return steps if steps != [answer] else []
