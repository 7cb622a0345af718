"""SIGTERM: finish the step, save, end. A cluster sends it some time before it kills."""

from __future__ import annotations

import signal
from types import FrameType
from typing import Any


class Sigterm:
    """Within the block, whether SIGTERM came. A second one says nothing new: a launcher passes on what its sender may
    have sent to every process. SIGINT, twice, still ends the process at once.

    A plain handler, not the event loop's: an update does not let the loop run for minutes.
    """

    def __init__(self) -> None:
        self.came = False
        self._before: Any = None

    def __enter__(self) -> Sigterm:
        self._before = signal.signal(signal.SIGTERM, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        signal.signal(signal.SIGTERM, self._before)

    def _note(self, _number: int, _frame: FrameType | None) -> None:
        self.came = True
