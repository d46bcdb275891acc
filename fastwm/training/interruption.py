"""Ctrl-C, and a scheduler's SIGTERM, while a run trains: the step under way is finished and kept, then the run ends."""

from __future__ import annotations

import signal
import sys
import threading
from typing import Any


class Interruption:
    """Whether one of `signals` came, within a `with` statement on the main thread; elsewhere none is looked for.

    The second one raises KeyboardInterrupt at once. A signal that the process ignores is left so. Of several processes one that
    goes on would wait for those that have ended: give no signals there, and each ends as it always did.
    """

    def __init__(self, *signals: signal.Signals) -> None:
        self.asked = False
        self._signals = signals
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Interruption:
        if threading.current_thread() is threading.main_thread():
            handlers = {each: signal.getsignal(each) for each in self._signals}
            self._before = {
                each: known for each, known in handlers.items() if known not in (signal.SIG_IGN, None)
            }
        for each in self._before:
            signal.signal(each, self._ask)
        return self

    def __exit__(self, *_: object) -> None:
        for each, before in self._before.items():
            signal.signal(each, before)

    def _ask(self, *_: object) -> None:
        if self.asked:
            raise KeyboardInterrupt
        self.asked = True
        print("\nending after this step; once more to end at once", file=sys.stderr, flush=True)
