"""The bot in a process of its own. `python -m tests.acceptance.launch_bot` runs the real one; with `--scripted` its
backend is a small scripted one, so that a test decides when a job gets on (and no model is loaded)."""

from __future__ import annotations

import sys

from bot.__main__ import run
from tests.acceptance import scripted

if __name__ == "__main__":
    if "--scripted" in sys.argv:
        run(scripted.backend)
    else:
        run()
