"""How a reply says what it does: native tool calls, or one of the ways to write a call into text.

A style reads one turn. Which replies a harness refuses is part of its style: where it demands exactly one block, a
reply with more was never run, so no block of it is the action; where it runs the last block (SWE-agent), that one is.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass

from agent_srl.data.formats.messages import Call, Message, Turn, read_call
from env_server.schema import NO_ACTION

MORE_THAN_ONE = "more than one block"
ERROR_TURN = "error turn"
REFUSED = "refused by its harness"

_XML_CALL = re.compile(r"<function=([^>\n]+)>\s*?\n?(.*?)(?:</function>|\Z)", re.DOTALL)
_XML_PARAMETER = re.compile(r"<parameter=([^>\n]+)>(.*?)</parameter>", re.DOTALL)
_FENCE = re.compile(r"^```(\S*)[ \t]*(?:\n|\Z)", re.MULTILINE)
_TAG = re.compile(r"<(execute_bash|execute_ipython|execute_browse|execute|command)>\n?(.*?)\n?</\1>", re.DOTALL)
_JSON_CALL = re.compile(r"<tool_call>\s*(\{.*?\})\s*</tool_call>", re.DOTALL)
_ERROR = re.compile(r"\A\s*(?:Exit due to|Exited \()")
"""What SWE-agent writes in the place of a reply when a run ends early."""


@dataclass(frozen=True)
class Reply:
    """What a turn thought and called."""

    thought: str
    calls: tuple[Call, ...] = ()
    rejected: str = ""


Style = Callable[[Turn], Reply]


def read_tool_calls(turn: Turn) -> Reply:
    """Native calls."""
    return _checked(turn, turn.reply.text.strip(), turn.reply.calls)


def bash_blocks(form: str) -> Style:
    """mini-swe-agent's text modes: exactly one block, which the harness finds by `form`."""
    pattern = re.compile(form, re.DOTALL)

    def read(turn: Turn) -> Reply:
        text = turn.reply.text
        blocks = [block.strip() for block in pattern.findall(text)]
        before, after = pattern.split(text)[0], pattern.split(text)[-1]
        thought = re.sub(r"\A\s*THOUGHT:\s*", "", before).strip() or after.strip()
        calls = (Call("bash", {"command": "\n".join(blocks)}),) if blocks else ()
        return _checked(turn, thought, calls, MORE_THAN_ONE if len(blocks) > 1 else "")

    return read


def read_xml(turn: Turn) -> Reply:
    """`<function=NAME>` with `<parameter=NAME>`; one line break on either side of a value belongs to the form."""
    text = turn.reply.text
    found = list(_XML_CALL.finditer(text))
    if not found:
        return _checked(turn, text.strip(), ())
    first = found[0]
    values = {m[1].strip(): _unwrap(m[2]) for m in _XML_PARAMETER.finditer(first[2])}
    thought = text[: first.start()].removesuffix("<tool_call>\n").strip() or text[found[-1].end() :].strip()
    return _checked(turn, thought, (Call(first[1].strip(), dict(values)),), MORE_THAN_ONE if len(found) > 1 else "")


def read_fenced(turn: Turn) -> Reply:
    """SWE-agent's default: the last fenced block that stands in no other one is the command."""
    text = turn.reply.text
    block = _last_block(text)
    if block is None:
        return _checked(turn, text.strip(), ())
    start, inner, inner_end, end = block
    return _checked(turn, (text[:start] + text[end:]).strip(), (shell_call(text[inner:inner_end]),))


def read_tags(turn: Turn) -> Reply:
    """CodeAct's `<execute_bash>` and its kin, and SWE-agent's `<command>`."""
    text = turn.reply.text
    found = list(_TAG.finditer(text))
    if not found:
        return _checked(turn, text.strip(), ())
    calls = tuple(
        shell_call(m[2]) if m[1] == "command" else Call(m[1], {"command" if m[1] == "execute_bash" else "code": m[2]})
        for m in found[:1]
    )
    return _checked(turn, text[: found[0].start()].strip(), calls, MORE_THAN_ONE if len(found) > 1 else "")


def read_json_calls(turn: Turn) -> Reply:
    """Hermes' `<tool_call>{"name": ..., "arguments": ...}</tool_call>`; several are parallel calls."""
    text = turn.reply.text
    found = list(_JSON_CALL.finditer(text))
    calls = tuple(_json_call(m[1]) for m in found)
    return _checked(turn, text[: found[0].start()].strip() if found else text.strip(), calls)


def shell_call(command: str) -> Call:
    """A line of SWE-agent's shell; `submit` alone is the tool of that name."""
    command = command.strip()
    return Call("submit", {}) if command == "submit" else Call("bash", {"command": command})


def choose_style(messages: list[Message]) -> str:
    """The name of the style in which most replies hold a call, at least half: code in an answer is no action.

    A mark that means nothing else is enough once. `chat` if there are native calls, or no style is found.
    """
    replies = [message for message in messages if message.role == "assistant"]
    if any(message.calls for message in replies):
        return "chat"
    counts = {name: sum(bool(mark(m.text)) for m in replies) for name, mark in _MARKS.items()}
    enough = [name for name, n in counts.items() if n and (name in _UNMISTAKABLE or 2 * n >= len(replies))]
    return max(enough, key=lambda name: counts[name], default="chat")


def _checked(turn: Turn, thought: str, calls: tuple[Call, ...], rejected: str = "") -> Reply:
    """The reply with the reason why it is no target, the most telling one first."""
    refused = any(answer.interrupts for answer in turn.answers) or any(a.complains for a in turn.answers[:1])
    if not calls:
        rejected = ERROR_TURN if _ERROR.match(turn.reply.text) else NO_ACTION
    elif turn.reply.untrained:
        rejected = "weight 0"
    elif not rejected and refused:
        rejected = REFUSED
    return Reply(thought, calls, rejected)


def _unwrap(value: str) -> str:
    return value.removeprefix("\n").removesuffix("\n")


def _last_block(text: str) -> tuple[int, int, int, int] | None:
    """(start, start of the inside, its end, end). A fence with a word opens; a bare one closes what is open."""
    opened: list[re.Match[str]] = []
    found = None
    for fence in _FENCE.finditer(text):
        if opened and not fence[1]:
            start = opened.pop()
            if not opened:
                found = (start.start(), start.end(), fence.start(), fence.end())
        else:
            opened.append(fence)
    return found


def _json_call(text: str) -> Call:
    try:
        return read_call(json.loads(text, strict=False))
    except ValueError:
        return Call("tool_call", None)


def _bare_block(text: str) -> bool:
    block = _last_block(text)
    return block is not None and text[block[0] : block[1]].strip() == "```"


_MARKS: dict[str, Callable[[str], object]] = {
    "swe-smith-xml": re.compile(r"<function=[^>\n]+>").search,
    "hermes": re.compile(r"<tool_call>\s*\{").search,
    "codeact": _TAG.search,
    "mini-swe-agent-v2-text": re.compile(r"```mswea_bash_command\s*\n").search,
    "mini-swe-agent-v2-xml": re.compile(r"<mswea_bash_command>").search,
    "mini-swe-agent-v1": re.compile(r"```bash\s*\n").search,
    "swe-smith-ticks": _bare_block,
}
"""In the order in which a tie is decided: a fence inside an argument is no action."""
_UNMISTAKABLE = ("swe-smith-xml", "mini-swe-agent-v2-text", "mini-swe-agent-v2-xml")

STYLES: dict[str, Style] = {
    "chat": read_tool_calls,
    "swe-smith-xml": read_xml,
    "hermes": read_json_calls,
    "codeact": read_tags,
    "mini-swe-agent-v2-text": bash_blocks(r"```mswea_bash_command\s*\n(.*?)\n```"),
    "mini-swe-agent-v2-xml": bash_blocks(r"<mswea_bash_command>(.*?)</mswea_bash_command>"),
    "mini-swe-agent-v1": bash_blocks(r"```bash\s*\n(.*?)\n```"),
    "swe-smith-ticks": read_fenced,
}
