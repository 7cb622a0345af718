"""Worked solutions as expert trajectories: one step of the solution is one action.

Left out: where the problems come from and how answers are judged (`env_server.tasks.math`).
"""

from __future__ import annotations

from collections.abc import Iterable

from env_server.schema import Action, Step, Task, Trajectory

FIRST_THOUGHT = "I start with what the problem gives."
NEXT_THOUGHT = "The next step follows from the last."
LAST_THOUGHT = "Now I can state the answer."
"""Fixed thoughts show the format; the reward never reads them."""
NEXT, DONE = "Next step.", "Done."
"""What a math session answers."""


def math_trajectories(tasks: Iterable[Task]) -> list[Trajectory]:
    """A trajectory for each task that has a worked solution. `repo` is kept: splits go by it."""
    return [_trajectory(task) for task in tasks if task.solution]


def _trajectory(task: Task) -> Trajectory:
    last = len(task.solution) - 1
    steps = [
        Step(
            thought=LAST_THOUGHT if i == last else NEXT_THOUGHT if i else FIRST_THOUGHT,
            action=Action(name="step", arguments={"text": text}),
            observation=DONE if i == last else NEXT,
        )
        for i, text in enumerate(task.solution)
    ]
    return Trajectory(
        instance_id=task.instance_id,
        repo=task.repo,
        problem_statement=task.problem_statement,
        steps=steps,
        source="worked solution",
        resolved=True,
    )
