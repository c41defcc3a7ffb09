"""Tables for the terminal, JSON files and pictures."""

from __future__ import annotations

import importlib.util
import json
import platform
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

OUT = Path(__file__).with_name("out")
Row = dict[str, Any]


def table(title: str, rows: Sequence[Row]) -> str:
    """Format rows with the same columns."""
    if not rows:
        return f"\n{title}\n  no results"
    columns = list(rows[0])
    cells = [[_cell(row.get(column)) for column in columns] for row in rows]
    widths = [max(len(column), *(len(row[i]) for row in cells)) for i, column in enumerate(columns)]
    lines = ["  ".join(text.rjust(width) for text, width in zip(row, widths, strict=True)) for row in [columns, *cells]]
    return "\n".join(["", title, *lines])


def _cell(value: Any) -> str:
    if value is None:
        return "–"
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def machine(device: str = "cpu") -> dict[str, Any]:
    name = platform.processor() or platform.machine()
    for line in Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").is_file() else []:
        if line.startswith("model name"):
            name = line.partition(":")[2].strip()
    return {
        "cpu": name,
        "threads": torch.get_num_threads(),
        "capability": torch.backends.cpu.get_cpu_capability(),
        "gpu": torch.cuda.get_device_name() if device.startswith("cuda") else None,
        "torch": torch.__version__,
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def save(
    name: str, measured: Mapping[str, Any], bars: Sequence[tuple[str, float]], unit: str, out: Path = OUT
) -> list[Path]:
    """Write `name`.json with all results and `name`.png with the bars; return the paths."""
    out.mkdir(parents=True, exist_ok=True)
    data, picture = out / f"{name}.json", out / f"{name}.png"
    data.write_text(json.dumps(measured, indent=2, default=str) + "\n")
    if importlib.util.find_spec("PIL") is None:  # a minimal GPU machine has only torch and demucs
        return [data]
    return [data, draw_bars(bars, unit, picture)]


def draw_bars(bars: Sequence[tuple[str, float]], unit: str, path: Path) -> Path:
    from PIL import Image, ImageDraw, ImageFont

    font = ImageFont.load_default(size=16)
    row, left, width = 34, 330, 900
    image = Image.new("RGB", (width, row * max(1, len(bars)) + 20), "white")
    pen = ImageDraw.Draw(image)
    longest = max((value for _, value in bars), default=1.0) or 1.0
    for number, (label, value) in enumerate(bars):
        top = 10 + number * row
        end = left + int((width - left - 130) * value / longest)
        pen.text((10, top + 4), label, fill="black", font=font)
        pen.rectangle((left, top, max(end, left + 1), top + row - 10), fill="#3b6ea5")
        pen.text((max(end, left + 1) + 8, top + 4), f"{value:.3g} {unit}", fill="black", font=font)
    image.save(path)
    return path


def draw_lines(lines: Mapping[str, Sequence[tuple[float, float]]], across: str, path: Path) -> Path:
    """Draw one chart per line, each with its own scale from 0, over the same horizontal axis `across`."""
    from PIL import Image, ImageDraw, ImageFont

    font = ImageFont.load_default(size=16)
    width, height, left, gap = 1000, 220, 70, 50
    image = Image.new("RGB", (width, (height + gap) * len(lines) + 30), "white")
    pen = ImageDraw.Draw(image)
    end = max(x for points in lines.values() for x, _ in points) or 1.0
    for number, (label, points) in enumerate(lines.items()):
        bottom = (height + gap) * (number + 1) - 10
        top = max(y for _, y in points) or 1.0

        def place(x: float, y: float, bottom: int = bottom, top: float = top) -> tuple[float, float]:
            return left + (width - left - 20) * x / end, bottom - height * y / top

        pen.text((left, bottom - height - 26), label, fill="black", font=font)
        pen.line((place(0, top), place(0, 0), place(end, 0)), fill="#999999")
        pen.text((10, bottom - height - 8), f"{top:.0f}", fill="black", font=font)
        pen.text((10, bottom - 10), "0", fill="black", font=font)
        pen.line([place(x, y) for x, y in points], fill="#3b6ea5", width=2)
    pen.text((width - 160, image.height - 24), f"{end:.0f} {across}", fill="black", font=font)
    image.save(path)
    return path
