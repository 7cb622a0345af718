"""An audit for people: a table, warnings, and histograms on a logarithmic scale; the same as an SVG."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rich.columns import Columns
from rich.console import Console
from rich.table import Table
from rich.text import Text

from agent_srl.data.audit import Audit
from agent_srl.errors import DataError

_TOP = 8
_BAR = 24
_QUANTILES = ("p10", "p50", "p90", "max")


def show(found: Audit, console: Console) -> None:
    """The table, the histograms, and what a person should know before training."""
    facts = found.to_json()
    console.print(_counts(facts))
    console.print(_lengths("characters", facts["characters"]))
    if facts["tokens"]:
        tokenizer = facts["tokenizer"]
        console.print(
            _lengths(f"tokens of {tokenizer['name']}, {tokenizer['trajectories']} trajectories", facts["tokens"])
        )
    console.print(histograms(found))
    for line in _warnings(facts):
        console.print(Text(line))


def save_plot(found: Audit, path: Path) -> None:
    """The histograms as an SVG. Raises DataError where the name has another ending or cannot be written."""
    if path.suffix != ".svg":
        raise DataError(f"--plot {path}: the plot is an SVG; give a name that ends in .svg")
    with Path("/dev/null").open("w") as nowhere:
        console = Console(record=True, width=100, file=nowhere)
        console.print(histograms(found))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(console.export_svg(title="trajectories"), encoding="utf-8")
    except OSError as error:
        raise DataError(f"cannot write {path}: {error.strerror}; choose another --plot") from None


def histograms(found: Audit) -> Columns:
    """Steps per trajectory and lengths in characters, in bins that double."""
    drawn = {"steps per trajectory": found.steps}
    drawn |= {f"{part}, characters": values for part, values in found.characters.items()}
    return Columns([_histogram(title, values) for title, values in drawn.items() if values], padding=(1, 4))


def _histogram(title: str, values: list[int]) -> Table:
    counts: dict[int, int] = {}
    for value in values:
        counts[value.bit_length()] = counts.get(value.bit_length(), 0) + 1
    table = Table(title=title, title_justify="left", box=None, show_header=False, padding=(0, 1))
    table.add_column(justify="right")
    most = max(counts.values())
    for bits in range(min(counts), max(counts) + 1):
        count = counts.get(bits, 0)
        low, high = (1 << bits) >> 1, (1 << bits) - 1
        table.add_row(f"{low:,}" if low >= high else f"{low:,}-{high:,}", "█" * -(-count * _BAR // most), f"{count:,}")
    return table


def _counts(facts: dict[str, Any]) -> Table:
    table = Table(show_header=False)
    format_ = facts["format"]
    rejected = _listed(facts["rejected"]) or "none"
    training, skipped = facts["training"], facts["skipped"]["records"]
    rows = (
        ("format", format_ if isinstance(format_, str) else _listed(format_)),
        ("trajectories", f"{facts['trajectories']:,} of {facts['instances']:,} instances"),
        ("resolved", _listed(facts["resolved"])),
        ("turns", f"{facts['turns']:,}"),
        ("steps", f"{facts['steps']:,}"),
        ("targets", f"{facts['targets']:,}"),
        ("rejected", f"{sum(facts['rejected'].values()):,} ({rejected})"),
        ("tools", _listed(facts["tools"])),
        ("first words", _listed(facts["first_words"])),
        ("duplicates", f"{facts['duplicates']['trajectories']:,} trajectories"),
        ("records skipped", f"{skipped:,}"),
        ("training sees at most", f"{training['trajectories']:,} trajectories, {training['targets']:,} targets"),
    )
    for name, value in rows:
        table.add_row(name, Text(value))
    return table


def _lengths(unit: str, parts: dict[str, dict[str, int]]) -> Table:
    table = Table("", *_QUANTILES, title=f"length in {unit}", title_justify="left")
    for part, values in parts.items():
        if values:
            table.add_row(part, *(f"{values[q]:,}" for q in _QUANTILES))
    return table


def _warnings(facts: dict[str, Any]) -> list[str]:
    lines = [f"skipped {record}" for record in facts["skipped"]["first"]]
    hidden = facts["skipped"]["records"] - len(lines)
    lines += [f"and {hidden:,} more records skipped"] if hidden else []
    for group in facts["duplicates"]["groups"]:
        lines.append(f"the same run {len(group)} times: {', '.join(group[:_TOP])}")
    for reason, count in facts["training"]["left_out"].items():
        lines.append(f"training leaves out {count:,} trajectories: {reason}")
    benchmark = facts["benchmark"]
    if benchmark["trajectories"]:
        done = (
            "left out"
            if benchmark["excluded"]
            else "never score a model trained on them; --exclude-benchmark leaves them out"
        )
        lines.append(
            f"warning: {benchmark['trajectories']:,} trajectories are on benchmark instances, such as "
            f"{benchmark['instances'][0]} ({benchmark['rule']}): {done}"
        )
    return lines


def _listed(counts: dict[str, int]) -> str:
    shown = ", ".join(f"{name} {count:,}" for name, count in list(counts.items())[:_TOP])
    return shown + (", ..." if len(counts) > _TOP else "")
