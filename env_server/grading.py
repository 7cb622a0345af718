"""Judge a patch: apply it alone in a fresh sandbox, put the hidden tests back, run them, read them as swebench does.

Only what the patch did is scored; whatever fails on our side is masked. An agent's edits of tests and of files that
steer the test run do not count. Left out: code under test that attacks the test process from within; swebench's rule on
exit codes catches the crude part of that.
"""

from __future__ import annotations

import ast
import asyncio
import os
import re
import shlex
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from env_server.errors import EnvError, TaskError
from env_server.schema import Task, Verdict
from env_server.settings import Settings
from env_server.tasks.environments import WORKDIR
from env_server.tasks.suite import LIMITS, log_parser
from env_server.tasks.swe import prepare
from env_server.tasks.trees import is_test_side
from sandboxes.base import Backend, ExecResult, Outcome, Sandbox
from sandboxes.errors import SandboxError, SandboxGone

PATCH = "/tmp/agent-srl-model.diff"
TESTS = "/tmp/agent-srl-tests.diff"
GIT_DIR = "/tmp/agent-srl-base.git"
"""Outside the work folder, so that no patch can reach the repository's configuration."""
APPLY = ("git apply --verbose {0}", "patch --batch --fuzz=5 -p1 --input={0}")
GIT_S = 120.0
LOG_CHARS = 20_000
STEERING = frozenset(
    {"conftest.py", "pytest.ini", ".pytest.ini", "pytest.toml", ".pytest.toml", "tox.ini", "setup.cfg"}
    | {"pyproject.toml", "sitecustomize.py", "usercustomize.py"}
)
"""Files that change how tests run, whatever they test."""
STAND_INS = sys.stdlib_module_names | {"pytest", "_pytest", "pluggy", "iniconfig", "packaging", "pygments"}
STAND_INS |= {"sitecustomize", "usercustomize"}
"""Modules that a patch may not replace at an import root."""
INSTALLED = 'ls -A "$(python -I -c \'import sysconfig; print(sysconfig.get_path("purelib"))\')"'


@dataclass(frozen=True)
class _Report:
    resolved: bool
    tests: dict[str, str]


class _Harness(Exception):
    """Our own part of the grading failed."""


async def grade_patch(task: Task, patch: str, backend: Backend, settings: Settings) -> Verdict:
    """Resolved or not, or masked.

    Args:
        task: with FAIL_TO_PASS, PASS_TO_PASS, test_patch and test_cmd.
        patch: unified diff against the agent's tree; may be empty.
        settings: `evaluate_timeout_s` bounds one run of the tests. A timeout is run once more; twice is the patch's
        fault.

    Never raises for what happens in here: infrastructure and harness failures come back as masked verdicts.
    """
    name = task.instance_id
    try:
        if not task.test_cmd:
            raise _Harness("the row has no test_cmd")
        for _ in range(2):
            verdict = await _attempt(task, patch, backend, settings)
            if verdict is not None:
                return verdict
        log = f"the tests took more than {settings.evaluate_timeout_s:g} s, twice"
        return Verdict(instance_id=name, resolved=False, reward=0.0, patch_applied=True, log=log, patch=patch)
    except SandboxGone as error:
        return Verdict.masked(name, "sandbox_lost", str(error))
    except (SandboxError, OSError) as error:
        return Verdict.masked(name, "infra", str(error))
    except (EnvError, _Harness) as error:
        return Verdict.masked(name, "harness", str(error), retryable=False)


async def _attempt(task: Task, patch: str, backend: Backend, settings: Settings) -> Verdict | None:
    """One grading in one sandbox; None if the tests ran out of time."""
    async with await prepare(task, backend, settings, limits=LIMITS) as sandbox:
        git = await _guard_repository(task, sandbox)
        reserved = await _reserved(sandbox, git)
        applied, said = await _apply(sandbox, git, patch)
        if not applied:
            return Verdict(
                instance_id=task.instance_id,
                resolved=False,
                reward=0.0,
                patch_applied=False,
                log=said[-LOG_CHARS:],
                patch=patch,
            )
        await _restore(task, sandbox, git, reserved)
        result = await sandbox.exec(task.test_cmd, timeout_s=settings.evaluate_timeout_s)
    if result.outcome is Outcome.TIMEOUT:
        return None
    report = await asyncio.to_thread(_judge, task, result)
    return Verdict(
        instance_id=task.instance_id,
        resolved=report.resolved,
        reward=float(report.resolved),
        patch_applied=True,
        tests=report.tests,
        log=result.output[-LOG_CHARS:],
        patch=patch,
    )


async def _guard_repository(task: Task, sandbox: Sandbox) -> str:
    """The git command to use; of our own trees the repository moves out of the patch's reach."""
    if task.environment is None:
        return "git"
    await _do(sandbox, f"mv {WORKDIR}/.git {GIT_DIR}")
    return f"git --git-dir={GIT_DIR} --work-tree={WORKDIR}"


async def _apply(sandbox: Sandbox, git: str, patch: str) -> tuple[bool, str]:
    """Apply the patch as swebench does; whether it worked, and what was said."""
    if not patch.strip():
        return True, ""
    await sandbox.write(PATCH, patch.encode(errors="replace"))
    said = ""
    for command in APPLY:
        result = await sandbox.exec(command.format(PATCH), timeout_s=GIT_S)
        if result.exit_code == 0:
            return True, result.output
        said += result.output
        await _do(sandbox, f"{git} checkout --quiet --force HEAD -- . ; {git} clean -fdxq")
    return False, said


async def _reserved(sandbox: Sandbox, git: str) -> frozenset[str]:
    """Modules that a patch may not add at an import root: what is installed there, plugins among it, or built in."""
    installed = await _do(sandbox, INSTALLED)
    own = await _do(sandbox, f"{git} ls-tree --name-only HEAD; {git} ls-tree --name-only HEAD src/")
    return STAND_INS | ({_top(name) for name in installed.splitlines()} - {_top(name) for name in own.splitlines()})


def _top(path: str) -> str:
    return path.removeprefix("src/").split("/")[0].split(".")[0]


async def _restore(task: Task, sandbox: Sandbox, git: str, reserved: frozenset[str]) -> None:
    """Undo what the patch did to tests and steering files, then put the hidden tests in."""
    quoted = f"{git} -c core.quotePath=true"
    listing = await _do(sandbox, f"{quoted} diff --name-only --no-renames HEAD; {quoted} ls-files -o")
    changed = [_unquoted(line) for line in listing.split("\n") if line]
    gold = _touched(task.patch)
    hidden = _touched(task.test_patch)
    unsafe = {path for path in changed if path not in gold and _is_protected(path, reserved)}
    for path in sorted(unsafe | hidden):
        await _do(sandbox, _restore_command(git, path))
    if not task.test_patch.strip():
        return
    await sandbox.write(TESTS, task.test_patch.encode())
    await _do(sandbox, f"git apply --whitespace=nowarn {TESTS}")


def _unquoted(name: str) -> str:
    """A path as git lists it; bytes that are no text become surrogates. Git's escapes are those of Python's bytes."""
    return os.fsdecode(ast.literal_eval(f"b{name}")) if name.startswith('"') else name


def _shell(path: str) -> str:
    """One word of bash, whatever its bytes."""
    if path.isprintable():
        return shlex.quote(path)
    return "$'" + "".join(f"\\{byte:03o}" for byte in os.fsencode(path)) + "'"


def _restore_command(git: str, path: str) -> str:
    """Back to the base commit, or gone. A parent that became a link or a file would lead elsewhere: it goes first."""
    parents = [str(parent) for parent in Path(path).parents][-2::-1]
    blocked = "".join(
        f"{{ [ -L {p} ] || [ -f {p} ]; }} && rm -f -- {p}; " for p in (_shell(parent) for parent in parents)
    )
    quoted = _shell(path)
    spec = _shell(f":(literal){path}")
    return (
        f"{blocked}rm -rf -- {quoted}; "
        f"if {git} cat-file -e HEAD:{quoted} 2>/dev/null; then {git} checkout --quiet --force HEAD -- {spec}; fi"
    )


def _touched(patch: str) -> set[str]:
    """Paths on either side of a git diff."""
    found = re.findall(r"^(?:---|\+\+\+) [ab]/([^\t\n]+)", patch, re.M)
    return set(found) | set(re.findall(r"^diff --git a/(\S+) b/\1$", patch, re.M))


def _is_protected(path: str, reserved: frozenset[str]) -> bool:
    """Tests, steering files, metadata of distributions (it names plugins), and modules that stand in for others."""
    if Path(path).name in STEERING or is_test_side(path) or path.endswith((".pth", ".pyc", ".so")):
        return True
    if any(part.lower().endswith((".dist-info", ".egg-info")) for part in Path(path).parts):
        return True
    return _top(path) in reserved


async def _do(sandbox: Sandbox, command: str) -> str:
    """One of our own commands; it must work."""
    result = await sandbox.exec(command, timeout_s=GIT_S)
    if result.exit_code != 0:
        raise _Harness(f"{command[:200]}: {result.output.strip()[-300:]}")
    return result.output


def _judge(task: Task, result: ExecResult) -> _Report:
    """swebench's own reading of the log: its parser, its resolution rules, its check of the exit code."""
    log_parser(task.log_parser)
    from swebench.harness.constants import END_TEST_OUTPUT, START_TEST_OUTPUT, TEST_EXIT_CODE
    from swebench.harness.grading import get_eval_report, get_logs_eval
    from swebench.types import TestSpec

    spec = TestSpec(
        task.instance_id,
        task.image,
        [],
        task.repo,
        task.version,
        task.FAIL_TO_PASS,
        task.PASS_TO_PASS,
        task.log_parser,
        task.eval_type,
    )
    exit_code = 137 if result.exit_code is None else result.exit_code
    log = f"{START_TEST_OUTPUT}\n{result.output}\n{END_TEST_OUTPUT}\n{TEST_EXIT_CODE}: {exit_code}\n"
    with tempfile.TemporaryDirectory(prefix="agent-srl-log-") as folder:
        path = Path(folder) / "test_output.txt"
        path.write_text(log)
        prediction = {"instance_id": task.instance_id, "model_patch": ""}
        report = get_eval_report(spec, prediction, str(path), include_tests_status=False)
        statuses, _ = get_logs_eval(spec, str(path))
    wanted = [*task.FAIL_TO_PASS, *task.PASS_TO_PASS]
    if not wanted:
        raise TaskError(f"{task.instance_id}: the row names no tests")
    tests = {test: statuses.get(test, "MISSING") for test in wanted}
    return _Report(bool(report[task.instance_id]["resolved"]), tests)
