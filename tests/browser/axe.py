"""What axe-core finds on a page."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import axe_playwright_python

from tests.fixtures.chromium import Browser

_RULES = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]


@cache
def axe_script() -> str:
    return (Path(axe_playwright_python.__file__).parent / "axe.min.js").read_text("utf-8")


def violations(browser: Browser) -> list[str]:
    browser.execute_script(axe_script())
    found: list[str] = browser.run_async(
        """
        const { violations } = await axe.run(document, { runOnly: args[0] });
        return violations.flatMap(({ id, nodes }) => nodes.map(({ html }) => `${id}: ${html}`));
        """,
        _RULES,
    )
    return found
