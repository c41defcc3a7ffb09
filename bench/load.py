"""Send 500 jobs of 100 users at once through the bot and the API, with a tiny model: `python -m bench.load`.

A fake Discord with rate limits runs in this process, the bot in another one. Measured are the time until commands are
acknowledged, the memory of the main process over time, 429s, the fairness of the order, and lost jobs.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import resource
import sys
import tempfile
from pathlib import Path
from statistics import median
from typing import Any

from bench.report import OUT, draw_lines, machine, table
from tests.fakes.discord import FakeDiscord
from tests.fixtures.bot_process import RunningBot
from tests.fixtures.crowd import VARIABLES, Crowd, busiest_minute, furthest_ahead, percentile
from tests.fixtures.log_file import assert_jobs_go_forward_only, events
from tests.fixtures.songs import make_song
from tests.fixtures.tiny_models import write_model

MIB = 2**20
PATIENCE_S = 4 * 3600.0


async def measure(folder: Path, args: argparse.Namespace) -> tuple[Crowd, dict[str, Any]]:
    """Run the crowd; return it and its figures."""
    write_model(folder / "models")
    make_song(folder / "song.mp3", seconds=args.seconds)
    async with FakeDiscord() as fake:
        fake.guild()
        variables = {**VARIABLES, "STEMIFY_MODELS_DIR": str(folder / "models")}
        async with RunningBot(fake, folder / "data", variables=variables) as bot:
            on_api = round(args.people * 0.4)
            crowd = Crowd(
                bot,
                folder / "song.mp3",
                on_discord=args.people - on_api,
                on_api=on_api,
                songs_each=args.songs,
                patience_s=PATIENCE_S,
            )
            await run_within_memory(crowd, args.own_memory)
    lives = assert_jobs_go_forward_only(events(bot.log_path))
    completed = sum(life[-1] == "completed" for life in lives.values())
    return crowd, {
        "jobs": crowd.songs,
        "people": args.people,
        "completed": completed,
        "lost": crowd.songs - len(crowd.served),
        "mentions": sum(len(fake.mentions_of(person.user)) for person, _ in crowd.people),
        "ack_p50_ms": round(percentile(crowd.acks_s, 0.5) * 1000),
        "ack_p99_ms": round(percentile(crowd.acks_s, 0.99) * 1000),
        "ack_max_ms": round(crowd.acks_s[-1] * 1000),
        "oversleep_p99_ms": round(percentile(crowd.late_s, 0.99) * 1000),
        "api_202_p50_s": round(percentile(crowd.answers_s, 0.5), 2),
        "api_202_p99_s": round(percentile(crowd.answers_s, 0.99), 2),
        "furthest_ahead": furthest_ahead(crowd.served),
        "429_total": len(fake.rate_limited()),
        "429_worst_minute": busiest_minute(fake),
        "took_s": round(crowd.took_s),
        "own_peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
        **memory(crowd),
    }


async def run_within_memory(crowd: Crowd, limit_mib: int) -> None:
    """Run the crowd; raise `MemoryError` when this process, which plays Discord and its users, has grown to the limit.

    The bot, which has started already, keeps its own limits.
    """
    before = resource.getrlimit(resource.RLIMIT_DATA)
    resource.setrlimit(resource.RLIMIT_DATA, (limit_mib * MIB, before[1]))
    try:
        await crowd.run()
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, before)


def memory(crowd: Crowd) -> dict[str, float]:
    """Return the memory of the main process in MiB at the start, with all songs queued, in the first and last fifth."""
    size = [sample.resident_bytes / MIB for sample in crowd.samples]
    ended = [sample.ended for sample in crowd.samples]
    working = [at for at, done in enumerate(ended) if 0 < done < crowd.songs]
    fifth = max(1, len(working) // 5)
    first, last = working[:fifth] or [0], working[-fifth:] or [-1]
    return {
        "rss_start_mib": round(size[0]),
        "rss_queued_mib": round(size[first[0]]),
        "rss_first_fifth_mib": round(median(size[at] for at in first)),
        "rss_last_fifth_mib": round(median(size[at] for at in last)),
        "rss_peak_mib": round(max(size)),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--people", type=int, default=100)
    parser.add_argument("--songs", type=int, default=5, help="songs per user")
    parser.add_argument("--seconds", type=float, default=0.5, help="length of the song")
    parser.add_argument("--own-memory", type=int, default=4096, help="limit of this process in MiB, without the bot's")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        crowd, figures = asyncio.run(measure(Path(folder), args))
    print(table("load", [{"figure": name, "value": value} for name, value in figures.items()]))
    OUT.mkdir(exist_ok=True)
    samples = [(round(each.at_s, 1), each.resident_bytes, each.ended) for each in crowd.samples]
    data = {"machine": machine(), "figures": figures, "samples": samples}
    (OUT / "load.json").write_text(json.dumps(data) + "\n")
    lines = {
        "main process, MiB": [(each.at_s, each.resident_bytes / MIB) for each in crowd.samples],
        "finished jobs": [(each.at_s, float(each.ended)) for each in crowd.samples],
    }
    print(draw_lines(lines, "seconds", OUT / "load.png"))
    if figures["lost"] or figures["completed"] != crowd.songs:
        sys.exit("some jobs were not completed")


if __name__ == "__main__":
    main()
