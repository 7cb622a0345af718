"""Risks: an edit that breaks the syntax or the formatting, a kind that never fires, a copy that gives it away."""

import ast
import random
import textwrap
from pathlib import Path

import pytest

from env_server.tasks.edits import KINDS
from env_server.tasks.mutate import Copies, candidates, is_change, overlap, splice

SAMPLE = b'''\
import sys


class Box:
    def fit(self, items, limit=3, sep=","):
        """Not this 'string'."""
        total  =  0   # odd spacing stays
        for item in items[1:limit]:
            if not item:
                continue
            if item == limit and total < limit or item in items:
                total += item * 2
            else:
                total -= 1
            if total > 100:
                break
        if total >= limit: return None
        self.store(total, limit)
        total = min(total, limit)
        flag = True
        return (sep.lstrip() if flag else "end", items.index(total, 0))
'''


def test_every_kind_finds_a_place():
    found = {edit.kind for edit in candidates("box.py", SAMPLE) if is_change(SAMPLE, edit)}
    assert found == set(KINDS)


@pytest.mark.parametrize("source", [SAMPLE, Path(textwrap.__file__).read_bytes(), SAMPLE.replace(b"\n", b"\r\n")])
def test_an_edit_changes_its_function_and_nothing_else(source):
    some = random.Random(0).sample(candidates("m.py", source), 50)
    edits = [edit for edit in some if is_change(source, edit)]
    assert len(edits) > 30
    before = {ast.dump(node) for node in ast.parse(source).body}
    for edit in edits:
        changed = splice(source, [edit])
        assert changed[: edit.start] == source[: edit.start]
        assert changed[edit.start + len(edit.text) :] == source[edit.end :]
        top = [node for node in ast.parse(changed).body if ast.dump(node) not in before]
        assert [node.name for node in top] == [edit.function.split(".")[0]]


def test_docstrings_annotations_and_f_strings_are_left_alone():
    source = b'def f(x: "int" = None) -> "str":\n    """Say \'x\'."""\n    return f"{x + 1} and {\'a\'}"\n'
    assert candidates("m.py", source) == []


def test_edits_of_one_file_are_spliced_from_the_end():
    source = b"def f(a, b):\n    return a < b, a == b\n"
    edits = {edit.kind: edit for edit in candidates("m.py", source)}
    both = [edits["comparison_boundary"], edits["comparison_flip"]]
    assert not overlap(both)
    assert splice(source, both) == b"def f(a, b):\n    return a <= b, a != b\n"
    assert overlap([both[0], both[0]])


def test_a_function_with_a_second_copy_is_refused(tmp_path):
    source = b"def once(a):\n    return a + 1\n\ndef twice(a):\n    return a + 2\n"
    copy = b"class Old:\n    def twice(a):\n\n        return a + 2\n"
    edits = candidates("m.py", source)
    for tree, site in (({"m.py": source, "docs/old.txt": copy}, b""), ({"m.py": source}, copy)):
        folder = tmp_path / f"site{len(site)}"
        folder.mkdir()
        (folder / "dep.py").write_bytes(site)
        copies = Copies(tree, folder)
        assert {edit.function for edit in edits if copies.unique(edit)} == {"once"}


def test_a_backport_of_the_standard_library_is_refused(tmp_path):
    source = Path(textwrap.__file__).read_bytes()
    assert not Copies({"m.py": source}, tmp_path).unique(candidates("m.py", source)[0])
