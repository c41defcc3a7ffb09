"""`python -m engine separate` with several songs, and what it does not leave behind."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from engine.jobs.results import JobResult
from tests.fixtures.command_line import run
from tests.fixtures.songs import make_song
from tests.fixtures.stem_files import error_db, tracks
from tests.fixtures.tiny_models import write_model


@pytest.fixture(scope="module")
def models_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    write_model(folder)
    return folder


def separate(tmp_path: Path, models_dir: Path, *arguments: object) -> tuple[int, str, str]:
    options = ("--out", tmp_path / "out", "--shifts", 0, "--device", "cpu")
    done = run(tmp_path / "data", models_dir, "separate", *arguments, *options)
    return done.returncode, done.stdout, done.stderr


def test_each_of_several_songs_gets_a_folder(tmp_path: Path, models_dir: Path) -> None:
    (tmp_path / "other").mkdir()
    songs = [tmp_path / "Sunny.wav", tmp_path / "broken.mp3", tmp_path / "other" / "sunny.wav"]
    for song in (songs[0], songs[2]):
        make_song(song, seconds=1)
    songs[1].write_text("not a song")
    code, output, errors = separate(tmp_path, models_dir, *songs, "--json")
    assert code == 2, errors
    assert f"{songs[1]}: That is not an audio file" in errors and "Traceback" not in errors, errors
    lines = [json.loads(line) for line in output.splitlines()]
    assert [line["song"] for line in lines] == [str(songs[1]), str(songs[0]), str(songs[2])]
    assert lines[0]["error"]["code"] == "not_audio"
    folders = [JobResult.model_validate(line["result"]).output_dir for line in lines[1:]]
    assert folders == [str(tmp_path / "out" / "Sunny"), str(tmp_path / "out" / "sunny (2)")]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["Sunny", "sunny (2)"]
    assert {"jobId", "outputDir"} < set(lines[1]["result"])
    for folder in folders:
        assert len(list(Path(folder).glob("*.mp3"))) == 4


def test_failed_song_outweighs_refused_one(tmp_path: Path) -> None:
    models, song = tmp_path / "models", tmp_path / "song.wav"
    write_model(models)
    next(models.glob("*.safetensors")).write_bytes(b"damaged")
    make_song(song, seconds=1)
    code, output, errors = separate(tmp_path, models, song, tmp_path / "nothing.wav")
    assert (code, output) == (1, ""), errors
    assert "nothing.wav: There is no such file" in errors and "damaged" in errors, errors
    assert not (tmp_path / "out").exists()


def test_unwritable_file_does_not_stop_other_songs(tmp_path: Path, models_dir: Path) -> None:
    for name in ("one.wav", "two.wav"):
        make_song(tmp_path / name, seconds=1)
    (tmp_path / "out/one").mkdir(parents=True)
    (tmp_path / "out/one/one - vocals - htdemucs.mp3").symlink_to(tmp_path / "no folder/file")
    code, output, errors = separate(tmp_path, models_dir, tmp_path / "one.wav", tmp_path / "two.wav")
    assert code == 1, errors
    assert "one.wav cannot be read, or its stems not written" in errors, errors
    assert len(list((tmp_path / "out/two").glob("two - *.mp3"))) == 4 and "two" in output


def test_refusal_leaves_no_folder(tmp_path: Path, models_dir: Path) -> None:
    (tmp_path / "song.mp3").write_text("not a song")
    code, _, _ = separate(tmp_path, models_dir, tmp_path / "song.mp3")
    assert code == 2 and not (tmp_path / "out").exists()


def test_length_is_limited_only_on_request(tmp_path: Path, models_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STEMIFY_LIMITS__INPUT_DURATION_S", "1")
    monkeypatch.setenv("STEMIFY_LIMITS__INPUT_BYTES", "1000")
    song = tmp_path / "song.wav"
    make_song(song, seconds=4)
    code, _, errors = separate(tmp_path, models_dir, song, "--max-minutes", 0.05)
    assert code == 2 and "0:04 long. The limit is 0:03." in errors
    code, output, errors = separate(tmp_path, models_dir, song, "--karaoke", "--json")
    assert code == 0, errors
    assert [info.duration for _, info in JobResult.model_validate_json(output).stems] == [4, 4]


def test_stem_file_holds_mix_and_stems(tmp_path: Path, models_dir: Path) -> None:
    song = tmp_path / "song.wav"
    truth = make_song(song, seconds=4)
    code, output, errors = separate(tmp_path, models_dir, song, "--format", "stem", "--json")
    assert code == 0, errors
    result = JobResult.model_validate_json(output)
    assert result.stem_file is not None and result.trust is not None
    assert result.stem_file.path == str(tmp_path / "out" / "song - htdemucs.stem.m4a")
    assert {info.format for _, info in result.stems} == {"mp3"}
    mix, *stems = tracks(Path(result.stem_file.path))
    assert len(stems) == 4
    gain, length = 10 ** (result.trust.gain_db / 20), truth.shape[1]
    assert error_db(mix[:, :length], truth * np.float32(gain)) < -20
    drums = tracks(tmp_path / "out" / "song - drums - htdemucs.mp3")[0]
    assert error_db(stems[0][:, 4096 : length - 4096], drums[:, 4096 : length - 4096]) < -10


def test_stem_file_of_karaoke_is_refused(tmp_path: Path, models_dir: Path) -> None:
    make_song(tmp_path / "song.wav", seconds=1)
    code, _, errors = separate(tmp_path, models_dir, tmp_path / "song.wav", "--format", "stem", "--karaoke")
    assert code == 2 and errors.startswith("A stem file needs four stems, and karaoke gives two")
