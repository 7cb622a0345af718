"""Risks: a patch that loses a file or does not apply again, a tree with another sha elsewhere, history that tells."""

import os
import subprocess

import pytest

from env_server.errors import TaskError
from env_server.tasks.sources import clean, fetch
from env_server.tasks.trees import apply_patch, copy_tree, diff_files, diff_trees, is_test_side, make_repository


@pytest.fixture
def pair(tmp_path):
    """Two trees that differ in every way a patch knows."""
    before, after = tmp_path / "before", tmp_path / "after"
    for folder in (before, after):
        (folder / "pkg").mkdir(parents=True)
        (folder / "same.txt").write_text("same\n")
    (before / "pkg/edit.py").write_text("a = 1\nb = 2")
    (after / "pkg/edit.py").write_text("a = 1\nb = 3")
    (before / "gone.py").write_text("x\n")
    (after / "a new file é.py").write_text("y\n")
    (after / "blob").write_bytes(b"\0\1\2")
    (after / "latin.txt").write_bytes("café\n".encode("latin-1"))
    (after / "link").symlink_to("same.txt")
    (after / "run.sh").write_text("#!/bin/sh\n")
    (after / "run.sh").chmod(0o755)
    return before, after


def test_a_diff_applied_gives_the_other_tree(pair):
    before, after = pair
    patch = diff_trees(before, after)
    assert "diff --git a/gone.py b/gone.py" in patch
    apply_patch(before, patch)
    assert diff_trees(before, after) == ""
    assert (before / "latin.txt").read_bytes() == "café\n".encode("latin-1")
    assert (before / "run.sh").stat().st_mode & 0o100


def test_names_and_links_that_are_no_text_still_make_a_patch(pair):
    before, after = pair
    (after / os.fsdecode(b"a\xff.py")).write_text("z = 1\n")
    patch = diff_trees(before, after)
    assert '"b/a\\377.py"' in patch
    apply_patch(before, patch)
    assert diff_trees(before, after) == ""
    (after / "odd").symlink_to(os.fsdecode(b"\xff"))
    assert "b/odd" in diff_trees(before, after)


def test_a_repository_has_one_commit_and_always_the_same(pair, tmp_path):
    twin = tmp_path / "twin"
    copy_tree(pair[1], twin)
    (twin / ".gitattributes").write_text("* text=auto\n")
    (pair[1] / ".gitattributes").write_text("* text=auto\n")
    sha = make_repository(pair[1])
    assert sha == make_repository(twin)
    run = ["git", "-c", "safe.directory=*", "-C", str(twin)]
    assert subprocess.check_output([*run, "rev-list", "--all"], text=True).split() == [sha]
    assert subprocess.check_output([*run, "status", "--porcelain", "--ignored"], text=True) == ""
    assert subprocess.check_output([*run, "reflog"], text=True) == ""


def test_files_made_and_deleted(tmp_path):
    patch = diff_files({"a.py": b"1\n", "b.py": None}, {"a.py": None, "b.py": b"2\n"})
    (tmp_path / "a.py").write_text("1\n")
    apply_patch(tmp_path, patch)
    assert [path.name for path in tmp_path.iterdir()] == ["b.py"]


def test_cleaning_takes_copies_and_leaves_packages(tmp_path):
    for junk in ("build/lib/pkg", "pkg/__pycache__", "pkg.egg-info", "dist", ".tox/py/lib", "docs/_build/html"):
        (tmp_path / junk).mkdir(parents=True)
        (tmp_path / junk / "copy.py").write_text("secret")
    (tmp_path / "pkg/build").mkdir()
    (tmp_path / "pkg/build/__init__.py").write_text("kept")
    (tmp_path / "pkg/old.pyc").write_text("secret")
    clean(tmp_path)
    assert [path.read_text() for path in sorted(tmp_path.rglob("*")) if path.is_file()] == ["kept"]


def test_a_cached_tree_in_which_somebody_ran_python_is_clean_again(index):
    tree = fetch("shapes-demo").tree
    assert not (tree / "build").exists()
    (tree / "src/shapes_demo/__pycache__").mkdir()
    assert fetch("shapes-demo==1.0").tree == tree
    assert not list(tree.rglob("__pycache__"))


@pytest.mark.parametrize("name", ["../etc", "a b", "https://x/y.tar.gz", "a>=1", ""])
def test_only_names_and_exact_versions_are_fetched(name):
    with pytest.raises(TaskError, match="NAME or NAME==VERSION"):
        fetch(name)


def test_what_belongs_to_the_tests():
    assert all(is_test_side(p) for p in ("tests/x.json", "a/test_b.py", "a/b_test.py", "conftest.py", "pkg/test/a.py"))
    assert not any(is_test_side(p) for p in ("pkg/testing.py", "pkg/latest.py", "contest.py", "attest/a.py"))
