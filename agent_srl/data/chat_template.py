"""What a chat template does, found by probing it, and training templates for those that drop earlier thoughts.

A template is usable if a conversation that goes on only ever appends to its text. One that would be, but for thoughts
that it drops from earlier turns (Qwen3's and its kin), is replaced by a template shipped in `data/templates`, where
that one gives the same text for everything the original keeps. Left out: templates that open the thought in the
generation prompt.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib.resources import files
from itertools import pairwise
from typing import Any

from agent_srl.errors import DataError

Messages = list[dict[str, Any]]

_THOUGHTS, _REPLIES = ("Thought0", "Thought1"), ("Reply0", "Reply1")
_REPLY = "<think>{}</think>\n{}"


@dataclass(frozen=True)
class Wrap:
    """What a template puts around contents."""

    system: str
    first_user: str
    user: str
    generate: str
    """From the end of a user's content to the beginning of the reply."""
    end: str
    """After the end token, up to the next message."""
    think: tuple[str, str]
    """Before and after a thought, up to the action, as the template leaves them."""


def apply(
    tokenizer: Any,
    messages: Messages,
    *,
    generate: bool = False,
    tools: list[dict[str, Any]] | None = None,
    template: str | None = None,
) -> str:
    """The text of `messages` under `template`, or the tokenizer's own. Raises DataError if it refuses them."""
    from jinja2 import TemplateError

    try:
        text = tokenizer.apply_chat_template(
            messages, tools=tools, chat_template=template, tokenize=False, add_generation_prompt=generate
        )
    except (TemplateError, TypeError) as error:
        raise DataError(
            f"the chat template of this model refuses a conversation with system, user and assistant: {error}"
        ) from error
    return str(text)


def usable_template(tokenizer: Any) -> tuple[str, Wrap]:
    """The name of the training template to use ("" for the tokenizer's own) and what it puts around contents.

    Raises:
        DataError: the tokenizer's template is not prefix-stable and no shipped one can stand in for it.
    """
    own = tokenizer.chat_template
    wrap = _probe(tokenizer, own)
    if wrap is not None:
        return "", wrap
    for name in training_templates():
        wrap = _probe(tokenizer, read_template(name))
        if wrap is not None and _stands_in(tokenizer, wrap, read_template(name), own):
            return name, wrap
    raise DataError(
        "the chat template of this model rewrites earlier turns (or drops thoughts), so step prompts are no prefixes "
        "of their trajectory, and no training template of ours equals it: use a model whose template keeps them"
    )


def training_templates() -> list[str]:
    """Names of the shipped templates."""
    folder = files("agent_srl") / "data" / "templates"
    return sorted(entry.name for entry in folder.iterdir() if entry.name.endswith(".jinja"))


def read_template(name: str) -> str:
    """The text of a shipped template."""
    return (files("agent_srl") / "data" / "templates" / name).read_text(encoding="utf-8")


def _conversation(turns: int) -> Messages:
    contents = ["System0", "User0", _REPLY.format(_THOUGHTS[0], _REPLIES[0]), "User1"]
    contents.append(_REPLY.format(_THOUGHTS[1], _REPLIES[1]))
    roles = ("system", "user", "assistant", "user", "assistant")
    return [{"role": r, "content": c} for r, c in zip(roles, contents, strict=True)][:turns]


def _probe(tokenizer: Any, template: str) -> Wrap | None:
    """None if the template is not prefix-stable or does not keep what it is given."""
    texts = [apply(tokenizer, _conversation(n), generate=n % 2 == 0, template=template) for n in (2, 3, 4, 5)]
    if not all(after.startswith(before) for before, after in pairwise(texts)):
        return None
    start, *pieces = [texts[0]] + [after.removeprefix(before) for before, after in pairwise(texts)]
    eos = tokenizer.eos_token
    first, second = (_reply(pieces[2 * i], _THOUGHTS[i], _REPLIES[i] + eos) for i in (0, 1))
    if first is None or first != second or "System0" not in start or "User0" not in start or "User1" not in pieces[1]:
        return None
    *think, end = first
    system, rest = start.split("System0", 1)
    first_user, generate = rest.split("User0", 1)
    user, again = pieces[1].split("User1", 1)
    return Wrap(system, first_user, user, generate, end, (think[0], think[1])) if again == generate else None


def _reply(piece: str, thought: str, reply: str) -> tuple[str, str, str] | None:
    """What stands before the thought, between it and the reply, and after the reply."""
    if thought not in piece or reply not in piece:
        return None
    opening, rest = piece.split(thought, 1)
    closing, end = rest.split(reply, 1)
    return (opening, closing, end) if (opening.strip(), closing.strip()) == ("<think>", "</think>") else None


def _stands_in(tokenizer: Any, wrap: Wrap, template: str, own: str) -> bool:
    """Whether `template` equals `own` for the prompt, for the last turn, and for earlier ones but for their
    thoughts."""

    def text(turns: int, which: str) -> str:
        return apply(tokenizer, _conversation(turns), generate=turns == 2, template=which)

    dropped = wrap.think[0] + _THOUGHTS[0] + wrap.think[1]
    return (
        text(2, template) == text(2, own)
        and text(3, template) == text(3, own)
        and text(5, template).replace(dropped, "") == text(5, own)
    )
