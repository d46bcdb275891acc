"""Ctrl-C, and a scheduler's SIGTERM, while a run trains: the step under way is finished and kept, then the run ends."""

from __future__ import annotations

import signal
import sys
import threading
from types import FrameType, TracebackType


class Interruption:
    """Whether the run was asked to end, within a `with` statement on the main thread; elsewhere it never is.

    The second signal ends it at once. KeyboardInterrupt either way, so that a caller sees what it knows. alone: of several
    processes each is left to its launcher, which ends those that wait for one that is gone.
    """

    def __init__(self, *, alone: bool) -> None:
        self.asked = False
        self._signals = (signal.SIGINT, signal.SIGTERM) if alone else ()

    def __enter__(self) -> Interruption:
        if threading.current_thread() is not threading.main_thread():
            self._signals = ()
        self._before = {each: signal.getsignal(each) for each in self._signals}
        for each, before in self._before.items():
            if before not in (signal.SIG_IGN, None):
                signal.signal(each, self._ask)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for each, before in self._before.items():
            if before is not None:
                signal.signal(each, before)

    def _ask(self, number: int, frame: FrameType | None) -> None:
        if self.asked:
            raise KeyboardInterrupt
        self.asked = True
        print("\nending after this step; once more to end at once", file=sys.stderr, flush=True)
