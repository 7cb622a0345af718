"""Word a problem statement like an issue: the symptom, in several manners. Never the place, the cause or the fix."""

from __future__ import annotations

import random
from collections.abc import Sequence

from env_server.tasks.symptom import Observed, Symptom

MAX_CHARS = 1500
MAX_TOLD = 3
"""Symptoms in one statement."""
CODE = "```python"
"""Opens an example that runs."""
_TITLES = (
    "{call} {gives}",
    "Wrong result from {name}",
    "{name}: unexpected result",
    "Unexpected behaviour of {name}",
)
_OPENINGS = (
    "I came across this while moving a project of mine to {package} {version}.",
    "After an upgrade to {package} {version} some of our checks started to fail. What I could reduce it to is below.",
    "This looks like a bug in {package} {version}; at least it does not do what I expect from the documentation.",
    "We use {package} in a small service and noticed wrong data coming out of it. The version is {version}.",
    "Not sure whether this was reported before; I see it with {package} {version} on Python {python}.",
)
_CALLS = (
    "`{call}` {actual}, but it should {expected}.",
    "Calling `{call}` {actual}. I expected it to {expected}.",
    "What happens: `{call}` {actual}. What should happen: it should {expected}.",
)
_CODES = (
    "To reproduce:",
    "A minimal example:",
    "Steps to reproduce, in a fresh interpreter:",
    "Code that shows it:",
)
_MORE = ("The same release also shows this:", "Possibly related:", "I see this as well:")
_CRASHES = (
    "Code that uses {names} fails a check which used to hold:",
    "With {names} I get a result that fails this check:",
    "A check on the outcome of {names} does not hold any more:",
)
_MODEST_ENDINGS = (
    "I did not look into the sources. Nothing else on this machine was changed, and the behaviour is the same every "
    "time, so it does not depend on timing or on the environment.",
    "It happens every time. Please let me know if more information is needed.",
)
"""They do not say how far the mistake reaches."""
_ENDINGS = (
    *_MODEST_ENDINGS[:1],
    "Other inputs that I tried behave as before. There is no workaround on our side that does not duplicate the "
    "code of the library, so a fix would be welcome.",
    "It happens every time, on every machine that I tried. The rest of what we use from {package} is fine, as far as "
    "our tests tell, and should stay as it is.",
    "Please let me know if more information is needed. The existing behaviour for all other inputs should of course "
    "be kept when this is repaired.",
)


def write(observed: Observed, *, package: str, version: str, python: str, seed: str, edits: int) -> str | None:
    """A title, what happens, how to see it, what is expected; 300 to 1,500 characters, or None if these do not do.

    Args:
        observed: what the failing tests showed; it has a symptom or a crash.
        seed: the same seed words it the same way.
        edits: mistakes that were planted; where there are several, each has a symptom, and all of these are told.
    """
    rng = random.Random(seed)
    facts = {"package": package, "version": version, "python": python}
    title, body = (_told if observed.symptoms else _crashed)(observed, rng)
    endings = _ENDINGS if observed.symptoms else _MODEST_ENDINGS
    opening, ending = rng.choice(_OPENINGS).format(**facts), rng.choice(endings).format(**facts)
    more = [*body, *_further(observed.symptoms[1:MAX_TOLD], rng)]
    needed = [*body, *_further(observed.symptoms[1:edits], rng)]
    for parts in ([opening, *more, ending], [opening, *needed, ending], needed):
        whole = "\n\n".join([title, *parts])
        if len(whole) <= MAX_CHARS:
            return whole
    return None


def _told(observed: Observed, rng: random.Random) -> tuple[str, list[str]]:
    symptom = observed.symptoms[0]
    name = _name(symptom.call)
    gives = "raises " + symptom.actual[1].partition(":")[0] if symptom.actual[0] == "raises" else "gives a wrong result"
    short = symptom.call if len(symptom.call) < 50 else name
    title = rng.choice(_TITLES).format(call=short, gives=gives, name=name)
    sentence = _sentence(symptom, rng)
    if not symptom.code:
        return title, [sentence]
    example = f"{rng.choice(_CODES)}\n\n{CODE}\n{symptom.code}\n```"
    return title, [example, sentence] if rng.random() < 0.5 else [sentence, example]


def _sentence(symptom: Symptom, rng: random.Random) -> str:
    kind, value = symptom.actual
    actual = f"{kind} `{value}`"
    kind, value = symptom.expected
    expected = f"{'return' if kind == 'returns' else 'raise'} `{value}`"
    return rng.choice(_CALLS).format(call=symptom.call, actual=actual, expected=expected)


def _further(symptoms: Sequence[Symptom], rng: random.Random) -> list[str]:
    """More symptoms, which matter where several mistakes were planted."""
    lines = [f"- {_sentence(symptom, rng)}" for symptom in symptoms]
    return [f"{rng.choice(_MORE)}\n\n" + "\n".join(lines)] if lines else []


def _crashed(observed: Observed, rng: random.Random) -> tuple[str, list[str]]:
    names = [f"`{name}`" for name in observed.calls[-2:]] or ["the package"]
    said = rng.choice(_CRASHES).format(names=" and ".join(names))
    title = f"Unexpected result with {names[-1].strip('`')}"
    return title, [f"{said}\n\n```\n{observed.crash}\n```"]


def _name(call: str) -> str:
    """`Version.parse('1.0').bump_major` of `pkg.Version.parse('1.0').bump_major()`: the last call, without its
    arguments."""
    depth = 0
    for position in range(len(call) - 1, -1, -1):
        depth += {")": 1, "(": -1}.get(call[position], 0)
        if call[position] == "(" and depth == 0:
            last = call[:position].rpartition(")")[2].lstrip(".")
            return last or call.partition("(")[0]  # an instance that is called itself has no last name
    return call
