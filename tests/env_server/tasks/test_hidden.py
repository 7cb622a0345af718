"""Risks: a failing test stays in the agent's tree, or taking it out breaks the file."""

import ast

import pytest

from env_server.errors import TaskError
from env_server.tasks.hidden import without_tests

FILE = b'''\
import pytest

ROWS = [1, 2]


# says what the bug is
@pytest.mark.parametrize(
    "row", ROWS
)
def test_rows(row):
    assert row


class Base:
    def test_shared(self):
        assert True


class TestOnly(Base):
    """One test."""

    def test_one(self):
        assert "text \\
with a line"


class TestBare:
    async def test_two(self):
        pass


if ROWS:
    def test_three():
        pass
else:
    def test_four(): pass
'''


@pytest.mark.parametrize(
    ("tests", "gone", "kept"),
    [
        (["test_rows[1]"], ["test_rows", "parametrize", "says what"], ["test_one", "ROWS = [1, 2]"]),
        (["TestOnly::test_one", "TestBare::test_two"], ["test_one", "test_two"], ["class TestBare", "test_rows"]),
        (["TestOnly::test_shared"], ["test_shared"], ["class Base", "test_one"]),
        (["test_three"], ["test_three"], ["test_four"]),
        (["test_four"], ["test_four"], ["test_three"]),
        (["test_rows[1]", "test_rows[2]", "test_three", "TestBare::test_two"], ["test_rows"], ["test_one"]),
    ],
)
def test_named_tests_go_and_the_rest_stays_valid(tests, gone, kept):
    changed = without_tests(FILE, tests)
    ast.parse(changed)
    assert not [word for word in gone if word.encode() in changed]
    assert not [word for word in kept if word.encode() not in changed]


@pytest.mark.parametrize("test", ["test_missing", "TestOnly::test_none", "TestOther::test_one", "TestOnly"])
def test_a_test_without_a_function_is_an_error(test):
    with pytest.raises(TaskError, match="no function of its own"):
        without_tests(FILE, [test])
