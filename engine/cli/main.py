"""The command line, `python -m engine`."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import logging
import os
import sys
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

from config.settings import Settings, load
from config.variables import unknown_variables
from engine.cli.arguments import DONE, FAILED, REFUSED, Parser, minutes, overlap_fraction, parse, shift_count, song_path
from engine.cli.mix_arguments import add_mix_command
from engine.errors import InputRefused, RetryLater, StemifyError
from engine.jobs.models import MODELS, add_own_models
from engine.jobs.options import OutputFormat, Quality
from engine.logs import configure
from engine.process.garbage_collection import shorten_collections
from engine.process.private_files import private_files
from engine.text import plural

log = logging.getLogger(__name__)


def parser() -> Parser:
    """Return the parser of all commands."""
    root = Parser(prog="python -m engine", description="Turn songs into stems.")
    root.add_argument("--version", action="version", version=f"Stemify {version('stemify')}")
    commands = root.add_subparsers(dest="command", required=True)
    commands.add_parser("serve", help="run the web page and the API, without Discord")
    commands.add_parser("doctor", help="examine this machine and say what to do")
    demo = commands.add_parser("demo", help="generate a sample song and separate it with the embedded model")
    demo.add_argument("--out", type=Path, default=Path("demo-out"), help="output folder (default: demo-out)")
    separate = commands.add_parser("separate", help="separate files")
    separate.add_argument("songs", type=song_path, nargs="+", metavar="SONG")
    separate.add_argument(
        "--out",
        type=Path,
        default=Path("stems"),
        help="output folder, with one folder for each of several songs in it (default: stems)",
    )
    separate.add_argument("--model", metavar="NAME", help=f"one of {', '.join(MODELS)} (default: by quality)")
    separate.add_argument("--quality", choices=[each.value for each in Quality], help="default: balanced")
    separate.add_argument("--format", choices=[each.value for each in OutputFormat], help="default: mp3")
    separate.add_argument("--karaoke", action="store_true", help="write vocals and instrumental only")
    separate.add_argument("--normalize", action="store_true", help="set the loudest peak to -1 dBFS")
    separate.add_argument("--shifts", type=shift_count, help="number of random shifts to average (default: by quality)")
    separate.add_argument(
        "--overlap", type=overlap_fraction, help="overlap of segments, 0 to 0.95 (default: by quality)"
    )
    separate.add_argument("--seed", type=int, default=0, help="seed of the shifts (default: 0)")
    separate.add_argument("--device", default="auto", help='"auto", "cpu", "cuda:0", …')
    separate.add_argument("--max-minutes", type=minutes, help="refuse longer songs (default: no limit)")
    separate.add_argument(
        "--json", action="store_true", help="print the result as JSON; for several songs, one line each"
    )
    add_mix_command(commands)
    evaluate = commands.add_parser("evaluate", help="score stems against reference stems")
    evaluate.add_argument("estimates", type=Path, help="folder of stems, as written by separate")
    evaluate.add_argument("references", type=Path, help="folder of reference stems: vocals.wav, drums.wav, …")
    evaluate.add_argument("--json", action="store_true", help="print the scores as JSON")
    models = commands.add_parser("models", help="manage the models").add_subparsers(dest="action", required=True)
    models.add_parser("list", help="list all models and their availability")
    pull = models.add_parser("pull", help="download weights in advance")
    pull.add_argument("names", nargs="*", metavar="NAME", help="default: htdemucs")
    models.add_parser("check", help="load every available model; list missing ones with the reason")
    backup = commands.add_parser(
        "backup", help="copy all jobs, keys and stems to a new folder, also while the bot runs"
    )
    backup.add_argument("folder", type=Path)
    backup.add_argument("--without-stems", action="store_true", help="leave out stems, which can be separated again")
    restore = commands.add_parser("restore", help="restore a backup into an empty data folder (STEMIFY_DATA_DIR)")
    restore.add_argument("folder", type=Path)
    forget = commands.add_parser("forget", help="delete all data of one user (stop the bot first)")
    forget.add_argument("owner", help="discord:<user id> or ip:<address>")
    block = commands.add_parser(
        "block", help="refuse new jobs of a user, a server or an address, also while the bot runs"
    )
    unblock = commands.add_parser("unblock", help="accept jobs of a blocked owner again")
    for command in (block, unblock):
        command.add_argument("owner", help="discord:<user or server id> or ip:<address or network>")
    commands.add_parser("blocked", help="list the blocked owners").set_defaults(owner=None)
    return root


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command and return its exit code: 0 done, 1 failed, 2 input refused."""
    args = parse(parser(), arguments)
    try:
        # Output files get the mode of the user's umask.
        private = args.command not in ("separate", "mix", "demo", "evaluate")
        with private_files() if private else contextlib.nullcontext():
            code = _run(args)
        sys.stdout.flush()
        return code
    except BrokenPipeError:  # the reader has stopped, as in `… | head`
        if args.command == "serve":
            raise
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return DONE


def _run(args: argparse.Namespace) -> int:
    try:
        settings = load()
        if args.command != "serve":  # a log would be in the middle of the output
            settings = settings.model_copy(update={"log": settings.log.model_copy(update={"level": "ERROR"})})
        configure(settings.log.level, json_lines=settings.log.json_lines)
        if args.command in ("separate", "models"):
            for problem in add_own_models(settings.models_dir):
                print(problem, file=sys.stderr)
        for warning in unknown_variables(Settings, os.environ):
            if args.command == "serve":
                log.warning(warning)
            else:
                print(warning, file=sys.stderr)
        if args.command == "serve":
            return asyncio.run(_serve(settings))
        if args.command == "separate":
            from engine.cli.separate import separate_songs

            return asyncio.run(separate_songs(settings, args))
        if args.command == "doctor":
            from engine.cli.doctor import run_doctor

            return run_doctor(settings)
        if args.command == "mix":
            return _mix(settings, args)
        if args.command == "demo":
            from engine.cli.demo import run_demo

            return asyncio.run(run_demo(settings, args.out))
        if args.command == "evaluate":
            return _evaluate(args)
        if args.command in ("backup", "restore"):
            return _backup_or_restore(settings, args)
        if args.command == "forget":
            from engine.cli.forget import forget_owner

            count = asyncio.run(forget_owner(settings, args.owner))
            print(f"{plural(count, 'job')} deleted")
            return DONE
        if args.command in ("block", "unblock", "blocked"):
            from engine.cli.block import run_block_command

            print(asyncio.run(run_block_command(settings, args.command, args.owner)))
            return DONE
        from engine.cli.models import run_model_command

        return run_model_command(settings, args)
    except (InputRefused, RetryLater) as error:
        print(error.message, file=sys.stderr)
        return REFUSED
    except StemifyError as error:
        print(error.message, file=sys.stderr)
        if error.detail:
            log.error("%s: %s", error.code, error.detail)
        return FAILED
    except KeyboardInterrupt:
        return 130


async def _serve(settings: Settings) -> int:
    from engine.backend import ShutdownSignals, backend

    signals = ShutdownSignals()
    async with backend(settings, forced=signals.forced) as running:
        shorten_collections()
        print(f"Stemify is running at {running.web_url}  (Ctrl-C to stop)", flush=True)
        await signals.requested.wait()
    return DONE


def _backup_or_restore(settings: Settings, args: argparse.Namespace) -> int:
    from engine.database.backup import back_up, restore

    if args.command == "backup":
        manifest = back_up(
            settings.data_dir,
            args.folder,
            with_stems=not args.without_stems,
            songs_here=settings.storage.url is None,
        )
        summary = f"Backed up to {args.folder}"
    else:
        manifest = restore(args.folder, settings.data_dir)
        summary = f"Restored into {settings.data_dir} as of {manifest.made_at:%Y-%m-%d %H:%M} UTC"
    size_mb = (sum(manifest.databases.values()) + manifest.file_bytes) / 1e6
    counts = f"{plural(len(manifest.databases), 'database')}, {plural(manifest.files, 'file')}"
    print(f"{summary}: {counts}, {size_mb:,.1f} MB")
    return DONE


def _mix(settings: Settings, args: argparse.Namespace) -> int:
    from engine.cli.mix import mix_folder

    mixed = mix_folder(settings, args)
    lowered = f"  (lowered by {-mixed.gain_db:.1f} dB, because the sum would clip)" if mixed.gain_db < 0 else ""
    print(f"{mixed.path}{lowered}")
    return DONE


def _evaluate(args: argparse.Namespace) -> int:
    from engine.quality.evaluate import evaluate

    scores = evaluate(args.estimates, args.references)
    if args.json:
        print(json.dumps([score.as_dict() for score in scores], indent=2))
        return DONE
    print(f"{'dB':12} {'SDR':>7} {'SI-SDR':>7} {'SIR':>7} {'SAR':>7}")
    for score in scores:
        values = (score.sdr_db, score.si_sdr_db, score.sir_db, score.sar_db)
        cells = " ".join("      –" if value is None else f"{value:7.2f}" for value in values)
        print(f"{score.stem:12} {cells}{'  (silent reference)' if score.silent_reference else ''}")
    return DONE
