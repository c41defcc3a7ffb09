"""`python -m engine models list|pull|check`."""

from __future__ import annotations

import argparse

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn
from rich.table import Table
from rich.text import Text

from config.settings import Settings
from engine.errors import StemifyError
from engine.jobs.models import MODELS, traits, unknown_model
from engine.logs import redact
from engine.separation.models.library import ModelLibrary
from engine.text import plural

_STATE_TEXT = {"ready": "ready", "to_fetch": "downloaded at first use", "unavailable": "unavailable"}


def model_library(settings: Settings) -> ModelLibrary:
    return ModelLibrary(
        models_dir=settings.models_dir,
        cache_dir=(settings.data_dir / "models").absolute(),
        memory_budget_bytes=settings.workers.model_memory_bytes,
    )


def run_model_command(settings: Settings, args: argparse.Namespace) -> int:
    """Run one of the commands; return exit code 1 if a model is missing or broken."""
    library = model_library(settings)
    if args.action == "list":
        return _list(library)
    if args.action == "pull":
        return _pull(library, args.names or ["htdemucs"])
    return _check(library)


def _list(library: ModelLibrary) -> int:
    console = Console(markup=False, soft_wrap=True)
    for state in library.states():
        info = MODELS[state.name]
        known = traits(info, is_downloaded=state.state == "ready", size_bytes=state.size_bytes)
        console.print(Text(state.name, style="bold"))
        for line in (info.description, " · ".join(known), f"source of the licence: {info.licence_source}"):
            console.print(Text(f"    {line}"))
        if state.state == "unavailable":
            console.print(Text(f"    unavailable: {state.reason}"))
    return 0


def _pull(library: ModelLibrary, names: list[str]) -> int:
    console = Console(stderr=True, markup=False)
    failures = 0
    for name in names:
        if name not in MODELS:
            raise unknown_model(name)
        columns = (TextColumn("{task.description:<14}"), BarColumn(40), DownloadColumn(), TransferSpeedColumn())
        with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
            task = progress.add_task(name, total=None)
            try:
                library.pull(name, lambda done, total, task=task: progress.update(task, completed=done, total=total))  # type: ignore[misc]
            except StemifyError as error:
                failures += 1
                console.print(f"{name}: {error.message}")
                if error.detail:
                    console.print(f"   {redact(error.detail)}")
            else:
                console.print(f"{name}: ready")
    return 1 if failures else 0


def _check(library: ModelLibrary) -> int:
    """Load every model that is on this machine."""
    table = Table("model", "state", "", box=None, pad_edge=False)
    broken = 0
    for state in library.states():
        if state.state == "ready":
            try:
                models = library.load_steps(state.name)
            except StemifyError as error:
                broken += 1
                table.add_row(state.name, "broken", Text(error.message))
            else:
                networks = plural(sum(len(model.members) for model in models), "network")
                detail = f"{networks}, {', '.join(MODELS[state.name].stems)}, {models[0].sample_rate} Hz"
                table.add_row(state.name, "loads", detail)
        else:
            table.add_row(state.name, _STATE_TEXT[state.state], Text(state.reason or ""))
    Console(markup=False).print(table)
    return 1 if broken else 0
