"""The two kinds of attempt: a repository in a sandbox, and a math problem without one."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from env_server.editor import Editor
from env_server.errors import NoPatch
from env_server.schema import Action, Observation, Task, Verdict
from env_server.settings import Settings
from env_server.tools import TOOL_SCHEMAS, run_tool
from sandboxes.base import Backend, Sandbox

STEP_TOOL: dict[str, Any] = {
    "type": "function",
    "function": {
        "name": "step",
        "description": "Write the next step of the solution. The last one holds the answer in \\boxed{...}.",
        "parameters": {
            "type": "object",
            "properties": {"text": {"type": "string", "description": "The step."}},
            "required": ["text"],
        },
    },
}
Grade = Callable[[Task, str], Awaitable[Verdict]]


class SweAttempt:
    """Repair a repository with SWE-agent's tools."""

    tools: tuple[dict[str, Any], ...] = tuple(TOOL_SCHEMAS)

    def __init__(self, task: Task, sandbox: Sandbox, grade: Grade, command_timeout_s: float) -> None:
        self._task = task
        self._sandbox = sandbox
        self._grade = grade
        self._timeout_s = command_timeout_s
        self._editor = Editor()

    @classmethod
    async def open(cls, task: Task, backend: Backend, settings: Settings, grade: Grade) -> SweAttempt:
        """Put the agent's tree of the task into a fresh sandbox."""
        from env_server.tasks.swe import prepare

        sandbox = await prepare(task, backend, settings)
        return cls(task, sandbox, grade, settings.command_timeout_s)

    async def act(self, action: Action) -> Observation:
        """Run one tool."""
        return await run_tool(action, self._sandbox, self._editor, timeout_s=self._timeout_s)

    async def evaluate(self) -> Verdict:
        """Grade the patch that the work folder holds now. The hidden tests never enter this sandbox."""
        from env_server.tasks.swe import collect_patch

        try:
            patch = await collect_patch(self._task, self._sandbox)
        except NoPatch as error:
            name = self._task.instance_id
            return Verdict(instance_id=name, resolved=False, reward=0.0, patch_applied=False, log=str(error))
        return await self._grade(self._task, patch)

    async def close(self) -> None:
        """Kill the sandbox."""
        await self._sandbox.kill()


class MathAttempt:
    """Solve a problem step by step; no sandbox."""

    tools: tuple[dict[str, Any], ...] = (STEP_TOOL,)

    def __init__(self, task: Task, max_steps: int) -> None:
        from env_server.tasks.math import MathSession

        self._task = task
        self._session = MathSession(task, max_steps)

    async def act(self, action: Action) -> Observation:
        """Take a step of the solution."""
        return self._session.step(action)

    async def evaluate(self) -> Verdict:
        """Judge the answer in the steps so far. None given is a wrong one."""
        return _scored(self._task, await asyncio.to_thread(self._session.resolved))

    async def close(self) -> None:
        """Nothing is held."""


async def grade_answer(task: Task, text: str) -> Verdict:
    """Judge the last answer in `text`, written `\\boxed{...}` or `Answer: ...`."""
    from env_server.tasks.math import judge

    return _scored(task, await asyncio.to_thread(judge, text, task))


def _scored(task: Task, resolved: bool) -> Verdict:
    return Verdict(instance_id=task.instance_id, resolved=resolved, reward=float(resolved))
