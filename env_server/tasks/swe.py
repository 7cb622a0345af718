"""Repositories as tasks: put the agent's tree into a sandbox, take the agent's patch out again.

Left out: task files (`base`), making tasks (`make`), judging a patch (`env_server.grading`).
"""

from __future__ import annotations

import asyncio
import tempfile
from pathlib import Path

from env_server.errors import NoPatch, TaskError
from env_server.schema import Task
from env_server.settings import Settings
from env_server.tasks.environments import WORKDIR, ensure, source_of, test_env
from env_server.tasks.sources import clean
from env_server.tasks.trees import apply_patch, copy_tree, diff_trees, make_repository
from sandboxes.base import Backend, Limits, Sandbox, SandboxSpec

IMAGE_ROOTS = (f"{WORKDIR}/src", WORKDIR)
"""Import roots in an image, where no environment tells them."""


MAX_PATCH = 64 * 2**20
"""Characters; a larger patch does not go into a sandbox at once."""


async def prepare(task: Task, backend: Backend, settings: Settings, *, limits: Limits | None = None) -> Sandbox:
    """A fresh sandbox with the agent's tree at `/testbed`, a git repository of one commit.

    With the Docker backend the image of the task or of the settings takes the place of the environment; an image
    of a plain SWE-bench row brings its own tree.

    Raises:
        TaskError: the row cannot be rebuilt here.
        SandboxError: no sandbox can be made.
    """
    spec = await asyncio.to_thread(_spec, task, backend, settings, limits or Limits())
    with tempfile.TemporaryDirectory(prefix="agent-srl-tree-", ignore_cleanup_errors=True) as scratch:
        tree = Path(scratch) / "tree"
        if task.environment is not None:
            await asyncio.to_thread(_repository, task, tree)
        sandbox = await backend.acquire(spec)
        try:
            if task.environment is not None:
                await sandbox.upload(tree, WORKDIR)
        except BaseException:
            await sandbox.kill()
            raise
    return sandbox


async def collect_patch(task: Task, sandbox: Sandbox) -> str:
    """What the agent changed, as a unified git diff against our own copy of its tree; new files included.

    Raises:
        NoPatch: the tree is too large or too deep to be a patch, or is gone.
        SandboxError: the sandbox is lost.
    """
    if task.environment is None:
        return await _diff_inside(task, sandbox)
    with tempfile.TemporaryDirectory(prefix="agent-srl-patch-", ignore_cleanup_errors=True) as scratch:
        base, now = Path(scratch) / "base", Path(scratch) / "now"
        await asyncio.to_thread(_agent_tree, task, base)
        now.mkdir()
        try:
            await sandbox.download(WORKDIR, now)
        except (ValueError, FileNotFoundError, NotADirectoryError, PermissionError) as error:
            raise NoPatch(f"{task.instance_id}: cannot take the patch out of the sandbox: {error}") from error
        patch = await asyncio.to_thread(_cleaned_diff, base, now)
    if len(patch) > MAX_PATCH:
        raise NoPatch(f"{task.instance_id}: the patch has {len(patch)} characters, more than {MAX_PATCH}")
    return patch


def _spec(task: Task, backend: Backend, settings: Settings, limits: Limits) -> SandboxSpec:
    if backend.name == "docker":
        image = task.image or settings.image
        if not image:
            raise TaskError(f"{task.instance_id} names no image: set one with Python, pytest and git in the settings")
        env = test_env(IMAGE_ROOTS, task.environment) if task.environment else {}
        return SandboxSpec(workdir=WORKDIR, image=image, env=env, limits=limits)
    if task.environment is None:
        raise TaskError(f"{task.instance_id} has no Python environment: it needs its image and the docker sandbox")
    return ensure(task.environment).spec(limits)


def _agent_tree(task: Task, tree: Path) -> None:
    """The pristine tree with the bug in and the failing tests out."""
    assert task.environment is not None
    copy_tree(source_of(task.environment).tree, tree)
    apply_patch(tree, task.setup_patch)


def _repository(task: Task, tree: Path) -> None:
    _agent_tree(task, tree)
    commit = make_repository(tree)
    if task.base_commit and commit != task.base_commit:
        raise TaskError(
            f"{task.instance_id}: the rebuilt tree is {commit[:12]}, the row says {task.base_commit[:12]}; "
            "make the task again"
        )


def _cleaned_diff(base: Path, now: Path) -> str:
    """Leave out of both sides what runs and builds leave behind."""
    clean(base)
    clean(now)
    return diff_trees(base, now)


async def _diff_inside(task: Task, sandbox: Sandbox) -> str:
    """An image's tree is only in the image, so its own git makes the diff."""
    base = task.base_commit or "HEAD"
    result = await sandbox.exec(
        f"git add -A >/dev/null 2>&1; git diff --cached --binary --no-ext-diff --no-textconv --no-color {base}",
        timeout_s=120,
    )
    if result.exit_code:
        raise TaskError(f"{task.instance_id}: git in the sandbox gives no diff: {result.output[-300:]}")
    return result.output
