"""Risks: triples that change from run to run, pairs an engineer would dispute, a peer's rule told wrongly, numbers
that flatter us."""

from __future__ import annotations

import json
import random
import subprocess
from collections import Counter
from pathlib import Path

import pytest

from benchmarks.reward_ranking import __main__ as command
from benchmarks.reward_ranking import better, groups, harmless, ranking, speed, triples
from benchmarks.reward_ranking.corpus import load, split
from benchmarks.reward_ranking.forms import Replace, Search, View, take_apart
from benchmarks.reward_ranking.nemo_gym import swe_pivot
from benchmarks.reward_ranking.scorers import SCORERS
from env_server.schema import Action

DATA = Path(__file__).resolve().parents[3] / "shared" / "data"


@pytest.fixture(scope="module")
def corpus():
    if not (DATA / "trajectories").is_dir():
        pytest.skip(f"no real trajectories: {DATA} is absent")
    return load(DATA)


@pytest.fixture(scope="module")
def made(corpus):
    return triples.generate(corpus, seed=0)


def bash(text: str) -> Action:
    return Action(name="bash", arguments={"command": text})


def edit(path: str = "/testbed/pkg/a.py", old: str = "a = 1", new: str = "a = 2") -> Action:
    arguments = {"command": "str_replace", "path": path, "old_str": old, "new_str": new}
    return Action(name="str_replace_editor", arguments=arguments)


def view(path: str, lines: list[int] | str | None = None) -> Action:
    area = {} if lines is None else {"view_range": lines}
    return Action(name="str_replace_editor", arguments={"command": "view", "path": path, **area})


# triples


def test_the_same_seed_makes_the_same_triples_and_another_seed_others(corpus, made):
    assert triples.generate(corpus, seed=0) == made
    assert triples.generate(corpus, seed=1) != made


def test_every_category_has_enough_triples(made):
    counts = Counter(t.category for t in made)
    assert set(counts) == set(triples.CATEGORIES) and len(counts) >= 12
    assert min(counts.values()) >= 20 and len(made) >= 400


def test_one_run_does_not_make_up_a_category(made):
    assert max(Counter((t.category, t.run) for t in made).values()) <= triples.PER_RUN


def test_the_three_actions_of_a_triple_differ(made):
    for triple in [*made, *triples.by_hand()]:
        assert len({repr(a) for a in (triple.expert, triple.better, triple.worse)}) == 3


@pytest.mark.parametrize("name", SCORERS)
def test_an_expert_action_earns_one_by_itself(made, name):
    for expert in {repr(t.expert): t.expert for t in made}.values():
        assert SCORERS[name](expert, expert) == pytest.approx(1.0)


def test_triples_by_hand_cover_every_category_without_the_real_data():
    found = triples.by_hand()
    assert {t.category for t in found} == set(triples.CATEGORIES)


# rules


@pytest.fixture
def tree(tmp_path):
    (tmp_path / "pkg").mkdir()
    (tmp_path / "pkg/a.py").write_text("".join(f"value_{i} = {i}\n" for i in range(1, 60)))
    (tmp_path / "pkg/b.py").write_text("def value_7():\n    return 7\n")
    return tmp_path


def output(action: Action, tree: Path) -> str:
    command = action.arguments["command"].replace(harmless.WORKDIR, str(tree))
    done = subprocess.run(["bash", "-c", command], cwd=tree, capture_output=True, text=True, check=True, timeout=20)
    return done.stdout.replace(f"{tree}/", "").replace("./", "")


@pytest.mark.parametrize(
    "text",
    [
        "cat pkg/a.py",
        "grep -n value_7 pkg/a.py",
        'grep -rn "value_7" pkg',
        "grep -n -A 2 -B 1 'value_7' pkg/a.py",
        "grep -i -n value_7 pkg/a.py",
        "ls -la1 pkg/a.py",
        "sed -n '5,9p' pkg/a.py",
        "nl -ba pkg/a.py | sed -n '5,9p'",
        "python3 pkg/a.py",
        "cd /testbed && cat pkg/b.py",
    ],
)
def test_a_harmless_rewrite_prints_the_same(tree, text):
    call = take_apart(bash(text))
    found = harmless.rewrites(call)
    assert found
    for name, action in found.items():
        assert output(action, tree) == output(call.action, tree), name


@pytest.mark.parametrize(
    "text", ["cat pkg/a.py", "sed -n '5,9p' pkg/a.py", "head -n 3 pkg/a.py", "cat pkg/a.py | sed -n '5,9p'"]
)
def test_another_reader_shows_the_same_lines(tree, text):
    call = take_apart(bash(text))
    for seed in range(8):
        action = better.other_reader(call, random.Random(seed))
        shown = [line.split("\t")[-1] for line in output(action, tree).splitlines()]
        assert shown == output(call.action, tree).splitlines()


@pytest.mark.parametrize(
    "text", ["sed -i 's/value_7 = 7/value_7 = 8/' pkg/a.py", "sed -i '5d' pkg/a.py", "sed -i '7s/7/x|y/g' pkg/a.py"]
)
def test_another_expression_makes_the_same_edit(tree, text):
    before = (tree / "pkg/a.py").read_text()
    call = take_apart(bash(text))
    output(call.action, tree)
    expected = (tree / "pkg/a.py").read_text()
    (tree / "pkg/a.py").write_text(before)
    output(better.other_expression(call, random.Random(0)), tree)
    assert (tree / "pkg/a.py").read_text() == expected != before


def test_less_context_makes_the_same_change():
    file = "def f():\n    a = 1\n    b = compute_the_value(a)\n    return b\n"
    action = edit(old=file, new=file.replace("compute_the_value(a)", "compute_the_value(a + 1)"))
    shorter = better.less_context(take_apart(action), random.Random(0))
    old, new = shorter.arguments["old_str"], shorter.arguments["new_str"]
    assert len(old) < len(file) and file.count(old) == 1
    assert file.replace(old, new) == action.arguments["new_str"]


@pytest.mark.parametrize(
    "text",
    ["cat a.py && rm a.py", "grep x a.py > out", "grep -rn x $(ls)", "sed -n '1,2p' a.py; ls", "cat a.py | sort"],
)
def test_what_is_not_fully_understood_has_no_form(text):
    assert take_apart(bash(text)).form is None


def test_forms_are_read_from_every_tool():
    assert take_apart(view("/testbed/a.py", "[3, 9]")).form == View("/testbed/a.py", 3, 9)
    assert take_apart(view("/testbed/a.py", [3, 9])).form == View("/testbed/a.py", 3, 9)
    assert take_apart(edit()).form == Replace("/testbed/pkg/a.py", "a = 1", "a = 2")
    assert take_apart(bash("cd /x && grep -nA 5 'y z' a.py | head -3")).form == Search(("-nA 5",), "'y z'", ("a.py",))


# NeMo-Gym's rule, as described


def test_nemo_gym_takes_tools_of_one_category_as_equal():
    assert swe_pivot(Action(name="execute_bash", arguments={"command": "ls a/b"}), bash("ls a/b")) == 1.0
    assert swe_pivot(view("/testbed/pkg/a.py"), bash("cat /testbed/pkg/a.py")) == 0.0


def test_nemo_gym_gives_nothing_for_another_target():
    assert swe_pivot(edit("/testbed/pkg/b.py"), edit("/testbed/pkg/a.py")) == 0.0
    assert swe_pivot(bash("cat pkg/b.py"), bash("cat pkg/a.py")) == 0.0
    assert swe_pivot(edit("pkg/a.py"), edit("/testbed/pkg/a.py")) == 1.0


@pytest.mark.parametrize(
    ("lines", "counts"), [([1, 10], True), ([1, 8], True), ([1, 7], False), ([1, 99], True), (None, True)]
)
def test_nemo_gym_wants_four_fifths_of_the_viewed_lines(lines, counts):
    assert (swe_pivot(view("/t/a.py", lines), view("/t/a.py", [1, 10])) > 0) == counts


def test_nemo_gym_takes_the_lower_of_old_and_new_text():
    whole = edit(old="abcdefgh", new="ijklmnop")
    half = edit(old="abcdefgh", new="ijklxxxx")
    assert swe_pivot(half, whole) == pytest.approx((1.0 + 0.5) / 2)


def test_nemo_gym_takes_a_tenth_off_an_edit_twice_as_large():
    small, large = edit(new="x" * 10), edit(new="x" * 20)
    similar = (1.0 + 2 * 10 / 30) / 2
    assert swe_pivot(large, small) == pytest.approx(similar - 0.1)


def test_nemo_gym_takes_cd_for_the_verb():
    assert swe_pivot(bash("cd /testbed && rm tests/test_a.py"), bash("cd /testbed && cat tests/test_a.py")) > 0.5


# numbers


def test_a_tie_is_an_error():
    triple = triples.by_hand()[0]
    judged = ranking.judge([triple], {"same": lambda candidate, expert: 0.5})["same"]
    assert ranking.accuracy(judged).mean == 0.0 and ranking.ties(judged) == 1.0


def test_no_task_is_on_both_sides(corpus):
    train, held = split(corpus, seed=0)
    assert not {i.instance_id for i in train} & {i.instance_id for i in held}
    assert len(held) >= 150


def test_percentile_and_kept_groups_do_not_change_under_a_monotone_map_and_do_under_another_order():
    samples = (bash("ls"), bash("cat a.py"), bash("cat b.py"), None)
    group = groups.SampledGroup(bash("cat a.py"), bash("ls"), samples)

    def length(candidate: Action, expert: Action) -> float:
        return len(candidate.arguments["command"]) / 100

    answers = [bash("cat")]
    assert groups.percentile([group], answers, length) == pytest.approx(100 / 3)
    assert groups.percentile([group], answers, lambda c, e: length(c, e) ** 3) == pytest.approx(100 / 3)
    assert groups.percentile([group], answers, lambda c, e: -length(c, e)) == pytest.approx(200 / 3)
    assert groups.kept_share([group], lambda c, e: 0.5, valid_only=True) == dict.fromkeys(map(str, groups.EPS), 0.0)
    assert groups.kept_share([group], lambda c, e: 0.5, valid_only=False) == dict.fromkeys(map(str, groups.EPS), 1.0)


def test_samples_of_a_run_are_read_back(tmp_path, corpus):
    item = next(i for i in corpus.items if i.previous is not None and i.source.startswith("mini_swe_agent_v1"))
    record = {
        "step": 1,
        "example": f"{item.instance_id}#{item.step}",
        "expert": "ls",
        "samples": [
            {"reward": 0.2, "thought": "", "action": "cat a", "text": None},
            {"reward": -1.0, "thought": "", "action": None, "text": "?"},
            {"reward": None, "thought": "", "action": None, "text": ""},
        ],
    }
    file = tmp_path / "samples.jsonl"
    file.write_text(json.dumps(record) + "\n" + json.dumps({**record, "expert": "create /a.py\nx = 1"}) + "\n")
    (group,), left_out = groups.read_groups([file], corpus.items)
    assert group == groups.SampledGroup(bash("ls"), item.previous, (bash("cat a"), None)) and left_out == 1


def test_equality_with_difflib_is_measured_before_the_caps_and_what_they_change_is_told(corpus):
    source = speed.PairSource(corpus, 0)
    short = [p for p in (source.draw() for _ in range(200)) if len(p.texts[0]) * len(p.texts[1]) < 100_000]
    past_the_cap = speed.Pair(bash("a"), bash("b"), ("x" * 5000 + "y", "y" + "z" * 10))
    found = speed.against_difflib([*short, past_the_cap])
    assert found["ratio_equals_difflib"] == 1.0 and found["pairs"] > 100
    assert found["changed_by_caps"] == pytest.approx(1 / found["pairs"])


@pytest.mark.parametrize("argument", ["--data", "--samples"])
def test_absent_files_end_in_one_line_and_exit_2(tmp_path, capsys, monkeypatch, argument):
    (tmp_path / "trajectories").mkdir()
    monkeypatch.setattr(
        "sys.argv", ["reward_ranking", "--data", str(tmp_path / "absent"), argument, str(tmp_path / "absent")]
    )
    with pytest.raises(SystemExit) as stopped:
        command.main()
    assert stopped.value.code == 2
    assert capsys.readouterr().err.count("\n") == 1
