"""How a program that serves is asked to end: by SIGTERM or Ctrl-C. Asked twice, it waits for nothing more."""

from __future__ import annotations

import asyncio
import signal

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Ending:
    """Listens from when it is made, in the running event loop."""

    def __init__(self) -> None:
        self.asked = asyncio.Event()
        self.hurried = asyncio.Event()
        """Running songs are not to be waited for either. What is begun is handed back all the same."""
        self._loop = asyncio.get_running_loop()
        for number in _SIGNALS:
            self._loop.add_signal_handler(number, self._ask)

    def _ask(self) -> None:
        if self.asked.is_set():
            self.hurried.set()
            for number in _SIGNALS:  # a third one ends the process as it would any other
                self._loop.remove_signal_handler(number)
        self.asked.set()
