"""`python -m engine`: serve, separate, evaluate, models, demo, backup, restore, forget."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from config.settings import Settings, load
from engine.errors import InputRefused, RetryLater, StemifyError
from engine.jobs.options import MODELS, OutputFormat, Quality, StemSeparationOptions
from engine.logs import configure
from engine.process.private_files import private_files
from engine.text import plural

DONE, FAILED, REFUSED = 0, 1, 2


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(prog="python -m engine", description="Turn songs into stems.")
    commands = top.add_subparsers(dest="command", required=True)
    commands.add_parser("serve", help="the web page and the API, without Discord")
    demo = commands.add_parser("demo", help="make a sample song and separate it with the embedded model")
    demo.add_argument("--out", type=Path, default=Path("demo-out"), help="where the files go (default: demo-out)")
    one = commands.add_parser("separate", help="separate one file")
    one.add_argument("song", type=_file)
    one.add_argument("--out", type=Path, default=Path("stems"), help="folder for the stems (default: stems)")
    one.add_argument("--model", metavar="NAME", help=f"one of {', '.join(MODELS)} (default: htdemucs)")
    one.add_argument("--quality", choices=[each.value for each in Quality], help="default: balanced")
    one.add_argument("--format", choices=[each.value for each in OutputFormat], help="default: mp3")
    one.add_argument("--karaoke", action="store_true", help="vocals and everything else")
    one.add_argument("--normalize", action="store_true", help="loudest peak at -1 dBFS")
    one.add_argument("--shifts", type=_count, help="random shifts to average over (default: what the quality says)")
    one.add_argument("--overlap", type=_fraction, help="of segments, 0 to 0.95 (default: what the quality says)")
    one.add_argument("--seed", type=int, default=0, help="of the shifts (default: 0)")
    one.add_argument("--device", default="auto", help='"auto", "cpu", "cuda:0", …')
    one.add_argument("--json", action="store_true", help="print the result as JSON")
    judge = commands.add_parser("evaluate", help="score stems against the true ones")
    judge.add_argument("estimates", type=Path, help="folder of stems, as separate leaves it")
    judge.add_argument("references", type=Path, help="folder of the true stems: vocals.wav, drums.wav, …")
    judge.add_argument("--json", action="store_true", help="print the scores as JSON")
    models = commands.add_parser("models", help="what models there are").add_subparsers(dest="action", required=True)
    models.add_parser("list", help="all models and whether they can be used here")
    pull = models.add_parser("pull", help="fetch weights ahead of time")
    pull.add_argument("names", nargs="*", metavar="NAME", help="default: htdemucs")
    models.add_parser("check", help="load every model that is here; say what is missing, and why")
    save = commands.add_parser("backup", help="copy all jobs, keys and stems into a new folder, while the bot runs")
    save.add_argument("folder", type=Path)
    save.add_argument("--without-stems", action="store_true", help="leave out what can be separated again")
    put_back = commands.add_parser("restore", help="put a backup into an empty data folder (STEMIFY_DATA_DIR)")
    put_back.add_argument("folder", type=Path)
    gone = commands.add_parser("forget", help="delete everything of one person (stop the bot first)")
    gone.add_argument("owner", help="discord:<user id> or ip:<address>")
    block = commands.add_parser("block", help="refuse new jobs of a user, a server or an address, while the bot runs")
    unblock = commands.add_parser("unblock", help="accept jobs of a blocked owner again")
    for command in (block, unblock):
        command.add_argument("owner", help="discord:<user or server id> or ip:<address or network>")
    commands.add_parser("blocked", help="list the blocked owners").set_defaults(owner=None)
    return top


def _file(text: str) -> Path:
    if text.startswith(("http://", "https://")):
        raise argparse.ArgumentTypeError("links are for Discord, the web page and the API; give a file here")
    return Path(text)


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) > 20:
        raise argparse.ArgumentTypeError("must be a whole number, 0 to 20")
    return int(text)


def _fraction(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 0.95:
        raise argparse.ArgumentTypeError("must be a number, 0 to 0.95")
    return value


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; its exit code: 0 done, 1 failed, 2 refused input."""
    chosen = parser().parse_args(arguments)
    try:
        # Files that a user asks for get the mode that their own umask says.
        private = chosen.command not in ("separate", "demo", "evaluate")
        with private_files() if private else contextlib.nullcontext():
            code = _run(chosen)
        sys.stdout.flush()
        return code
    except BrokenPipeError:  # `… | head`: nobody reads on, which is no error
        if chosen.command == "serve":
            raise
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return DONE


def _run(chosen: argparse.Namespace) -> int:
    try:
        settings = load()
        configure(settings.log.level if chosen.command == "serve" else "ERROR", json_lines=settings.log.json_lines)
        if chosen.command == "serve":
            return asyncio.run(_serve(settings))
        if chosen.command == "separate":
            return asyncio.run(_separate(settings, chosen))
        if chosen.command == "demo":
            from engine.cli.demo import run_demo

            return asyncio.run(run_demo(settings, chosen.out))
        if chosen.command == "evaluate":
            return _evaluate(chosen)
        if chosen.command in ("backup", "restore"):
            return _backup_or_restore(settings, chosen)
        if chosen.command == "forget":
            from engine.cli.forget import forget_owner

            count = asyncio.run(forget_owner(settings, chosen.owner))
            print(f"{plural(count, 'job')} deleted")
            return DONE
        if chosen.command in ("block", "unblock", "blocked"):
            from engine.cli.block import run_block_command

            print(asyncio.run(run_block_command(settings, chosen.command, chosen.owner)))
            return DONE
        from engine.cli.models import run_model_command

        return run_model_command(settings, chosen)
    except (InputRefused, RetryLater) as error:
        print(error.message, file=sys.stderr)
        return REFUSED
    except StemifyError as error:
        print(error.message, file=sys.stderr)
        if error.detail:
            logging.getLogger(__name__).error("%s: %s", error.code, error.detail)
        return FAILED
    except KeyboardInterrupt:
        return 130


async def _serve(settings: Settings) -> int:
    from engine.backend import ShutdownSignals, backend

    ending = ShutdownSignals()
    async with backend(settings, forced=ending.forced) as house:
        print(f"Stemify serves {house.web_url}  (Ctrl-C ends it)", flush=True)
        await ending.requested.wait()
    return DONE


def _backup_or_restore(settings: Settings, chosen: argparse.Namespace) -> int:
    from engine.database.backup import back_up, restore

    if chosen.command == "backup":
        contents = back_up(
            settings.data_dir,
            chosen.folder,
            with_stems=not chosen.without_stems,
            songs_here=settings.storage.url is None,
        )
        told = f"Backed up to {chosen.folder}"
    else:
        contents = restore(chosen.folder, settings.data_dir)
        told = f"Restored into {settings.data_dir} as of {contents.made_at:%Y-%m-%d %H:%M} UTC"
    size_mb = (sum(contents.databases.values()) + contents.file_bytes) / 1e6
    what = f"{plural(len(contents.databases), 'database')}, {plural(contents.files, 'file')}"
    print(f"{told}: {what}, {size_mb:,.1f} MB")
    return DONE


async def _separate(settings: Settings, chosen: argparse.Namespace) -> int:
    from engine.cli.separate import separate_file
    from engine.cli.terminal import progress_bar, trust_lines

    options = StemSeparationOptions.from_user(
        model=chosen.model,
        quality=chosen.quality,
        output_format=chosen.format,
        normalize=chosen.normalize,
        remove_vocals=chosen.karaoke,
    )
    with contextlib.ExitStack() as stack:
        show = stack.enter_context(progress_bar())
        result = await separate_file(
            settings,
            chosen.song,
            chosen.out,
            options,
            shifts=chosen.shifts,
            overlap=chosen.overlap,
            seed=chosen.seed,
            device=chosen.device,
            on_progress=show,
        )
    if chosen.json:
        print(result.model_dump_json(indent=2))
    else:
        for name, info in result.stems:
            print(f"{name:12} {info.path}")
        print("Trust card", *(f"   {line}" for line in trust_lines(result)), sep="\n")
    return DONE


def _evaluate(chosen: argparse.Namespace) -> int:
    from engine.quality.evaluate import evaluate

    scores = evaluate(chosen.estimates, chosen.references)
    if chosen.json:
        print(json.dumps([score.as_dict() for score in scores], indent=2))
        return DONE
    print(f"{'dB':12} {'SDR':>7} {'SI-SDR':>7} {'SIR':>7} {'SAR':>7}")
    for score in scores:
        values = (score.sdr_db, score.si_sdr_db, score.sir_db, score.sar_db)
        cells = " ".join("      –" if value is None else f"{value:7.2f}" for value in values)
        print(f"{score.stem:12} {cells}{'  (silent in the references)' if score.silent_reference else ''}")
    return DONE
