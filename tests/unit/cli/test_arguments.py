from __future__ import annotations

import re
from importlib.metadata import version

import pytest

from config.settings import Settings
from config.variables import unknown_variables
from engine.cli.main import main, parser
from engine.errors import TooLarge, UnknownModel
from engine.jobs.options import StemSeparationOptions


@pytest.mark.parametrize(
    ("arguments", "hint"),
    [
        (["seperate", "a.mp3"], "Did you mean separate?"),
        (["separate", "a.mp3", "--quality", "bets"], "Did you mean best?"),
        (["separate", "a.mp3", "--formt=flac"], "unrecognized arguments: --formt=flac. Did you mean --format?"),
        (["models", "chek"], "Did you mean check?"),
    ],
)
def test_mistyped_word_gets_hint(arguments: list[str], hint: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(arguments)
    assert end.value.code == 2
    assert hint in capsys.readouterr().err


def test_far_off_word_gets_no_hint(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["serve", "--zzz"])
    assert "Did you mean" not in capsys.readouterr().err


def test_version_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(["--version"])
    assert end.value.code == 0
    assert capsys.readouterr().out == f"Stemify {version('stemify')}\n"


def test_mistyped_model_gets_hint() -> None:
    with pytest.raises(UnknownModel, match=re.escape("There is no model 'HTDemucs_fit'. Did you mean htdemucs_ft?")):
        StemSeparationOptions.from_user(model="HTDemucs_fit")


def test_unknown_variables_are_named() -> None:
    names = ["STEMIFY_WEB_PORT", "STEMIFY_WEB__PORT", "STEMIFY_FOO", "STEMIFY_CONFIG", "stemify_data_dir", "HOME"]
    assert unknown_variables(Settings, names) == [
        "STEMIFY_FOO is not a setting and has no effect.",
        "STEMIFY_WEB_PORT is not a setting and has no effect. Did you mean STEMIFY_WEB__PORT?",
    ]


def test_too_large_file_gets_a_way_out() -> None:
    limit = 50 * 2**20
    assert TooLarge.over(limit, 60 * 2**20, "Song.WAV").message == (
        "That file is 60.0 MB. The limit is 50 MB. As FLAC or MP3 it fits."
    )
    for size, name in ((60 * 2**20, "song.flac"), (105 * 2**20, "song.wav"), (None, "")):
        assert TooLarge.over(limit, size, name).message.endswith(
            "The limit is 50 MB. Send it as an MP3, at most 2.3 MB a minute."
        )


@pytest.mark.parametrize(("text", "expected"), [("62.5", 62.5), ("1:02.5", 62.5), ("0:10", 10.0)])
def test_range_of_mix_takes_seconds_and_minutes(text: str, expected: float) -> None:
    assert parser().parse_args(["mix", "stems", "--from", text]).start_s == expected
