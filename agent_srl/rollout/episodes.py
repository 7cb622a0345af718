"""Multi-turn episodes: the policy acts in a session until it submits or its turns are used, then the verdict.

What the policy causes (a broken format, a prompt that grows too long, a reply that the chat template does not keep)
is part of the episode. What infrastructure causes masks the verdict and never becomes a reward.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass

from agent_srl.data.contexts import Round
from agent_srl.data.render import UnstableText
from agent_srl.data.steps import StepBuilder
from agent_srl.errors import EngineError
from agent_srl.rewards.parse import parse_reply
from agent_srl.rollout.engine import Engine, Sampling
from env_server.client import Environment
from env_server.errors import EnvError, SessionDone
from env_server.schema import Action, Observation, Step, TaskInfo, Trajectory, Verdict
from sandboxes.errors import SandboxError

log = logging.getLogger(__name__)
FORMAT_HINT = "Your reply must be exactly <think>a thought</think> and one action in the format above."
MALFORMED = "broken format"
"""Why a reply without an action is no target."""


@dataclass(frozen=True)
class Episode:
    """What happened and how it was judged."""

    trajectory: Trajectory
    verdict: Verdict


async def run_episode(
    env: Environment, task: TaskInfo, engine: Engine, builder: StepBuilder, sampling: Sampling, max_turns: int
) -> Episode:
    """Never raises for a failure of the environment or the engine: the verdict is masked instead."""
    steps: list[Step] = []
    session_id = ""
    try:
        session_id = (await env.create_session(task.instance_id, max_steps=max_turns)).session_id
        await _act(env, session_id, task, engine, builder, sampling, max_turns, steps)
        verdict = await env.evaluate(session_id)
    except (EnvError, SandboxError, EngineError) as error:
        verdict = Verdict.masked(task.instance_id, "infra", f"{type(error).__name__}: {error}")
    finally:
        if session_id:
            await _close(env, session_id)
    trajectory = Trajectory(
        instance_id=task.instance_id,
        repo=task.repo,
        problem_statement=task.problem_statement,
        steps=steps,
        source="agent-srl policy",
        resolved=verdict.resolved,
        patch=verdict.patch,
        reward=verdict.reward,
        failure=verdict.failure,
    )
    return Episode(trajectory, verdict)


async def _act(
    env: Environment,
    session_id: str,
    task: TaskInfo,
    engine: Engine,
    builder: StepBuilder,
    sampling: Sampling,
    max_turns: int,
    steps: list[Step],
) -> None:
    problem, rounds = builder.problem(task.problem_statement), list[Round]()
    for turn in range(max_turns):
        try:
            prompt = tuple(t for s in builder.prompt(problem, rounds) for t in s.tokens)
        except UnstableText:
            return
        if len(prompt) > builder.config.max_prompt_tokens:
            return
        seeded = Sampling(sampling.temperature, sampling.max_new_tokens, sampling.seed + turn)
        [completion] = await engine.generate(prompt, 1, seeded)
        text = builder.renderer.decode(completion.tokens_T)
        parsed = parse_reply(text, builder.fmt) if completion.finished else None
        thought, action = parsed or (text.strip(), None)
        observation = await _observe(env, session_id, action)
        rejected = "" if parsed else MALFORMED
        steps.append(
            Step(
                thought=thought,
                action=action,
                observation=observation.output,
                rejected=rejected,
                completion_ids=list(completion.tokens_T),
                logprobs=list(completion.logprobs_T),
            )
        )
        if observation.done:
            return
        rounds.append(builder.round(text.strip() or "(empty)", observation.output))


async def _observe(env: Environment, session_id: str, action: Action | None) -> Observation:
    if action is None:
        await env.heartbeat(session_id)
        return Observation(output=FORMAT_HINT, outcome="bad_action")
    try:
        return await env.step(session_id, action)
    except SessionDone:
        return Observation(output="", done=True)


async def _close(env: Environment, session_id: str) -> None:
    try:
        await env.close_session(session_id)
    except Exception as error:  # its lease ends it; the verdict stands whatever was left behind
        log.warning("session %s did not close: %s: %s", session_id, type(error).__name__, error)
