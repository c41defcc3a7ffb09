"""The bot in a separate process. `python -m tests.acceptance.launch_bot` runs the real one; with `--scripted` its
backend is a small scripted one, so that a test decides when a job advances (and no model is loaded).

`TEST_PAUSE_S` shortens the pauses between two attempts to connect, which are minutes otherwise."""

from __future__ import annotations

import os
import sys

from bot import connection, sync
from bot.__main__ import run
from tests.acceptance import scripted

if __name__ == "__main__":
    if "TEST_PAUSE_S" in os.environ:
        pause_s = float(os.environ["TEST_PAUSE_S"])
        connection.PAUSES_S = sync.RETRY_PAUSES_S = (pause_s,) * 4
        connection.REFUSED_PAUSE_S = pause_s
    if "--scripted" in sys.argv:
        run(scripted.backend)
    else:
        run()
