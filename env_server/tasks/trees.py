"""Trees of files, the patches between them, and the agent's git repository. Uses the host's git with no configuration.

Left out: anything that runs a task's code; patches from an agent are only ever applied inside a sandbox.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path

from env_server.errors import TaskError
from env_server.tasks.sources import clean

_DATE = "2000-01-01T00:00:00 +0000"
_GIT_ENV = {
    "GIT_CONFIG_NOSYSTEM": "1",
    "GIT_CONFIG_GLOBAL": "/dev/null",
    "GIT_TERMINAL_PROMPT": "0",
    "GIT_AUTHOR_NAME": "author",
    "GIT_AUTHOR_EMAIL": "author@example.org",
    "GIT_COMMITTER_NAME": "author",
    "GIT_COMMITTER_EMAIL": "author@example.org",
    "GIT_AUTHOR_DATE": _DATE,
    "GIT_COMMITTER_DATE": _DATE,
    "LC_ALL": "C.UTF-8",
}
_REPO_CONFIG = """\
[core]
\trepositoryformatversion = 0
\tfilemode = true
\tbare = false
\tlogallrefupdates = false
\tautocrlf = false
[gc]
\tauto = 0
[user]
\tname = agent
\temail = agent@example.org
"""


QUOTED = ("-c", "core.quotePath=true")
_TEST_FOLDERS = frozenset(("test", "tests"))


def is_test_side(path: str) -> bool:
    """Whether a file belongs to the tests rather than to the package."""
    *folders, name = path.split("/")
    stem = name.removesuffix(".py")
    named = name.endswith(".py") and (
        stem.startswith("test_") or stem.endswith("_test") or stem in ("conftest", "tests")
    )
    return named or bool(_TEST_FOLDERS & set(folders))


def git(*arguments: str, cwd: Path, ok: tuple[int, ...] = (0,)) -> bytes:
    """Run git in `cwd`, blind to every configuration and every repository above. Raises TaskError."""
    env = {"PATH": os.environ.get("PATH", os.defpath), "GIT_CEILING_DIRECTORIES": str(cwd.parent), **_GIT_ENV}
    try:
        done = subprocess.run(["git", *arguments], cwd=cwd, env=env, capture_output=True)
    except FileNotFoundError:
        raise TaskError("git is not installed: apt install git") from None
    if done.returncode not in ok:
        raise TaskError(f"git {arguments[0]}: {done.stderr.decode(errors='replace').strip()[:500]}")
    return done.stdout


def diff_trees(before: Path, after: Path) -> str:
    """Unified git diff from one folder to another; new, deleted and binary files included."""
    with tempfile.TemporaryDirectory(prefix="agent-srl-diff-", ignore_cleanup_errors=True) as scratch:
        for name, folder in (("a", before), ("b", after)):
            (Path(scratch) / name).symlink_to(folder.resolve())
        (Path(scratch) / "attributes").write_text("* -diff\n")
        text = _decoded(Path(scratch))
    return re.sub(r"^diff --git .*$", _same_on_both_sides, text, flags=re.M)


def _decoded(scratch: Path) -> str:
    """A patch is a string: names in another encoding are quoted, files in another encoding go as binary."""
    raw = b""
    for config in ((), QUOTED, (*QUOTED, "-c", "core.attributesFile=attributes")):
        raw = _diff(scratch, *config)
        with contextlib.suppress(UnicodeDecodeError):
            return raw.decode()
    return raw.decode(errors="replace")  # the target of a link: git has no other way to write it


def _diff(scratch: Path, *config: str) -> bytes:
    options = ["--no-index", "--binary", "--no-ext-diff", "--no-textconv", "--no-prefix", "--no-color"]
    # A trailing slash makes git walk what the link points to.
    return git("-c", "core.quotePath=false", *config, "diff", *options, "a/", "b/", cwd=scratch, ok=(0, 1))


def _same_on_both_sides(header: re.Match[str]) -> str:
    """`--no-index` names a new file `b/x b/x` and a deleted one `a/x a/x`; a repository's diff says `a/x b/x`."""
    names = header[0].removeprefix("diff --git ")
    first, second = names[: len(names) // 2], names[len(names) // 2 + 1 :]
    if first != second:
        return header[0]
    quote = '"' if first.startswith('"') else ""
    rest = first[len(quote) + 2 :]
    return f"diff --git {quote}a/{rest} {quote}b/{rest}"


def diff_files(before: Mapping[str, bytes | None], after: Mapping[str, bytes | None]) -> str:
    """Unified git diff between two sets of files; None is a file that is not there."""
    with tempfile.TemporaryDirectory(prefix="agent-srl-diff-", ignore_cleanup_errors=True) as scratch:
        folders = []
        for name, files in (("before", before), ("after", after)):
            folder = Path(scratch) / name
            folder.mkdir()
            write_files(folder, files)
            folders.append(folder)
        return diff_trees(*folders)


def write_files(tree: Path, files: Mapping[str, bytes | None]) -> None:
    """Write or delete files below `tree`."""
    for path, content in files.items():
        target = tree / path
        if content is None:
            target.unlink(missing_ok=True)
        else:
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(content)


def apply_patch(tree: Path, patch: str) -> None:
    """Apply one of our own patches to a folder that is no repository. Raises TaskError."""
    if not patch:
        return
    with tempfile.NamedTemporaryFile(prefix="agent-srl-", suffix=".diff") as handle:
        handle.write(patch.encode())
        handle.flush()
        git("apply", "--whitespace=nowarn", handle.name, cwd=tree)


def make_repository(tree: Path) -> str:
    """Make `tree` a git repository with one commit, the same on every machine; return its sha."""
    git("init", "--quiet", "--template=", "--initial-branch=main", cwd=tree)
    (tree / ".git" / "config").write_text(_REPO_CONFIG)
    info = tree / ".git" / "info"
    info.mkdir(exist_ok=True)
    (info / "attributes").write_text("* -text -filter -ident -working-tree-encoding -export-subst\n")
    git("add", "--all", "--force", ".", cwd=tree)
    git("commit", "--quiet", "--allow-empty", "--no-verify", "--message", "Initial commit", cwd=tree)
    return git("rev-parse", "HEAD", cwd=tree).decode().strip()


def copy_tree(source: Path, target: Path) -> None:
    """Copy a folder; symbolic links as links."""
    shutil.copytree(source, target, symlinks=True, dirs_exist_ok=True)


def prune(tree: Path) -> None:
    """Leave out of a diff what running and testing leaves behind."""
    clean(tree)
