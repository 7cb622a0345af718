"""Math: every calculation in a generated solution holds, answers are judged by meaning, and nothing hangs."""

import gzip
import json
import random
import re
import threading
import time
from collections import Counter
from fractions import Fraction
from pathlib import Path

import pytest

from env_server.errors import TaskError
from env_server.schema import Action, Task
from env_server.tasks.math import (
    MathSession,
    extract_answer,
    generate_problems,
    judge,
    load_math,
    split_solution,
)
from env_server.tasks.word_problems import make

EQUATION = re.compile(r"([\d(][\d+\-*/() ]*?) = (-?\d+)")


def problem(answer: str) -> Task:
    return Task(kind="math", instance_id="m", problem_statement="?", answer=answer)


def value(expression: str) -> Fraction:
    return Fraction(eval(re.sub(r"\d+", r"Fraction(\g<0>)", expression), {"Fraction": Fraction}))


def test_every_calculation_of_every_solution_is_right():
    for task in generate_problems(1500, seed=11):
        for step in task.solution[:-1]:
            equations = EQUATION.findall(step)
            assert equations, step
            for left, right in equations:
                assert value(left) == int(right), step


def test_the_last_calculation_gives_the_boxed_answer():
    for task in generate_problems(1000, seed=12):
        assert task.solution[-1].count(f"\\boxed{{{task.answer}}}") == 1
        results = [right for step in task.solution[:-1] for _, right in EQUATION.findall(step)]
        assert task.answer in results
        assert judge(task.solution[-1], task)


def test_every_number_of_a_solution_is_given_or_computed_before():
    """Else the text would not determine the answer. 2 and 3 stand for doubling and tripling."""
    words = {"0", "1", "2", "3", "4", "5", "60", "100"}
    for task in generate_problems(1000, seed=13):
        known = set(re.findall(r"\d+", task.problem_statement)) | words
        for step in task.solution:
            for left, right in EQUATION.findall(step):
                unknown = set(re.findall(r"\d+", left)) - known
                assert not unknown or "buses" in step or "boxes take" in step or "breaks" in step, (
                    step,
                    unknown,
                )
                known.add(right)
            known |= set(re.findall(r"\d+", step))


def solve_seats(text: str) -> int:
    adult, child, people, money = map(int, re.findall(r"\d+", text))
    return next(a for a in range(people + 1) if a * adult + (people - a) * child == money)


def solve_meeting(text: str) -> int:
    apart, fast, slow = map(int, re.findall(r"\d+", text))
    hours = next(h for h in range(1, 100) if h * (fast + slow) == apart)
    return hours * fast


def solve_tank(text: str) -> int:
    full, level, gain, loss = map(int, re.findall(r"\d+", text))
    minutes = 0
    while level < full:
        level, minutes = level + gain - loss, minutes + 1
    return minutes


def solve_ages(text: str) -> int:
    young, factor, gap, years = map(int, re.findall(r"\d+", text))
    return sum(age + years for age in (young, young * factor, young * factor + gap))


@pytest.mark.parametrize("solve", [solve_seats, solve_meeting, solve_tank, solve_ages])
def test_answers_agree_with_a_second_way_to_the_solution(solve):
    kind = solve.__name__.removeprefix("solve_")
    drafts = [d for seed in range(1500) if (d := make(random.Random(seed))).kind == kind]
    assert len(drafts) > 20
    for draft in drafts:
        assert solve(" ".join(draft.text)) == draft.answer


def test_problems_vary_in_structure_and_not_only_in_numbers():
    tasks = generate_problems(2000, seed=1)
    assert len({t.problem_statement for t in tasks}) == len({t.instance_id for t in tasks}) == 2000
    assert len({t.repo for t in tasks}) >= 28
    assert max(Counter(t.repo for t in tasks).values()) < 250
    shapes = {re.sub(r"\d+|[A-Z][a-z]+", "_", " ".join(t.solution)) for t in tasks}
    assert len(shapes) > 500
    assert {3, 4, 5, 6} == {len(t.solution) for t in tasks}


def test_the_same_seed_makes_the_same_problems():
    assert generate_problems(50, seed=4) == generate_problems(50, seed=4) != generate_problems(50, seed=5)


@pytest.mark.parametrize(
    ("text", "answer", "right"),
    [
        (r"so \boxed{42}", "42", True),
        (r"\boxed{41} no, \boxed{42}", "42", True),
        (r"\boxed{42} no, \boxed{41}", "42", False),
        ("Answer: 1,234.", "1234", True),
        ("The answer is: **7**", "7", True),
        (r"\boxed{0.5}", r"\frac{1}{2}", True),
        (r"\boxed{\dfrac{2}{4}}", r"\frac12", True),
        (r"\boxed{\frac{1}{3}}", "0.33", False),
        (r"\boxed{$18}", "18", True),
        (r"\boxed{x^2+2x+1}", "(x+1)^2", True),
        ("I think it is 42", "42", False),
        (r"\boxed{42", "42", False),
        (r"\boxed{}", "42", False),
        ("", "42", False),
        (r"\boxed{1/0}", "1", False),
    ],
)
def test_answers_are_judged_by_their_meaning(text: str, answer: str, right: bool):
    assert judge(text, problem(answer)) is right


@pytest.mark.parametrize(
    "text", ["\\boxed{" * 400, "\\boxed{" + "9^{" * 30 + "}" * 31, "\\boxed{\x00\ud800}", "}" * 999]
)
def test_hostile_answers_are_wrong_and_not_an_error(text: str):
    assert judge(text, problem(r"\frac{1}{2}")) is False


def test_an_endless_answer_is_wrong_in_time_and_the_next_is_judged():
    start = time.monotonic()
    assert judge(r"\boxed{9^{9^{9^{9^9}}}}", problem(r"\sqrt{2}")) is False
    assert time.monotonic() - start < 60
    assert judge(r"\boxed{2^{1/2}}", problem(r"\sqrt{2}")) is True


def test_judging_works_in_threads():
    answers: list[bool] = []
    threads = [
        threading.Thread(target=lambda: answers.append(judge(r"\boxed{\frac{3}{6}}", problem(r"\frac{1}{2}"))))
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == [True] * 4


def test_nested_braces_are_one_answer():
    assert extract_answer(r"a \boxed{\frac{1}{\sqrt{2}}} b") == r"\frac{1}{\sqrt{2}}"


def test_numbered_solutions_are_cut_at_their_titles():
    text = "Intro.\n1. **First**: do\n   more\n2. **Second**: then\n\n\\boxed{3}"
    assert split_solution(text) == ["Intro.\n1. **First**: do\n   more", "2. **Second**: then\n\n\\boxed{3}"]


def test_other_solutions_are_cut_at_lines_but_never_inside_a_formula():
    text = "We have <<1+1=2>>two.\n\nThen\n\\[\nx = 1\n\\]\nso \\boxed{1}"
    assert split_solution(text) == ["We have two.", "Then\n\\[\nx = 1\n\\]", "so \\boxed{1}"]


def test_rows_of_the_known_shapes_load(tmp_path: Path):
    rows = [
        {"question": "Q1", "answer": "He has <<2+2=4>>4.\nSo 8.\n#### 8"},
        {"problem": "Q2", "answer": "9", "steps": ["one", "two"]},
        {"question": "Q3", "solution": "128", "deepseek_attempt": "1. **A** a\n2. **B** so \\boxed{128}"},
        {"problem": "Q4", "solution": "Thus $\\boxed{\\frac12}$."},
        {"problem": "Q5", "answer": 70},
    ]
    path = tmp_path / "set.jsonl.gz"
    path.write_bytes(gzip.compress("\n".join(map(json.dumps, rows)).encode()))
    tasks = load_math(path)
    assert [t.answer for t in tasks] == ["8", "9", "128", r"\frac12", "70"]
    assert tasks[0].solution == ["He has 4.", "So 8. The answer is \\boxed{8}."]
    assert tasks[1].solution[-1] == "two The answer is \\boxed{9}."
    assert tasks[2].solution == ["1. **A** a", "2. **B** so \\boxed{128}"]
    assert tasks[4].solution == []
    assert len({t.repo for t in tasks}) == 5
    assert all(judge(t.solution[-1], t) for t in tasks if t.solution)


@pytest.mark.parametrize(
    "content", ["", "{", "[1]", '{"problem": "p"}', '{"answer": "1"}', '{"problem": 3, "answer": 1}']
)
def test_broken_files_are_named_in_one_line(tmp_path: Path, content: str):
    path = tmp_path / "set.jsonl"
    path.write_text(content)
    with pytest.raises(TaskError) as caught:
        load_math(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["missing.jsonl", "no such thing", "a/b/c"])
def test_what_is_neither_a_file_nor_a_hub_id_is_said(name: str):
    with pytest.raises(TaskError, match="no such file"):
        load_math(name)


def test_a_session_goes_on_until_an_answer_is_boxed():
    session = MathSession(problem("2"), max_steps=3)
    first = session.step(Action(name="step", arguments={"text": "1 + 1 = 2"}))
    assert (first.output, first.done, first.steps_left) == ("Next step.", False, 2)
    assert session.step(Action(name="bash", arguments={"command": "ls"})).outcome == "bad_action"
    last = session.step(Action(name="step", arguments={"text": "so \\boxed{2}"}))
    assert last.done and session.resolved()
    assert "1 + 1 = 2" in session.observe()


def test_a_session_ends_at_its_last_step_without_an_answer():
    session = MathSession(problem("2"), max_steps=2)
    outcomes = [session.step(Action(name="step", arguments={"text": "hm"})).done for _ in range(2)]
    assert outcomes == [False, True]
    assert not session.resolved()
