"""Messages to tokens, once: a conversation becomes segments whose concatenation is the token sequence.

Segments end exactly where a generation prompt ends and where a reply ends, so every step prompt is a token prefix
of its
trajectory by construction. That the chat template itself allows this is checked: on a probe (no template that rewrites
earlier turns, such as one that strips thoughts) and then on every conversation.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from typing import Any

from agent_srl.errors import DataError

_CLIP_CHARS_PER_TOKEN = 8


@dataclass(frozen=True)
class Segment:
    """Tokens of one stretch of a conversation."""

    tokens: tuple[int, ...]
    is_reply: bool
    """An assistant's reply with its end token; otherwise what stands between replies."""


@dataclass(frozen=True)
class _Wrap:
    """What the template puts around contents."""

    system: str
    first_user: str
    user: str
    generate: str
    """From the end of a user's content to the beginning of the reply."""
    end: str
    """After the end token, up to the next message."""


class Renderer:
    """Renders conversations of the shape system, user, (assistant, user)* for one tokenizer."""

    def __init__(self, tokenizer: Any) -> None:
        """Raises DataError if the chat template is not prefix-stable."""
        self.tokenizer = tokenizer
        self.eos: str = tokenizer.eos_token
        # Neighbouring step prompts repeat most of their turns.
        self._encode = lru_cache(maxsize=8192)(lambda text: tuple(tokenizer.encode(text, add_special_tokens=False)))
        self._wrap = self._probe()

    def segments(self, system: str, turns: list[str]) -> list[Segment]:
        """`turns` alternates user, reply, user, ...; the result holds one segment per turn, the first with `system`.

        The segment of a user's turn ends with the generation prompt, so the segments before a reply are its prompt.
        """
        wrap, texts = self._wrap, []
        for i, turn in enumerate(turns):
            if i % 2:
                texts.append(turn + self.eos)
            else:
                before = wrap.system + system + wrap.first_user if i == 0 else wrap.end + wrap.user
                texts.append(before + turn + wrap.generate)
        self._prove(system, turns, texts)
        return [Segment(tuple(self.encode(text)), bool(i % 2)) for i, text in enumerate(texts)]

    def encode(self, text: str) -> list[int]:
        return list(self._encode(text))

    def decode(self, tokens: tuple[int, ...]) -> str:
        """Text of a reply without its end token; other special tokens stay visible."""
        if tokens and tokens[-1] == self.tokenizer.eos_token_id:
            tokens = tokens[:-1]
        return str(self.tokenizer.decode(tokens, skip_special_tokens=False))

    def clip(self, text: str, max_tokens: int) -> str:
        """At most about `max_tokens`, by a static rule: head and tail kept, the middle named by its length."""
        if len(text) <= max_tokens:
            return text
        reach = max_tokens * _CLIP_CHARS_PER_TOKEN
        short = len(text) <= 2 * reach
        tokens = self.encode(text if short else text[:reach] + text[-reach:])
        if short and len(tokens) <= max_tokens:
            return text
        half = max_tokens // 2
        head, tail = self._text(tokens[:half]), self._text(tokens[-half:])
        return f"{head}\n[{len(text) - len(head) - len(tail)} characters left out]\n{tail}"

    def clip_words(self, text: str, max_tokens: int) -> str:
        """The first words of `text` that fit; for thoughts, where a tail would not read on."""
        if len(text) <= max_tokens:
            return text
        tokens = self.encode(text[: max_tokens * _CLIP_CHARS_PER_TOKEN])
        if len(tokens) <= max_tokens:
            return text
        return self._text(tokens[:max_tokens]).rsplit(maxsplit=1)[0]

    def _text(self, tokens: list[int]) -> str:
        return str(self.tokenizer.decode(tokens, skip_special_tokens=False)).replace("\ufffd", "")

    def _apply(self, messages: list[dict[str, str]], *, generate: bool) -> str:
        return str(self.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=generate))

    def _probe(self) -> _Wrap:
        contents = [
            "SYSTEM0",
            "USER0",
            "<think>THOUGHT0</think>\nREPLY0",
            "USER1",
            "<think>THOUGHT1</think>\nREPLY1",
        ]
        roles = ["system", "user", "assistant", "user", "assistant"]
        messages = [{"role": r, "content": c} for r, c in zip(roles, contents, strict=True)]
        texts = [self._apply(messages[:n], generate=n % 2 == 0) for n in (2, 3, 4, 5)]
        pieces = [texts[0]] + [b.removeprefix(a) for a, b in pairwise(texts)]
        stable = all(b.startswith(a) for a, b in pairwise(texts))
        held = all(c in "".join(pieces) for c in contents) and pieces[1].startswith(contents[2] + self.eos)
        if not (stable and held):
            raise DataError(
                "the chat template of this model rewrites earlier turns (or drops thoughts), so step prompts are no "
                "prefixes of their trajectory: use a model whose template keeps them"
            )
        system, rest = pieces[0].split(contents[0], 1)
        first_user, generate = rest.split(contents[1], 1)
        end = pieces[1].removeprefix(contents[2] + self.eos)
        return _Wrap(system, first_user, pieces[2].split(contents[3], 1)[0], generate, end)

    def _prove(self, system: str, turns: list[str], texts: list[str]) -> None:
        messages = [{"role": "system", "content": system}]
        messages += [{"role": "assistant" if i % 2 else "user", "content": t} for i, t in enumerate(turns)]
        generate = len(turns) % 2 == 1
        expected = self._apply(messages, generate=generate)
        built = "".join(texts) + ("" if generate else self._wrap.end)
        if built != expected:
            raise DataError(
                "the chat template changes the text of a message (strips or rewrites it): step prompts would be no "
                "prefixes of their trajectory"
            )
