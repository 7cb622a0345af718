"""Sessions on a real repository in a real sandbox: the same tests in process and over HTTP."""

import asyncio
import os
import signal

import pytest
from serving import reachable, sandbox_processes

from env_server.client import EnvClient, Environment
from env_server.errors import (
    BadRequest,
    CapacityReached,
    KeyReused,
    SessionBusy,
    SessionDone,
    TaskError,
    UnknownSession,
    UnknownTask,
)
from env_server.schema import Action
from env_server.service import EnvService
from env_server.sessions import Budget, Session
from env_server.settings import Settings
from sandboxes.bubblewrap import BubblewrapBackend
from sandboxes.errors import SandboxGone, SandboxUnavailable

SUBMIT = Action(name="submit")


def bash(command: str) -> Action:
    return Action(name="bash", arguments={"command": command})


def edit(**arguments) -> Action:
    return Action(name="str_replace_editor", arguments=arguments)


@pytest.fixture
async def env(how, swe_task, math_task):
    settings = Settings(max_sessions=2, max_steps=10, command_timeout_s=10.0, lease_s=60.0)
    async with reachable(EnvService([swe_task, math_task], BubblewrapBackend(), settings), how) as reached:
        yield reached
    assert not sandbox_processes(os.getpid())


async def no_sandboxes_within(seconds: float) -> bool:
    for _ in range(int(seconds / 0.05)):
        if not sandbox_processes(os.getpid()):
            return True
        await asyncio.sleep(0.05)
    return False


async def test_a_repair_is_resolved_and_no_repair_is_not(env, swe_task, repair):
    idle = await env.create_session(swe_task.instance_id)
    lazy = await env.evaluate(idle.session_id)
    assert (lazy.resolved, lazy.reward, lazy.failure) == (False, 0.0, None)
    session = await env.create_session(swe_task.instance_id)
    assert (await env.step(session.session_id, repair)).outcome == "ok"
    submitted = await env.step(session.session_id, SUBMIT)
    assert submitted.done and submitted.steps_left == 8
    verdict = await env.evaluate(session.session_id)
    assert (verdict.resolved, verdict.reward, verdict.failure) == (True, 1.0, None)
    assert verdict.patch and repair.arguments["new_str"] in verdict.patch
    assert await env.evaluate(session.session_id) == verdict


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("touch $'a\\xff.py'", ""),
        ("ln -s $'\\xff' link", ""),
        ("truncate -s 540M big.bin", "larger than allowed"),
        ('python3 -c \'import os; [(os.mkdir("d"), os.chdir("d")) for _ in range(1500)]\'', "deeper than allowed"),
    ],
)
@pytest.mark.parametrize("how", ["process"])
async def test_what_the_agent_leaves_in_the_tree_is_scored(env, swe_task, command, said):
    session = await env.create_session(swe_task.instance_id)
    assert (await env.step(session.session_id, bash(command))).outcome == "ok"
    verdict = await env.evaluate(session.session_id)
    assert (verdict.resolved, verdict.reward, verdict.failure) == (False, 0.0, None)
    assert said in verdict.log


async def test_grade_takes_a_patch_without_a_session(env, swe_task):
    assert (await env.grade(swe_task.instance_id, swe_task.patch)).reward == 1.0
    assert (await env.grade(swe_task.instance_id, "")).reward == 0.0
    assert (await env.healthy())["sandboxes"] == 0


async def test_nothing_hidden_is_public(env, swe_task):
    session = await env.create_session(swe_task.instance_id)
    infos = [*await env.list_tasks(), await env.get_task(swe_task.instance_id), session]
    public = "".join(info.model_dump_json() for info in infos)
    assert swe_task.problem_statement in public
    for secret in (
        swe_task.patch,
        swe_task.test_cmd,
        *swe_task.FAIL_TO_PASS,
        "answer",
        "hints",
        "FAIL_TO_PASS",
    ):
        assert secret and secret not in public
    assert await env.get_session(session.session_id) == session


async def test_steps_are_counted_and_end_the_session(env, swe_task):
    session = await env.create_session(swe_task.instance_id, max_steps=2)
    assert session.max_steps == 2
    failed = await env.step(session.session_id, bash("exit 7"))
    assert (failed.exit_code, failed.outcome, failed.steps_left, failed.done) == (7, "nonzero", 1, False)
    wrong = await env.step(session.session_id, Action(name="fly"))
    assert (wrong.outcome, wrong.steps_left, wrong.done) == ("bad_action", 0, True)
    with pytest.raises(SessionDone, match="evaluate or close"):
        await env.step(session.session_id, bash("true"))
    assert (await env.get_session(session.session_id)).done
    assert (await env.evaluate(session.session_id)).reward == 0.0


async def test_broken_text_of_a_model_is_a_bad_action(env, swe_task):
    session = await env.create_session(swe_task.instance_id)
    for text in ("echo \ud800", "a\0b"):
        assert (await env.step(session.session_id, bash(text))).outcome == "bad_action"


async def test_a_session_that_nobody_asks_for_loses_its_sandbox(env, swe_task):
    session = await env.create_session(swe_task.instance_id, lease_s=0.4)
    assert session.lease_s == 0.4 and sandbox_processes(os.getpid())
    assert await no_sandboxes_within(10)
    with pytest.raises(UnknownSession, match="lease expired"):
        await env.step(session.session_id, bash("true"))
    assert (await env.healthy())["sessions"] == 0


async def test_requests_and_work_keep_a_lease(env, swe_task):
    session = await env.create_session(swe_task.instance_id, lease_s=0.5)
    for _ in range(6):
        await asyncio.sleep(0.2)
        await env.heartbeat(session.session_id)
    worked = await env.step(session.session_id, bash("sleep 1.5; echo awake"))
    assert worked.output == "awake\n"
    assert (await env.step(session.session_id, bash("true"))).outcome == "ok"


async def test_one_key_executes_once_however_often_it_comes(env, swe_task):
    session = await env.create_session(swe_task.instance_id)
    action = bash("echo x >> /tmp/count; sleep 0.3; cat /tmp/count")
    steps = [env.step(session.session_id, action, idempotency_key="k") for _ in range(20)]
    observations = await asyncio.gather(*steps)
    assert {observation.output for observation in observations} == {"x\n"}
    assert await env.step(session.session_id, action, idempotency_key="k") == observations[0]
    assert (await env.step(session.session_id, bash("cat /tmp/count"))).steps_left == 8
    with pytest.raises(KeyReused):
        await env.step(session.session_id, bash("true"), idempotency_key="k")


async def test_a_step_goes_on_when_its_caller_goes_away(env, swe_task):
    session = await env.create_session(swe_task.instance_id)
    action = bash("sleep 0.6; echo x >> /tmp/count; cat /tmp/count")
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(env.step(session.session_id, action, idempotency_key="k"), 0.3)
    assert (await env.step(session.session_id, action, idempotency_key="k")).output == "x\n"


async def test_a_session_does_one_thing_at_a_time(env, swe_task):
    session = await env.create_session(swe_task.instance_id)
    slow = asyncio.create_task(env.step(session.session_id, bash("sleep 1; echo slow")))
    await asyncio.sleep(0.4)
    with pytest.raises(SessionBusy):
        await env.step(session.session_id, bash("true"))
    with pytest.raises(SessionBusy):
        await env.evaluate(session.session_id)
    assert (await slow).output == "slow\n"


async def test_capacity_is_refused_and_comes_back(env, swe_task, math_task):
    opened = await asyncio.gather(*(env.create_session(swe_task.instance_id) for _ in range(3)), return_exceptions=True)
    refused = [result for result in opened if isinstance(result, Exception)]
    assert len(refused) == 1 and isinstance(refused[0], CapacityReached) and refused[0].retryable
    await env.create_session(math_task.instance_id)  # holds no sandbox
    await env.close_session(next(info for info in opened if info is not refused[0]).session_id)
    await env.create_session(swe_task.instance_id)


async def test_a_lost_sandbox_is_never_scored(env, swe_task):
    session = await env.create_session(swe_task.instance_id)
    running = asyncio.create_task(env.step(session.session_id, bash("sleep 30"), idempotency_key="k"))
    await asyncio.sleep(0.4)
    for pid in sandbox_processes(os.getpid()):
        os.kill(pid, signal.SIGKILL)
    with pytest.raises(SandboxGone, match=swe_task.instance_id):
        await running
    for key in ("k", "other"):
        with pytest.raises(SandboxGone):
            await env.step(session.session_id, bash("sleep 30"), idempotency_key=key)
    verdict = await env.evaluate(session.session_id)
    assert verdict.failure and verdict.failure.kind == "sandbox_lost" and verdict.failure.retryable
    assert verdict.reward is None and verdict.resolved is None


async def test_closing_ends_what_runs_and_is_idempotent(env, swe_task):
    session = await env.create_session(swe_task.instance_id)
    running = asyncio.create_task(env.step(session.session_id, bash("sleep 30")))
    await asyncio.sleep(0.4)
    await env.close_session(session.session_id)
    assert await no_sandboxes_within(1)
    with pytest.raises((UnknownSession, SandboxGone)):
        await running
    await env.close_session(session.session_id)
    await env.close_session("never was")
    with pytest.raises(UnknownSession):
        await env.evaluate(session.session_id)


async def test_what_is_not_there_is_named(env):
    with pytest.raises(UnknownTask, match="no-such-task"):
        await env.create_session("no-such-task")
    with pytest.raises(UnknownTask):
        await env.grade("a/../b?c", "")
    for call in (env.get_session, env.heartbeat, env.evaluate):
        with pytest.raises(UnknownSession):
            await call("guess")


async def test_budgets_have_a_ceiling_and_a_floor(env, math_task):
    session = await env.create_session(math_task.instance_id, max_steps=10**6, lease_s=1e9)
    assert (session.max_steps, session.lease_s) == (10, 60.0)
    for wrong in ({"max_steps": 0}, {"lease_s": 0.0}, {"lease_s": float("nan")}):
        with pytest.raises(BadRequest, match=next(iter(wrong))):
            await env.create_session(math_task.instance_id, **wrong)


async def test_math_needs_no_sandbox(how, math_task):
    async with reachable(EnvService([math_task], None, Settings()), how) as env:
        right, wrong, silent = [await env.create_session("sum") for _ in range(3)]
        assert [tool["function"]["name"] for tool in right.tools] == ["step"]
        first = await env.step(right.session_id, Action(name="step", arguments={"text": "Add them."}))
        assert (first.output, first.done) == ("Next step.", False)
        last = await env.step(right.session_id, Action(name="step", arguments={"text": r"So \boxed{2.0}"}))
        assert last.done
        await env.step(wrong.session_id, Action(name="step", arguments={"text": r"\boxed{3}"}))
        assert (await env.step(silent.session_id, SUBMIT)).outcome == "bad_action"
        rewards = [(await env.evaluate(session.session_id)).reward for session in (right, wrong, silent)]
        assert rewards == [1.0, 0.0, 0.0]
        assert (await env.grade("sum", r"\boxed{2}")).resolved
        assert (await env.healthy())["backend"] is None


async def test_a_service_without_sandboxes_says_so(how, swe_task):
    async with reachable(EnvService([swe_task], None, Settings()), how) as env:
        with pytest.raises(SandboxUnavailable, match=swe_task.instance_id):
            await env.create_session(swe_task.instance_id)


async def test_a_broken_judge_is_masked_and_asked_again(math_task):
    class Flaky:
        tools = ()
        judged = 0

        async def act(self, action):
            raise AssertionError

        async def evaluate(self):
            self.judged += 1
            raise RuntimeError("the harness broke")

        async def close(self):
            pass

    attempt = Flaky()
    session = Session(math_task, attempt, Budget(max_steps=1, command_timeout_s=1.0, lease_s=1.0))
    for asked in (1, 2):
        verdict = await session.evaluate()
        assert verdict.reward is None and verdict.failure.kind == "harness"
        assert "the harness broke" in verdict.failure.reason and attempt.judged == asked


def test_two_tasks_of_one_name_are_refused(math_task):
    with pytest.raises(TaskError, match="sum"):
        EnvService([math_task, math_task], None, Settings())


def test_service_and_client_are_one_interface(math_task):
    service: Environment = EnvService([math_task], None, Settings())
    client: type[Environment] = EnvClient
    names = {name for name in vars(Environment) if not name.startswith("_")}
    assert all(callable(getattr(thing, name)) for thing in (service, client) for name in names)


async def test_a_session_that_cannot_be_closed_does_not_keep_the_others_open(swe_task, monkeypatch):
    service = EnvService([swe_task], BubblewrapBackend(), Settings(max_sessions=2))
    first = await service.create_session(swe_task.instance_id)
    await service.create_session(swe_task.instance_id)

    async def fail() -> None:
        raise RecursionError("too deep")

    monkeypatch.setattr(service._sessions[first.session_id], "close", fail)
    await service.close()
    assert not sandbox_processes(os.getpid())
