"""Risks: a statement that leaves a planted mistake untold, or says that all the rest is fine where it cannot know."""

import pytest

from env_server.schema import Task
from env_server.tasks import statement
from env_server.tasks.factory import SPARE, Factory, Planted, _told
from env_server.tasks.mutate import Edit
from env_server.tasks.symptom import Observed, Symptom, _difference

FACTS = {"package": "p", "version": "1", "python": "3.11"}
FINE = ("is fine", "Other inputs", "all other inputs")


def planted(*failing: tuple[str, ...]) -> Planted:
    edit = Edit("p.py", "k", "f", 1, 0, 1, b"")
    parts = tuple(Planted((edit,), tests) for tests in failing)
    return Planted((edit,) * len(parts), tuple({t for tests in failing for t in tests}), parts)


def symptom(test: str, code: str = "", size: int = 1) -> Symptom:
    return Symptom(f"p.f('{test * size}')", ("returns", "1"), ("returns", "2"), code, test)


def observed(*symptoms: Symptom, crash: str = "") -> Observed:
    return Observed(symptoms, crash, ("p.f",), 1, frozenset())


@pytest.mark.parametrize(
    ("failing", "tests", "told"),
    [
        ((("a",), ("b",)), "ab", ["a", "b"]),
        ((("a", "c"), ("b",)), "cb", ["c", "b"]),
        ((("a",), ("b",)), "a", None),
        ((("a", "c"), ("b", "c")), "ac", None),
        ((("a",), ("b",), ("c",)), "acb", ["a", "b", "c"]),
    ],
)
def test_of_several_edits_each_has_a_symptom_of_its_own_or_there_is_no_task(failing, tests, told):
    found = _told(planted(*failing), observed(*map(symptom, tests), crash="E"))
    assert (found and [s.test for s in found.symptoms]) == told


@pytest.mark.parametrize("size", [1, 250])
def test_all_symptoms_of_several_edits_are_in_the_text(size):
    symptoms = [symptom(test, code="import p" if test == "a" else "", size=size) for test in "abc"]
    for seed in "0123456789":
        text = statement.write(observed(*symptoms), **FACTS, seed=seed, edits=3)
        assert text is not None and len(text) <= statement.MAX_CHARS
        assert not [s for s in symptoms if s.call not in text]


def test_symptoms_that_do_not_fit_are_no_statement():
    assert statement.write(observed(*(symptom(t, size=600) for t in "abc")), **FACTS, seed="0", edits=3) is None


def test_a_crash_alone_never_says_that_the_rest_is_fine():
    for seed in map(str, range(30)):
        text = statement.write(observed(crash="E assert 1 == 2"), **FACTS, seed=seed, edits=1)
        assert text and not [word for word in FINE if word in text]


def call(text: str, result: int, code: str | None) -> dict[str, object]:
    return {"text": text, "outcome": ["returns", "int", str(result)], "code": code}


def test_a_call_that_is_code_is_told_rather_than_an_earlier_one_that_is_not():
    gold = {"calls": [call("f(x)", 1, None), call("g(1)", 1, "p.g(1)"), call("h(1)", 1, "p.h(1)")]}
    bug = {"calls": [call("f(x)", 2, None), call("g(1)", 2, "p.g(1)"), call("h(1)", 2, "p.h(1)")]}
    assert _difference(gold, bug)["call"]["text"] == "g(1)"
    other_input = {"calls": [bug["calls"][0], call("g(2)", 2, "p.g(2)")]}
    assert _difference(gold, other_input)["call"]["text"] == "f(x)"
    assert _difference(gold, gold) is None and _difference(None, bug) is None


def test_tasks_without_code_wait_for_better_ones_but_not_for_ever():
    factory = object.__new__(Factory)
    factory._spare = []
    plain = [Task(instance_id=f"plain{n}", problem_statement="f gives 1") for n in range(SPARE + 2)]
    good = Task(instance_id="good", problem_statement=f"f gives 1\n{statement.CODE}\nf()\n```")
    assert [factory._rather_code(task) for task in plain[:SPARE]] == [None] * SPARE
    assert factory._rather_code(good) is good
    assert [factory._rather_code(task) for task in plain[SPARE:]] == plain[:2]
