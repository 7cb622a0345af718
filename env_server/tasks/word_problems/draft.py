"""A word problem under construction."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field

NAMES = (
    *(
        "Amara",
        "Bo",
        "Chidi",
        "Dana",
        "Elif",
        "Farid",
        "Greta",
        "Hugo",
        "Ines",
        "Jonas",
        "Kavya",
        "Lena",
        "Mateo",
    ),
    *(
        "Nadia",
        "Omar",
        "Petra",
        "Quinn",
        "Rosa",
        "Sami",
        "Tara",
        "Uma",
        "Viktor",
        "Wanda",
        "Ximena",
        "Yusuf",
        "Zoe",
    ),
)


@dataclass
class Draft:
    """A problem under construction. `answer` is what the last step boxes."""

    kind: str
    text: list[str] = field(default_factory=list)
    steps: list[str] = field(default_factory=list)
    answer: int = 0

    def say(self, *sentences: str) -> None:
        self.text.extend(sentences)

    def work(self, *steps: str) -> None:
        self.steps.extend(steps)

    def finish(self, answer: int, sentence: str) -> Draft:
        """`sentence` holds `{}` where the boxed answer goes."""
        self.answer = answer
        self.steps.append(sentence.replace("{}", f"\\boxed{{{answer}}}"))
        return self


Template = Callable[[random.Random], Draft]
