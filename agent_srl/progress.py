"""What a person sees while work goes on: plain lines, and one progress bar at a time."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator

from rich.console import Console as RichConsole
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table


class Console:
    """Prints to standard error, so that results on standard output can be piped. A silent one prints nothing."""

    def __init__(self, *, silent: bool = False) -> None:
        plain = not sys.stderr.isatty()
        self.rich = RichConsole(
            stderr=True, highlight=False, width=130 if plain else None, soft_wrap=plain, quiet=silent
        )
        self._results = RichConsole(highlight=False, width=None if sys.stdout.isatty() else 130)

    def say(self, text: str) -> None:
        self.rich.print(text, markup=False)

    def result(self, table: Table) -> None:
        """On standard output."""
        self._results.print(table)

    @contextlib.contextmanager
    def progress(self, title: str, total: int) -> Iterator[Callable[..., None]]:
        """A bar; the yielded function moves it by one (or by its argument)."""
        with self._bar() as bar:
            task = bar.add_task(title, total=total, note="")
            yield lambda n=1: bar.advance(task, n)
        self.say(f"{title}: done")

    @contextlib.contextmanager
    def live(self, title: str, total: int) -> Iterator[Callable[..., None]]:
        """A bar with a live line; the yielded function takes the step and the text. Without a terminal each step is
        a line, unless it is said to be `passing`."""
        with self._bar() as bar:
            task, before = bar.add_task(title, total=total, note=""), ""

            def show(step: int, note: str, *, passing: bool = False) -> None:
                nonlocal before
                bar.update(task, completed=step, note=f"{before}  {note}" if passing else note)
                before = before if passing else note
                if not self.rich.is_terminal and not passing:
                    self.say(f"{title} {step}/{total}  {note}")

            yield show

    def _bar(self) -> Progress:
        return Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}"),
            console=self.rich,
            transient=not self.rich.is_terminal,
            disable=not self.rich.is_terminal,
        )
