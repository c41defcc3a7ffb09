from __future__ import annotations

from pathlib import Path

import numpy as np

from engine.synth.song import SAMPLE_SONG_SEED
from engine.synth.synthesizer import Note, drum_kit
from training import midi, midi_songs, sung
from training.acoustic_kit import acoustic_kit
from training.batches import SongFolder, batch
from training.instruments import TRAINING_FONTS
from training.kits import SAMPLED_KITS
from training.mixing import without_rumble
from training.songs import HELD_OUT_SEEDS, make
from training.synths import SYNTHS, play_analog, play_string


def test_held_out_songs_share_no_source_with_training() -> None:
    assert not set(TRAINING_FONTS) & {*midi_songs.HELD_OUT_FONTS, *midi_songs.HELD_OUT_KITS}
    assert not {"The Black Pearl 1.0", "Gimme A Hand 1.0"} & {folder.name for folder, _ in SAMPLED_KITS}  # one author
    assert not set(sung.TRAINING_LANGUAGES) & set(sung.HELD_OUT_LANGUAGES)
    assert not set(sung.TRAINING_VARIANTS) & set(sung.HELD_OUT_VARIANTS)
    voices = {sung.training_voice(np.random.default_rng(seed)) for seed in range(400)}
    assert not {voice for voice in voices if voice.split("+")[0] in sung.HELD_OUT_LANGUAGES}
    assert {*sung.FLITE_VOICES, *sung.FESTIVAL_VOICES} < voices
    assert SAMPLE_SONG_SEED > HELD_OUT_SEEDS


def test_synthesizers_sound_only_from_note_onset() -> None:
    notes = [Note(0.5, 0.25, 30, 1.0), Note(1.5, 0.1, 100, 0.5)]
    for synth in SYNTHS:
        for seed in range(12):
            audio = synth(notes, 2 * 44100, np.random.default_rng(seed), seed % 2 == 0)
            assert audio.shape == (2, 2 * 44100)
            assert np.isfinite(audio).all()
            assert not audio[:, : 22050 - 1].any()
            for start in (22050, 66150):
                assert np.abs(audio[:, start : start + 4000]).max() > 0.01


def test_synthesized_bass_plays_the_written_pitch() -> None:
    note = [Note(0.0, 1.0, 45, 1.0)]  # 110 Hz
    for synth in (play_string, play_analog):
        for seed in range(8):
            heard = synth(note, 44100, np.random.default_rng(seed), True)[0, 8820:35280].astype(np.float64)
            spectrum = np.abs(np.fft.rfft(heard * np.hanning(len(heard)), 44100)) ** 2
            period = np.fft.irfft(spectrum)[: 44100 // 40]  # autocorrelation
            places = [44100 // 110 + i for i in range(-8, 9)]
            assert period[places].max() > 0.5 * period[0], (synth.__name__, seed)


def test_acoustic_kit_pieces_peak_and_end_silent() -> None:
    for seed in range(6):
        kit = acoustic_kit(np.random.default_rng(seed))
        assert kit.keys() == drum_kit(np.random.default_rng(seed)).keys()
        for shot in kit.values():
            assert np.isfinite(shot).all()
            assert abs(np.abs(shot).max() - 1) < 1e-3
            assert abs(shot[-1]) < 1e-3


def test_midi_file_holds_notes_in_order_of_time() -> None:
    file = midi.midi_file([midi.Part(3, 33, [Note(1.0, 0.5, 40, 1.0), Note(0.0, 0.25, 45, 0.5)])])
    assert file.startswith(b"MThd\x00\x00\x00\x06\x00\x00\x00\x01\x01\xe0MTrk")
    track = file[22:]
    # program, A2 on, off after 240 ticks, E2 on 720 ticks later (0x85 0x50), off after 480 (0x83 0x60), end of track
    assert track == bytes.fromhex("00c321 00932d39 8170832d00 8550932873 8360832800 00ff2f00")


def test_rumble_filter_keeps_lowest_bass_string() -> None:
    t = np.arange(4 * 44100) / 44100
    string = np.sin(2 * np.pi * 41.2 * t) * np.hanning(len(t))
    heard = without_rumble(np.stack([string + 0.5, string + 0.3 * np.sin(2 * np.pi * 4 * t)]).astype(np.float32))
    middle = slice(44100, -44100)  # a constant begins and ends with a step
    np.testing.assert_allclose(heard[:, middle], np.stack([string, string])[:, middle], atol=0.02)


def test_song_is_rendered_once_and_batch_depends_on_seed(tmp_path: Path) -> None:
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


def test_piece_without_singer_gets_one_from_another_song(tmp_path: Path) -> None:
    noise = np.random.default_rng(1).integers(-9000, 9000, (4, 2, 44100)).astype(np.int16)
    np.save(tmp_path / "band-1.npy", noise * np.array([1, 1, 1, 0], np.int16)[:, None, None])
    np.save(tmp_path / "numpy-1.npy", noise)
    folder = SongFolder(tmp_path)
    assert (len(folder.songs), len(folder.sung)) == (2, 1)
    stems = batch(folder, 40, 11025, np.random.default_rng(2))
    assert np.mean([row[3].any() for row in stems]) > 0.8
