"""When the pages appear and can be used, on loopback and on a slow line: `python -m bench.page` (needs Chromium)."""

from __future__ import annotations

import asyncio
import statistics
import tempfile
from pathlib import Path
from typing import Any

from bench.report import Row, table
from config.settings import load
from tests.fixtures.backend_server import served
from tests.fixtures.chromium import Browser, open_browser
from tests.fixtures.planted_results import RATE, plant
from tests.fixtures.songs import tune
from tests.fixtures.tiny_models import write_model

SONG_S = 120
ROUNDS = 5
LINES = {
    "loopback": {"offline": False, "latency": 0, "downloadThroughput": -1, "uploadThroughput": -1},
    "400 ms, 1.6 Mbit/s": {
        "offline": False, "latency": 400, "downloadThroughput": 200_000, "uploadThroughput": 94_000,
    },
}  # fmt: skip
_FLOOR = "a line of text"  # what this browser and this machine take for any page
_OBSERVE = """
    window.seen = { shift: 0, usable: null };
    new PerformanceObserver((list) => {
        for (const entry of list.getEntries()) if (!entry.hadRecentInput) window.seen.shift += entry.value;
    }).observe({ type: "layout-shift", buffered: true });
    new MutationObserver(() => {
        const isUsable = document.getElementById("lanes")?.checkVisibility() // the mixer reacts from then on
            || document.getElementById("model")?.options.length > 0;
        if (isUsable) window.seen.usable ??= performance.now();
    }).observe(document, { childList: true, subtree: true, attributes: true });
"""
_READ = """
    const paint = performance.getEntriesByName("first-contentful-paint")[0];
    const usable = window.seen.usable ?? (document.scripts.length ? null : paint?.startTime);
    const files = performance.getEntriesByType("resource").filter(({ name }) => !/[/]files[/]|peaks/.test(name));
    const sizes = [performance.getEntriesByType("navigation")[0], ...files].map(({ transferSize }) => transferSize);
    return paint && usable && {
        first_paint_ms: paint.startTime,
        usable_ms: usable,
        layout_shift: window.seen.shift,
        weight_kb: sizes.reduce((sum, size) => sum + size, 0) / 1000,
        requests: sizes.length,
    };
"""


def main() -> None:
    with tempfile.TemporaryDirectory(prefix="bench-page-") as folder:
        data, models = Path(folder, "data"), Path(folder, "models")
        data.mkdir()
        write_model(models)
        sound = tune(SONG_S)
        names = ("vocals", "drums", "bass", "other")
        job_id = asyncio.run(plant(data, dict.fromkeys(names, sound[:, : SONG_S * RATE]), title="A song"))
        workers = {"devices": ["cpu"], "threads": 1, "compile": False}
        web = {"port": 0, "sample": False}  # its separation would take the processor from the browser
        settings = load(data_dir=data, models_dir=models, web=web, workers=workers)
        with served(settings) as url, open_browser(Path(folder, "profile"), Path(folder)) as browser:
            browser.execute_cdp_cmd("Page.addScriptToEvaluateOnNewDocument", {"source": _OBSERVE})
            browser.execute_cdp_cmd("Network.enable", {})
            browser.emulate_screen(1280, 900)
            rows = [
                measure(browser, f"{page}, {line}", f"{url}{path}", conditions)
                for line, conditions in LINES.items()
                for page, path in {_FLOOR: "/healthz", "start page": "/", "player": f"/jobs/{job_id}"}.items()
            ]
    print(table(f"Medians of {ROUNDS} first visits", rows))


def measure(browser: Browser, name: str, url: str, conditions: dict[str, Any]) -> Row:
    """Open the page several times with an empty cache."""
    browser.execute_cdp_cmd("Network.emulateNetworkConditions", conditions)
    visits = []
    for _ in range(ROUNDS):
        browser.get("about:blank")
        browser.execute_cdp_cmd("Network.clearBrowserCache", {})
        browser.get(url)
        visits.append(browser.until(_READ))
    return {"what": name, **{key: statistics.median(visit[key] for visit in visits) for key in visits[0]}}


if __name__ == "__main__":
    main()
