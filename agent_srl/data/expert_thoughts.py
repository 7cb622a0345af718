"""The expert's words: short thoughts that say why the next action follows from what was just seen.

They name only what the run has shown: files, lines, functions, errors, values. Left out: what to do
(`expert_routes`).
"""

from __future__ import annotations

import random
import re
from difflib import SequenceMatcher

MAX_WORDS = 40
LINE_CHARS = 48

THOUGHTS: dict[str, tuple[str, ...]] = {
    "look": (
        "The issue is about `{named}`. First I look at how the repository is laid out.",
        "I need to know where the code of `{named}` lives, so I list the files.",
        "Before anything else I want to see the layout of the project that holds `{named}`.",
    ),
    "look_test": (
        "The issue names `{named}`. I list the files to find its module and its tests.",
        "I start with the files at the top, to see where `{named}` and its tests can be.",
    ),
    "search": (
        "The issue talks about `{named}`, so I search for where it is defined.",
        "Now I look for the definition of `{named}`, which the issue calls.",
        "With the layout known, the next thing to find is `{named}`.",
    ),
    "search_after_run": (
        "The symptom is real: {value}. I look for the definition of `{named}`.",
        "I can reproduce it: {value}. Where is `{named}` defined?",
        "That is what the issue reports: {value}. Next I find `{named}`.",
    ),
    "search_after_tests": (
        "The existing tests say {value}, so they miss this case. I search for `{named}` itself.",
        "No existing test catches the problem: {value}. I look up `{named}` in the code.",
    ),
    "follow": (
        "`{previous}` relies on `{named}` here, and that may be where it goes wrong. I look it up.",
        "The body of `{previous}` uses `{named}`; I need to see its definition too.",
        "Nothing in `{previous}` is wrong by itself, but it hands over to `{named}`. I search for that.",
    ),
    "follow_blind": (
        "`{previous}` itself looks right, so the fault is in code it depends on. I check `{named}`.",
        "I see no mistake in `{previous}`. `{named}` is part of the same job, so I look at it.",
    ),
    "search_after_usage": (
        "The tests show what is expected of `{named}`. Now I look for its definition.",
        "So that is how `{named}` is used. The next thing to find is where it is defined.",
    ),
    "follow_trace": (
        "The traceback goes through `{named}`, so I look up its definition.",
        "`{named}` is in the traceback that I saw; I search for where it is defined.",
    ),
    "read": (
        "`{named}` is defined at line {line} of {file}. I read it from there.",
        "The search points to line {line} in {file}; I open that part.",
        "{file} defines `{named}` at line {line}, so I read its body.",
    ),
    "read_one_of": (
        "Of the {count} hits, line {line} of {file} is what the issue uses. I read it.",
        "There are {count} hits; line {line} of {file} is what the issue calls, so I open that.",
    ),
    "read_whole": (
        "{file} is short, so I read all of it to find what `{named}` does.",
        "The module {file} is small enough to read whole, and `{named}` must be in it.",
    ),
    "read_frame": (
        "The traceback ends in {file} at line {line}. I read the code around it.",
        "`{error}` comes from line {line} of {file}, so I open that place.",
    ),
    "read_on": (
        "The part so far is fine, but `{named}` goes on. I read further down.",
        "I have not seen the end of `{named}` yet, so I read the next lines.",
    ),
    "outline_first": (
        "The issue does not say which function is at fault. I list the definitions of {file}.",
        "`{named}` is spread over several functions, so I list what {file} defines.",
    ),
    "outline_after": (
        "`{previous}` itself looks right. I list the definitions of {file} to see what else takes part.",
        "The fault is not in `{previous}`, so I list what else {file} defines.",
    ),
    "read_listed": (
        "Of these, `{named}` at line {line} does the job that the issue describes. I read it.",
        "`{named}` at line {line} of {file} has to do with the symptom, so I read it next.",
    ),
    "read_below": (
        "There may be more to it than `{named}`. I read on from line {line} of {file}.",
        "I go on reading {file} below line {line}, since the issue has more than one symptom.",
    ),
    "search_also": (
        "The issue also names `{named}`. I look for that definition too.",
        "One part is done. `{named}` is in the issue as well, so I search for it.",
    ),
    "outline_more": (
        "The issue shows more than one symptom, so I list the definitions of {file} for the rest.",
        "There is more to find. I list what {file} defines, with line numbers.",
    ),
    "inside": (
        "`{named}` is long. I look for the place in {file} that deals with `{word}`.",
        "What matters in `{named}` is what it does with `{word}`, so I search {file} for that.",
    ),
    "read_inside": (
        "Line {line} of {file} is the place in `{named}` that I want. I read around it.",
        "The hit at line {line} is inside `{named}`; I open {file} around it.",
    ),
    "read_far": (
        "The rest of `{named}` is further down in {file}; I go on at line {line}.",
        "I have not seen the later part of `{named}`. I read {file} from line {line}.",
    ),
    "outline": (
        "The class is long, so I list the methods in {file} with their lines.",
        "I list the definitions of {file} to find the method that does this.",
    ),
    "reproduce": (
        "Before changing anything I run the call from the issue to see the symptom for myself.",
        "I run the example of the issue to confirm what `{named}` does now.",
        "Let me reproduce it first: the issue gives a call of `{named}` that I can run.",
    ),
    "reproduce_suspect": (
        "I have a suspicion about `{suspect}`. I run the example of the issue to confirm the symptom.",
        "Having read `{suspect}`, I check that the example of the issue really fails here.",
        "The code of `{suspect}` looks suspicious. I reproduce the symptom before I touch it.",
    ),
    "script": (
        "I put the example of the issue into a small script, so that I can run it again after the fix.",
        "The example takes several lines, so I write a script for it and keep it until the fix works.",
    ),
    "run_script": (
        "Now I run the script to see what happens with `{named}`.",
        "The script is written; running it shows whether the symptom is there.",
    ),
    "tests_before": (
        "I run the existing tests in {file} first, to know whether they show the problem.",
        "What do the present tests in {file} say? I run them before reading the code.",
    ),
    "usage": (
        "The tests show how `{named}` is meant to behave. I look for where they use it.",
        "I look for uses of `{named}` in the tests, to learn what is expected.",
    ),
    "edit": (
        "In `{function}`, {change}, {reason}. I correct that.",
        "Here is the mistake: in `{function}` {change}, {reason}.",
        "The cause is in `{function}`: {change}, {reason}. I edit it.",
    ),
    "edit_after_run": (
        "The output confirms it: {value}. In `{function}`, {change}, {reason}.",
        "{value}, as the issue says. The cause is in `{function}`: {change}, {reason}.",
    ),
    "edit_next": (
        "That edit is in place. In `{function}` there is one more mistake: {change}, {reason}.",
        "The snippet looks right now. A second place needs care: in `{function}`, {change}, {reason}.",
    ),
    "rerun": (
        "The edit is in. I run the same example again to see whether the result is right now.",
        "With `{function}` changed, the example of the issue should behave. I run it again.",
        "Now the same call once more, to check that the change has the effect I want.",
    ),
    "tests_fixed": (
        "The example now gives {value}, as it should. I run the tests in {file} for side effects.",
        "{value} is what the issue expects. The existing tests in {file} must still pass.",
        "That is fixed: {value}. Now I make sure that nothing else in {file} breaks.",
    ),
    "tests_blind": (
        "The change is in `{function}`. I run the tests in {file} to see that nothing else breaks.",
        "I check the edit of `{function}` against the existing tests in {file}.",
    ),
    "clean": (
        "{value}. The script has done its work, so I remove it.",
        "All is as expected: {value}. My script does not belong in the change, so I delete it.",
    ),
    "diff": (
        "{value}. I look at the whole change once more before I hand it in.",
        "The tests say {value}. A last look at the diff shows what I am about to submit.",
    ),
    "submit": (
        "{value}: the symptom is gone and the tests pass. I submit the change.",
        "The change to `{function}` fixes the issue and the tests are green. I submit.",
        "Everything is in place: `{function}` is corrected and {value}. I hand it in.",
    ),
    "submit_blind": (
        "{value}, so nothing else broke, and `{function}` now does what the issue asks. I submit.",
        "The mistake in `{function}` is corrected and the tests pass. I hand the change in.",
    ),
    "submit_diff": (
        "The diff holds only the change to `{function}` that I wanted. I submit it.",
        "The change is small and right where the cause was, in `{function}`. I submit.",
    ),
}


def say(kind: str, rng: random.Random, **slots: object) -> str:
    """One thought of a kind, 8 to 40 words. Raises KeyError for an unknown kind or a missing slot."""
    words = rng.choice(THOUGHTS[kind]).format(**slots).split()
    if len(words) > MAX_WORDS:
        words = [*words[: MAX_WORDS - 1], words[MAX_WORDS - 1].rstrip(",;:") + "."]
    return " ".join(words).replace("....", "...")


def describe_change(old: str, new: str) -> tuple[str, str]:
    """What is wrong and why it matters, such as ("`a < b` should be `a <= b`", "so the boundary ...")."""
    before, after = _core(old, new)
    reason = _reason(before, after)
    lines = _single_line(old, new)
    before, after = lines or (_short(before), _short(after))
    if not before:
        return f"`{after}` is missing", "so this case is never handled"
    if not after:
        return f"`{before}` does not belong there", "so it does too much"
    return f"`{before}` should be `{after}`", reason


def _tokens(text: str) -> list[str]:
    return re.findall(r"\w+|\s+|[<>=!]=|\S", text)


def _core(old: str, new: str) -> tuple[str, str]:
    """The differing stretch of both, with a neighbour on each side if it is tiny."""
    old, new = _first_difference(old, new)
    a, b = _tokens(old), _tokens(new)
    codes = [c for c in SequenceMatcher(None, a, b, autojunk=False).get_opcodes() if c[0] != "equal"]
    (a1, b1), (a2, b2) = (codes[0][1], codes[0][3]), (codes[-1][2], codes[-1][4])
    tiny = len("".join(a[a1:a2]).strip()) < 6 and len("".join(b[b1:b2]).strip()) < 6
    for _ in range(4 if tiny else 0):
        if a1 > 0 and b1 > 0 and "\n" not in a[a1 - 1]:
            a1, b1 = a1 - 1, b1 - 1
        if a2 < len(a) and b2 < len(b) and "\n" not in a[a2]:
            a2, b2 = a2 + 1, b2 + 1
    return "".join(a[a1:a2]).strip(), "".join(b[b1:b2]).strip()


def _first_difference(old: str, new: str) -> tuple[str, str]:
    """Of long texts with as many lines, the first two lines that differ."""
    a, b = old.split("\n"), new.split("\n")
    pairs = [(x.strip(), y.strip()) for x, y in zip(a, b, strict=False) if x != y]
    return pairs[0] if len(a) == len(b) and len(old) > LINE_CHARS and pairs else (old, new)


def _single_line(old: str, new: str) -> tuple[str, str] | None:
    """The one line that differs, before and after, if both are short enough to quote."""
    a, b = old.split("\n"), new.split("\n")
    pairs = [(x.strip(), y.strip()) for x, y in zip(a, b, strict=False) if x != y]
    if len(a) != len(b) or len(pairs) != 1 or max(map(len, pairs[0])) > LINE_CHARS or not all(pairs[0]):
        return None
    return _short(pairs[0][0]), _short(pairs[0][1])


def _reason(before: str, after: str) -> str:
    """Why the difference matters, by the kind of tokens that differ."""
    a, b = _tokens(before), _tokens(after)
    changed = {t.strip() for t in a if a.count(t) != b.count(t)} | {t.strip() for t in b if a.count(t) != b.count(t)}
    changed.discard("")
    for tokens, reason in (
        ({"<", "<=", ">", ">="}, "so the boundary is on the wrong side"),
        ({"==", "!=", "not", "in", "is"}, "so the condition is inverted"),
        ({"and", "or"}, "so the two conditions are joined the wrong way"),
        ({"+", "-", "*", "/", "%"}, "so the result is computed wrongly"),
        ({"True", "False", "None"}, "so the flag is the wrong way round"),
    ):
        if changed and changed <= tokens:
            return reason
    if changed and all(token.isdigit() for token in changed):
        return "so the number is off"
    if any(token in changed for token in ("if", "elif", "return", "raise", "except", "continue", "break")):
        return "so the wrong path is taken"
    if sorted(a) == sorted(b):
        return "so things are in the wrong order"
    return "so the wrong value is used"


def _short(text: str, limit: int = 60) -> str:
    flat = re.sub(r"\s+", " ", text).replace("`", "'")
    return flat if len(flat) <= limit else flat[: limit - 4].rstrip() + " ..."


def last_line(output: str, limit: int = 50) -> str:
    """The last line that was printed, short enough to quote; notes in brackets are left out."""
    lines = [line.strip() for line in output.split("\n") if line.strip() and not line.startswith("(exit code")]
    text = re.sub(r" in \d+\.\d+s$", "", lines[-1].strip("= ")) if lines else "no output"
    return text if len(text) <= limit else text[: limit - 4].rstrip() + " ..."
