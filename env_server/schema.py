"""What crosses a border: tasks, actions, trajectories, observations, verdicts.

Everything here is plain data that survives JSON. Rows follow SWE-bench's columns, so its own tools read them.
What stays inside the trainer (StepExample, Sample, Group) is in `agent_srl.types`.
"""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator


def _json_list(value: Any) -> Any:
    """SWE-bench stores test lists as JSON strings; accept both."""
    return json.loads(value) if isinstance(value, str) else value


NO_ACTION = "no action"
"""Why a turn without a call is no target."""
SWE_BENCH_COLUMNS = {
    "repo",
    "instance_id",
    "base_commit",
    "patch",
    "test_patch",
    "problem_statement",
    "hints_text",
    "created_at",
    "version",
    "FAIL_TO_PASS",
    "PASS_TO_PASS",
    "environment_setup_commit",
}
"""What its own loaders require of a row, even where it is empty."""
TestIds = Annotated[list[str], BeforeValidator(_json_list)]


class Action(BaseModel):
    """A parsed tool call."""

    model_config = ConfigDict(frozen=True)

    name: str
    arguments: dict[str, Any] = Field(default_factory=dict)


FailureKind = Literal["infra", "sandbox_lost", "eval_timeout", "harness"]


class Failure(BaseModel):
    """Why there is no verdict. Never the policy's fault, never a score."""

    kind: FailureKind
    reason: str
    retryable: bool = True


class Step(BaseModel):
    """What an agent thought, what it did, what came back. A turn of several parallel calls becomes a step for each."""

    thought: str = ""
    action: Action | None
    """None where the turn held no call: kept as history, never learnt from."""
    observation: str = ""
    rejected: str = ""
    """Why the step is history and no target, such as `more than one block`; empty for a target."""
    same_turn: bool = False
    """A further call of the turn that the step before belongs to."""
    prompt_ids: list[int] | None = None
    """Tokens that the model was given, where the run recorded them."""
    completion_ids: list[int] | None = None
    """Tokens of the reply."""
    logprobs: list[float] | None = None
    """Of `completion_ids`, natural logarithms."""
    reward: float | None = None

    @model_validator(mode="after")
    def _name_the_reason(self) -> Step:
        if self.action is None and not self.rejected:
            self.rejected = NO_ACTION
        return self

    @property
    def is_target(self) -> bool:
        """May be learnt from."""
        return not self.rejected


class Trajectory(BaseModel):
    """An expert's or an agent's whole run on one task."""

    instance_id: str
    repo: str
    problem_statement: str
    steps: list[Step]
    source: str
    """Who made it: the expert, a harness and its format, or a model."""
    tools: list[dict[str, Any]] = Field(default_factory=list)
    """OpenAI function schemas of the tools that were offered, where the source names them."""
    resolved: bool | None = None
    patch: str = ""
    reward: float | None = None
    failure: Failure | None = None
    """Set where infrastructure ended the run: then it has neither verdict nor reward."""


class PythonEnvironment(BaseModel):
    """How to rebuild the interpreter and packages that a task's tests need, from the package index."""

    model_config = ConfigDict(extra="forbid")

    package: str
    version: str
    sha256: str
    """Of the source distribution."""
    python: str
    """Minor version, such as `3.11`."""
    requirements: list[str]
    """Exact pins, the package itself excluded."""


class Difficulty(BaseModel):
    """What makes a planted bug hard to find."""

    kinds: list[str]
    edits: int
    function_lines: int
    call_distance: int | None
    """Frames between the call in the failing test and the edited function; None if it was not traced."""


class Task(BaseModel):
    """A problem with a verifier. SWE-bench's columns, then what our environment needs."""

    model_config = ConfigDict(extra="ignore")

    kind: Literal["swe", "math"] = "swe"
    instance_id: str
    repo: str = ""
    base_commit: str = ""
    problem_statement: str
    hints_text: str = ""
    patch: str = ""
    test_patch: str = ""
    FAIL_TO_PASS: TestIds = Field(default_factory=list)
    PASS_TO_PASS: TestIds = Field(default_factory=list)
    version: str = ""
    created_at: str = ""
    environment_setup_commit: str = ""
    # SWE-bench 5.x
    image: str = ""
    eval_script: str = ""
    log_parser: str = "parse_log_pytest"
    eval_type: str = "pass_and_fail"
    # ours
    test_cmd: str = ""
    """Runs every test named in FAIL_TO_PASS and PASS_TO_PASS, with `-rA` output."""
    setup_patch: str = ""
    """From the pristine source distribution to the agent's tree: the bug, and the failing tests taken out."""
    environment: PythonEnvironment | None = None
    difficulty: Difficulty | None = None
    answer: str = ""
    """Math only: the reference answer."""
    solution: list[str] = Field(default_factory=list)
    """Math only: the worked steps."""

    def row(self) -> dict[str, Any]:
        """For a task file: all of SWE-bench's columns, and of the others those that differ from their default."""
        return {**self.model_dump(include=SWE_BENCH_COLUMNS), **self.model_dump(exclude_defaults=True)}

    def public(self) -> TaskInfo:
        """What an agent or a client may see: never the gold patch, hidden tests or answers."""
        return TaskInfo(
            instance_id=self.instance_id,
            kind=self.kind,
            repo=self.repo,
            version=self.version,
            base_commit=self.base_commit,
            problem_statement=self.problem_statement,
        )


class TaskInfo(BaseModel):
    """The public part of a task."""

    instance_id: str
    kind: Literal["swe", "math"]
    repo: str
    version: str
    base_commit: str
    problem_statement: str


class Observation(BaseModel):
    """What an action produced. A failing command is an observation, never an error."""

    output: str
    exit_code: int | None = None
    outcome: str = "ok"
    """`ok`, `nonzero`, `timeout`, `oom`, ... as in `sandboxes.base.Outcome`, or `bad_action`."""
    truncated: bool = False
    done: bool = False
    """The session takes no further action: submitted, or out of steps."""
    steps_left: int = 0


class SessionInfo(BaseModel):
    """One leased attempt at a task."""

    session_id: str
    task: TaskInfo
    tools: list[dict[str, Any]]
    """OpenAI function schemas."""
    max_steps: int
    command_timeout_s: float
    lease_s: float
    """Seconds without a request after which the session is closed and its sandbox killed."""
    steps_taken: int = 0
    done: bool = False
    """Takes no further action; may still be evaluated."""


class Verdict(BaseModel):
    """Resolved or not, or masked. `reward` is None exactly when `failure` is set."""

    instance_id: str
    resolved: bool | None
    reward: float | None
    failure: Failure | None = None
    patch_applied: bool | None = None
    tests: dict[str, str] = Field(default_factory=dict)
    """Status of each FAIL_TO_PASS and PASS_TO_PASS test, as swebench's parser read it."""
    log: str = ""
    """Tail of the test output."""
    patch: str = ""

    @classmethod
    def masked(cls, instance_id: str, kind: FailureKind, reason: str, *, retryable: bool = True) -> Verdict:
        """A verdict that no trainer may score."""
        failure = Failure(kind=kind, reason=reason, retryable=retryable)
        return cls(instance_id=instance_id, resolved=None, reward=None, failure=failure)
