"""Risks: a patch that repairs nothing is scored, one that repairs is not, and our own failures become scores."""

import os

import pytest

from env_server.grading import grade_patch
from env_server.settings import Settings
from env_server.tasks.swe import collect_patch, prepare
from env_server.tasks.trees import diff_files
from sandboxes import open_backend
from sandboxes.errors import SandboxGone, SandboxUnavailable

CODE, TESTS = "inflection/__init__.py", "test_inflection.py"
SETTINGS = Settings(evaluate_timeout_s=60)
FORGE = b"""
import pytest
@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    report = yield
    report.outcome = "passed"
    return report
"""
PLUGIN = b"""
def pytest_pyfunc_call(pyfuncitem):
    return True
"""
POINTS = b"[pytest11]\nzz = zzplug\n"
STAND_IN = b"""
print("PASSED test_inflection.py::test_ordinal[-13--13th]")
"""


@pytest.fixture
async def backend():
    opened = open_backend("bubblewrap")
    yield opened
    await opened.close()


def added(path, content) -> str:
    """A patch that adds a file."""
    return diff_files({path: None}, {path: content})


async def test_gold_is_resolved_and_empty_is_not(swe_task, backend):
    gold = await grade_patch(swe_task, swe_task.patch, backend, SETTINGS)
    assert (gold.resolved, gold.reward, gold.patch_applied) == (True, 1.0, True)
    assert set(gold.tests.values()) == {"PASSED"}
    empty = await grade_patch(swe_task, "", backend, SETTINGS)
    assert (empty.resolved, empty.reward, empty.failure) == (False, 0.0, None)
    assert {empty.tests[test] for test in swe_task.FAIL_TO_PASS} == {"FAILED"}


async def test_a_patch_that_does_not_apply_scores_zero(swe_task, backend):
    for patch in ("not a patch", swe_task.patch.replace("12", "77")):
        verdict = await grade_patch(swe_task, patch, backend, SETTINGS)
        assert (verdict.resolved, verdict.reward, verdict.patch_applied) == (False, 0.0, False)


async def test_a_patch_with_shifted_context_applies_as_in_swebench(swe_task, backend):
    lines = swe_task.patch.splitlines(keepends=True)
    first = next(i for i, line in enumerate(lines) if line.startswith("@@")) + 1
    lines[first] = " something that is not there\n"
    verdict = await grade_patch(swe_task, "".join(lines), backend, SETTINGS)
    assert (verdict.patch_applied, verdict.resolved) == (True, True)


@pytest.mark.parametrize(
    "patch",
    [
        added("conftest.py", FORGE),
        added("forge.py", FORGE) + added("pytest.ini", b"[pytest]\naddopts = -p forge\n"),
        added("forge.py", FORGE) + added(".pytest.ini", b"[pytest]\naddopts = -p forge\n"),
        added("pytest.py", STAND_IN),
        added("pytest/__main__.py", STAND_IN) + added("pytest/__init__.py", b""),
        added("re.py", STAND_IN),
        added("src/sitecustomize.py", STAND_IN),
        added("src/sitecustomize/__init__.py", STAND_IN),
        added(os.fsdecode(b"\xff/conftest.py"), FORGE) + added(os.fsdecode(b"\xff/test_a.py"), b""),
        added("zzplug.py", PLUGIN) + added("zz-1.0.dist-info/entry_points.txt", POINTS),
        added("zzplug.py", PLUGIN) + added("zz-1.0.EGG-INFO/entry_points.txt", POINTS),
        added("tests/__init__.py", FORGE),
        added("inflection/test_more.py", b"def test_ok():\n    assert True\n"),
    ],
)
async def test_what_a_patch_plants_around_the_tests_does_not_count(swe_task, backend, patch):
    verdict = await grade_patch(swe_task, patch, backend, SETTINGS)
    assert verdict.failure is None, verdict.failure
    assert verdict.resolved is False
    assert "FAILED" in verdict.tests.values()


async def test_an_agents_edits_of_the_hidden_tests_are_undone(swe_task, backend):
    async with await prepare(swe_task, backend, SETTINGS) as sandbox:
        await sandbox.exec(f"echo 'def test_ordinal(): pass' > {TESTS}; sed -i s/12/12,/ README.rst", timeout_s=9)
        weakened = await collect_patch(swe_task, sandbox)
        assert TESTS in weakened
        await sandbox.exec(f"rm {TESTS}; mkdir x; ln -s x {TESTS}", timeout_s=9)
        linked = await collect_patch(swe_task, sandbox)
    for patch in (weakened, linked):
        empty = await grade_patch(swe_task, patch, backend, SETTINGS)
        assert empty.failure is None and empty.resolved is False and "FAILED" in empty.tests.values()
    both = await grade_patch(swe_task, weakened + swe_task.patch, backend, SETTINGS)
    assert both.resolved is True


async def test_a_repair_with_test_side_files_still_counts(swe_task, backend):
    patch = swe_task.patch + added("test_new.py", b"import missing_module\n")
    assert (await grade_patch(swe_task, patch, backend, SETTINGS)).resolved is True


async def test_leaving_early_is_not_a_pass(swe_task, backend):
    """Prints what a good run prints, then ends the process with an error."""
    names = [*swe_task.FAIL_TO_PASS, *swe_task.PASS_TO_PASS]
    lie = f"import os\nprint('\\n'.join('PASSED ' + n for n in {names!r}), flush=True)\nos._exit(3)\n"
    patch = added("inflection/lie.py", lie.encode())
    async with await prepare(swe_task, backend, SETTINGS) as sandbox:
        await sandbox.exec(f"git apply - <<'EOF'\n{patch}\nEOF\nsed -i '1i import inflection.lie' {CODE}", timeout_s=9)
        patch = await collect_patch(swe_task, sandbox)
    verdict = await grade_patch(swe_task, patch, backend, SETTINGS)
    assert verdict.resolved is False and verdict.reward == 0.0


async def test_a_suite_that_never_ends_twice_is_the_patchs_fault(swe_task, backend):
    patch = added("inflection/slow.py", b"")
    async with await prepare(swe_task, backend, SETTINGS) as sandbox:
        await sandbox.exec(f"sed -i '1i import time; time.sleep(99)' {CODE}", timeout_s=9)
        patch = await collect_patch(swe_task, sandbox)
    verdict = await grade_patch(swe_task, patch, backend, Settings(evaluate_timeout_s=1))
    assert (verdict.resolved, verdict.reward, verdict.failure) == (False, 0.0, None)
    assert "twice" in verdict.log


async def test_our_own_failures_are_masked(swe_task, backend):
    class Broken:
        name = "bubblewrap"

        def __init__(self, error):
            self.error = error

        async def acquire(self, spec):
            raise self.error

        async def close(self):
            pass

    for error, kind in (
        (SandboxUnavailable("no space left"), "infra"),
        (SandboxGone("it died"), "sandbox_lost"),
        (OSError(28, "No space left on device"), "infra"),
    ):
        verdict = await grade_patch(swe_task, swe_task.patch, Broken(error), SETTINGS)
        assert verdict.reward is None and verdict.resolved is None and verdict.failure.kind == kind
    for change in ({"test_cmd": ""}, {"log_parser": "no_such"}, {"setup_patch": ""}, {"test_patch": "garbage"}):
        row = swe_task.model_copy(update=change)
        verdict = await grade_patch(row, row.patch, backend, SETTINGS)
        assert verdict.reward is None and verdict.failure.kind == "harness", change


async def test_a_sandbox_that_dies_is_masked(swe_task, backend):
    class Dying:
        name = "bubblewrap"

        async def acquire(self, spec):
            sandbox = await backend.acquire(spec)
            await sandbox.kill()
            return sandbox

        async def close(self):
            pass

    verdict = await grade_patch(swe_task, swe_task.patch, Dying(), SETTINGS)
    assert verdict.reward is None and verdict.failure.kind == "sandbox_lost"


async def test_collected_patches_hold_new_files_and_no_litter(swe_task, backend):
    async with await prepare(swe_task, backend, SETTINGS) as sandbox:
        await sandbox.exec(
            "python -m pytest -q test_inflection.py; mkdir -p __pycache__ .pytest_cache x.egg-info; "
            "touch __pycache__/a.pyc .pytest_cache/b x.egg-info/c; echo new > 'a file.txt'; "
            "git -c user.name=a -c user.email=b commit -qam x; git config core.hooksPath x; rm README.rst",
            timeout_s=60,
        )
        patch = await collect_patch(swe_task, sandbox)
    assert {line.split(" b/")[1] for line in patch.splitlines() if line.startswith("diff --git")} == {
        "a file.txt",
        "README.rst",
    }
