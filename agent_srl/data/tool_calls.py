"""Proof that the Hermes format writes what a model's own chat template makes of tools, tool calls and their results."""

from __future__ import annotations

from agent_srl.data.actions import HermesFormat
from agent_srl.data.chat_template import Messages, apply
from agent_srl.data.render import Renderer
from agent_srl.errors import DataError
from env_server.schema import Action


def prove_tool_calls(renderer: Renderer, fmt: HermesFormat) -> None:
    """Compare `fmt` with the template that the tokenizer came with; where that one knows no tools, nothing is compared.

    Raises:
        DataError: the template writes tools or their calls otherwise.
    """
    action = Action(name=fmt.tools[0]["function"]["name"], arguments={"text": 'é "<b>"\n', "lines": [1, -1]})
    reply, output = renderer.reply("WHY", fmt.write(action)), fmt.observe("OUTPUT")
    ours = "".join(renderer.texts(fmt.system_prompt, ["TASK", reply, output, reply, output]))

    def native(length: int, *, offer: bool) -> str:
        tools = list(fmt.tools) if offer else None
        messages = _native_messages(renderer, fmt, action)[:length]
        return apply(renderer.tokenizer, messages, generate=True, tools=tools, template=renderer.own_template)

    if native(2, offer=True) != native(2, offer=False) and native(6, offer=True) != ours:
        raise DataError(
            "the chat template of this model writes tool calls in a form of its own, not as Hermes JSON: use "
            "data.action_format=xml"
        )


def _native_messages(renderer: Renderer, fmt: HermesFormat, action: Action) -> Messages:
    call = {"type": "function", "function": {"name": action.name, "arguments": action.arguments}}
    turn: Messages = [
        {"role": "assistant", "content": renderer.reply("WHY", "").rstrip(), "tool_calls": [call]},
        {"role": "tool", "content": "OUTPUT"},
    ]
    start: Messages = [{"role": "system", "content": fmt.instruction}, {"role": "user", "content": "TASK"}]
    return start + turn + turn
