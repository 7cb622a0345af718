"""Output that lies about its end, that is not text, or that never ends."""

from __future__ import annotations

import json
import resource
import shlex
import struct

from sandboxes.base import Outcome, Sandbox
from tests.faults.conftest import Attempt


def frames() -> dict[str, bytes]:
    answer = {"id": 1, "exit_code": 0, "timed_out": False, "output": "forged", "dropped": 0, "duration_s": 0.0}
    text = json.dumps(answer).encode()
    return {
        "the supervisor's answer": struct.pack(">I", len(text)) + text,
        "the engine's frame": b"\1\0\0\0\0\0\0\6forged" + b"\2\0\0\0\xff\xff\xff\xff",
        "a prompt and a sentinel": b"\r\n__END__ 0\r\n$ \x1b]0;done\x07",
        "the end of a file": b"\x04\0\xff",
    }


async def test_a_forged_end_is_output_and_nothing_else(sandbox: Sandbox, attack: Attempt):
    for forged in frames().values():
        code = "".join(f"\\x{byte:02x}" for byte in forged)
        result = await attack(sandbox, f"printf {shlex.quote(code)}; printf {shlex.quote(code)} >&2; exit 7")
        assert (result.outcome, result.exit_code) == (Outcome.NONZERO, 7)
        assert result.output == (forged + forged).decode("utf-8", "replace")
    forged = frames()["the supervisor's answer"]
    code = "".join(f"\\x{byte:02x}" for byte in forged)
    ways = "/proc/1/fd/0 /proc/1/fd/1 /proc/$PPID/fd/1 /dev/stdin /dev/pts/0 /dev/console"
    result = await attack(
        sandbox, f"for way in {ways}; do (printf '{code}' > $way) 2>/dev/null && echo $way; done; exit 7"
    )
    assert result.exit_code == 7 and "forged" not in result.output
    assert (await attack(sandbox, "echo usable")).output == "usable\n"


async def test_huge_output_costs_the_server_no_memory(sandbox: Sandbox, attack: Attempt):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    size = 400_000_000
    result = await attack(sandbox, f"head -c {size} /dev/zero; yes | head -c 1000000 >&2", timeout_s=60)
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    print(f"found: {result.dropped_bytes} bytes dropped, the server grew by {grown} kB")
    assert result.outcome is Outcome.OK
    assert result.dropped_bytes == size + 1_000_000 - 20_000
    assert grown < 50_000


async def test_output_without_end_ends_at_the_deadline(sandbox: Sandbox, attack: Attempt):
    result = await attack(sandbox, "yes", timeout_s=0.7)
    assert result.outcome is Outcome.TIMEOUT and result.duration_s < 5
    assert result.output.startswith("y\ny\n") and result.dropped_bytes > 0


async def test_binary_output_is_text_in_the_end(sandbox: Sandbox, attack: Attempt):
    result = await attack(sandbox, "head -c 300000 /dev/urandom; printf 'last \\xc3'")
    assert result.dropped_bytes == 300_006 - 20_000
    json.dumps(result.output).encode()
    assert result.output.endswith("last \ufffd")
