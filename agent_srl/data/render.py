"""Messages to tokens, once: a conversation becomes segments whose concatenation is the token sequence.

Segments end exactly where a generation prompt ends and where a reply ends, so every step prompt is a token prefix of
its trajectory by construction. That the chat template and the tokenizer allow this is checked, on a probe and then on
every conversation: the text is the template's, and the tokens of the whole are those of its segments, one after the
other.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from agent_srl.data.chat_template import apply, read_template, usable_template
from agent_srl.errors import DataError

_CLIP_CHARS_PER_TOKEN = 8


class UnstableText(DataError):
    """A conversation that the template rewrites, or that has a token across the border of two turns."""


@dataclass(frozen=True)
class Segment:
    """Tokens of one stretch of a conversation."""

    tokens: tuple[int, ...]
    is_reply: bool
    """An assistant's reply with its end token; otherwise what stands between replies."""


class Renderer:
    """Renders conversations of the shape system, user, (assistant, user)* for one tokenizer."""

    note = ""
    """What a person should know of the template; empty if nothing."""

    def __init__(self, tokenizer: Any) -> None:
        """Gives `tokenizer` a training template where its own drops earlier thoughts.

        Raises DataError if no template makes its conversations prefix-stable.
        """
        self.tokenizer = tokenizer
        self.eos: str = tokenizer.eos_token
        self.own_template: str = tokenizer.chat_template
        # Neighbouring step prompts repeat most of their turns.
        self._encode = lru_cache(maxsize=8192)(self._tokens)
        name, self._wrap = usable_template(tokenizer)
        if name:
            tokenizer.chat_template = read_template(name)
            self.note = (
                f"the chat template of this model drops earlier thoughts: {name}, which keeps them and equals it "
                "otherwise, takes its place and is saved with what is trained"
            )
        self.segments("SYSTEM", ["USER", self.reply("THOUGHT", "REPLY"), "USER", self.reply("THOUGHT", "REPLY")])

    def segments(self, system: str, turns: list[str]) -> list[Segment]:
        """`turns` alternates user, reply, user, ...; the result holds one segment per turn, the first with `system`.

        The segment of a user's turn ends with the generation prompt, so the segments before a reply are its prompt.

        Raises:
            UnstableText: the template rewrites a turn, or a token crosses the border of two.
        """
        texts = self.texts(system, turns)
        segments = [Segment(self._encode(text), bool(i % 2)) for i, text in enumerate(texts)]
        self._prove(system, turns, "".join(texts), segments)
        return segments

    def texts(self, system: str, turns: list[str]) -> list[str]:
        """The text of each segment, unproven."""
        wrap, texts = self._wrap, []
        for i, turn in enumerate(turns):
            if i % 2:
                texts.append(turn + self.eos)
            else:
                before = wrap.system + system + wrap.first_user if i == 0 else wrap.end + wrap.user
                texts.append(before + turn + wrap.generate)
        return texts

    def reply(self, thought: str, call: str) -> str:
        """A reply, with its thought set apart as the template leaves it."""
        opening, closing = self._wrap.think
        return f"{opening}{thought}{closing}{call}"

    def encode(self, text: str) -> list[int]:
        return list(self._encode(text))

    def sizes(self, system: str, turns: list[str]) -> list[int]:
        """Tokens of each segment that `segments` would give, unproven."""
        return [len(self._encode(text)) for text in self.texts(system, turns)]

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

    def _tokens(self, text: str) -> tuple[int, ...]:
        # Not verbose: whole trajectories may be longer than the model takes; prompts are limited by the config.
        return tuple(self.tokenizer.encode(text, add_special_tokens=False, verbose=False))

    def _text(self, tokens: list[int]) -> str:
        return str(self.tokenizer.decode(tokens, skip_special_tokens=False)).replace("\ufffd", "")

    def _prove(self, system: str, turns: list[str], text: str, segments: list[Segment]) -> None:
        messages = [{"role": "system", "content": system}]
        messages += [{"role": "assistant" if i % 2 else "user", "content": t} for i, t in enumerate(turns)]
        generate = len(turns) % 2 == 1
        if text + ("" if generate else self._wrap.end) != apply(self.tokenizer, messages, generate=generate):
            raise UnstableText(
                "the chat template changes the text of a message (strips or rewrites it): step prompts would be no "
                "prefixes of their trajectory"
            )
        if self._tokens(text) != tuple(token for s in segments for token in s.tokens):
            raise UnstableText(
                "a token of this model's tokenizer reaches across the border of two turns: step prompts would be no "
                "token prefixes of their trajectory"
            )
