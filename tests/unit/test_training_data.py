from __future__ import annotations

from pathlib import Path

import numpy as np

from engine.sample_song import SAMPLE_SONG_SEED
from engine.synth import Note
from training import midi, midi_songs, sung
from training.batches import SongFolder, batch
from training.instruments import TRAINING_FONTS, play_fm
from training.kits import SAMPLED_KITS
from training.songs import HELD_OUT_SEEDS, make


def test_held_out_songs_share_no_font_kit_voice_or_seed_with_training() -> None:
    assert not set(TRAINING_FONTS) & {*midi_songs.HELD_OUT_FONTS, *midi_songs.HELD_OUT_KITS}
    assert not {"The Black Pearl 1.0", "Gimme A Hand 1.0"} & {folder.name for folder, _ in SAMPLED_KITS}  # one author
    assert not set(sung.TRAINING_LANGUAGES) & set(sung.HELD_OUT_LANGUAGES)
    assert not set(sung.TRAINING_VARIANTS) & set(sung.HELD_OUT_VARIANTS)
    voices = {sung.training_voice(np.random.default_rng(seed)) for seed in range(400)}
    assert not {voice for voice in voices if voice.split("+")[0] in sung.HELD_OUT_LANGUAGES}
    assert {*sung.FLITE_VOICES, *sung.FESTIVAL_VOICES} < voices
    assert SAMPLE_SONG_SEED > HELD_OUT_SEEDS


def test_fm_notes_sound_where_they_are_written_and_stay_finite() -> None:
    notes = [Note(0.5, 0.25, 30, 1.0), Note(1.5, 0.1, 100, 0.5)]
    for seed in range(12):
        audio = play_fm(notes, 2 * 44100, np.random.default_rng(seed), is_bass=seed % 2 == 0)
        assert audio.shape == (2, 2 * 44100)
        assert np.isfinite(audio).all()
        assert not audio[:, : 22050 - 1].any()
        for start in (22050, 66150):
            assert np.abs(audio[:, start : start + 4000]).max() > 0.05


def test_a_midi_file_holds_its_notes_in_order_of_time() -> None:
    file = midi.midi_file([midi.Part(3, 33, [Note(1.0, 0.5, 40, 1.0), Note(0.0, 0.25, 45, 0.5)])])
    assert file.startswith(b"MThd\x00\x00\x00\x06\x00\x00\x00\x01\x01\xe0MTrk")
    track = file[22:]
    # program, A2 on, off after 240 ticks, E2 on 720 ticks later (0x85 0x50), off after 480 (0x83 0x60), end of track
    assert track == bytes.fromhex("00c321 00932d39 8170832d00 8550932873 8360832800 00ff2f00")


def test_a_song_is_made_once_and_a_batch_of_it_depends_only_on_the_seed(tmp_path: Path) -> None:
    path = make(3, "numpy", tmp_path)
    made_at = path.stat().st_mtime_ns
    assert make(3, "numpy", tmp_path).stat().st_mtime_ns == made_at
    assert np.load(path, mmap_mode="r").shape == (4, 2, 20 * 44100)
    folder = SongFolder(tmp_path)
    first, again = (batch(folder, 2, 22050, np.random.default_rng(5)) for _ in range(2))
    assert first.shape == (2, 4, 2, 22050)
    np.testing.assert_array_equal(first, again)


def test_songs_that_come_later_are_seen_at_the_next_scan(tmp_path: Path) -> None:
    folder = SongFolder(tmp_path)
    np.save(tmp_path / "numpy-1.npy", np.zeros((4, 2, 100), np.int16))
    assert folder.songs == []
    assert folder.scan() == 1
