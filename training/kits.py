"""Drum kits for training: General MIDI kits of soundfonts, sampled kits of Debian's packages, and synthesised ones."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from julius.resample import resample_frac

from engine.media.decode import decode
from engine.synth.synthesizer import SAMPLE_RATE, Audio, Hit, drum_kit, render_drums
from training.acoustic_kit import acoustic_kit
from training.instruments import TRAINING_FONTS, play, play_patches
from training.midi import DRUM_CHANNEL, Part, drum_notes
from training.synths import log_uniform

MIDI_KITS = (0, 0, 0, 8, 16, 24, 25, 32, 40)
HYDROGEN, SONIC_PI = Path("/usr/share/hydrogen/data/drumkits"), Path("/usr/share/sonic-pi/samples")
# A folder and the files of a piece; several files of a piece are alternatives. Only kits whose licence asks nothing of
# a song made with them, and none by the author of the held-out kits.
SAMPLED_KITS: tuple[tuple[Path, dict[str, tuple[str, ...]]], ...] = (
    (
        SONIC_PI,
        {
            "kick": ("bd_ada.flac", "bd_fat.flac", "bd_haus.flac", "bd_klub.flac", "bd_pure.flac", "bd_sone.flac",
                     "bd_tek.flac", "bd_zome.flac", "bd_808.flac", "bd_boom.flac", "bd_gas.flac", "bd_zum.flac",
                     "drum_heavy_kick.flac", "drum_bass_hard.flac", "drum_bass_soft.flac", "elec_soft_kick.flac",
                     "elec_hollow_kick.flac"),
            "snare": ("drum_snare_hard.flac", "drum_snare_soft.flac", "sn_dub.flac", "sn_generic.flac", "sn_zome.flac",
                      "elec_snare.flac", "elec_hi_snare.flac", "elec_lo_snare.flac"),
            "clap": ("perc_snap.flac", "perc_snap2.flac", "sn_dolf.flac"),
            "rim": ("elec_tick.flac", "elec_wood.flac", "drum_cowbell.flac"),
            "hat": ("drum_cymbal_closed.flac", "drum_cymbal_pedal.flac"),
            "open": ("drum_cymbal_open.flac",),
            "ride": ("drum_cymbal_soft.flac", "elec_cymbal.flac"),
            "crash": ("drum_cymbal_hard.flac", "drum_splash_hard.flac"),
            "tom1": ("drum_tom_hi_hard.flac", "drum_tom_mid_hard.flac", "elec_fuzz_tom.flac"),
            "tom2": ("drum_tom_lo_hard.flac", "drum_tom_lo_soft.flac"),
        },
    ),
    (
        HYDROGEN / "rumpf_kit_z01_h2",
        {
            "kick": ("beats_06-38.flac", "beats_06-46.flac", "beats_07-18.flac", "beats_07-20.flac"),
            "snare": ("beats_01-21.flac", "beats_06-25.flac"),
            "clap": ("beats_01-26.flac",),
            "rim": ("beats_09-12.flac",),
            "hat": ("beats_09-10.flac", "beats_06-28.flac"),
            "open": ("beats_08-31.flac",),
            "ride": ("beats_08-20.flac", "beats_06-40.flac"),
            "crash": ("beats_06-43.flac",),
            "tom1": ("beats_08-19.flac", "beats_08-18.flac"),
            "tom2": ("beats_08-17.flac",),
        },
    ),
    (
        HYDROGEN / "ColomboAcousticDrumkit",
        {
            "kick": ("bassdrum-4mics-br-stereo-soft4.flac", "bassdrum-4mics-br-stereo-normal3.flac"),
            "snare": ("snare-opaque-normal-mic-normal_shot2.flac", "snare-opaque-normal-mic-normal_shot3.flac",
                      "snare-opaque-2mics_normal-shot1.flac", "snare-opaque-normal-mic-rimshot7.flac"),
            "clap": ("snare-opaque-normal-mic-rimshot2.flac",),
            "rim": ("stick-rim-9.flac",),
            "hat": ("hihat-closed-6.flac", "hihat-closed-1.flac", "hihat-closed-4.flac"),
            "open": ("hihat-open-4.flac", "hihat-open-5.flac"),
            "ride": ("crash20i__ride4.flac",),
            "crash": ("crash16i__crash1.flac", "crash20i__crash.flac"),
            "tom1": ("tom-hi-1.flac", "tom-mid-1.flac"),
            "tom2": ("tom-low-1.flac",),
        },
    ),
    (
        HYDROGEN / "Audiophob",
        {
            "kick": ("86335__zgump__tom-0105.wav",),
            "snare": ("124382__cubix__8bit-snare.wav", "25671__walter-odington__garage-city-snare-snappy.wav"),
            "clap": ("29800__stomachache__3.wav",),
            "rim": ("16336__sstokes__ss-ht-crunchtime.wav",),
            "hat": ("116973__cbeeching__hat-light.wav",),
            "open": ("104227__minorr__hhat-paiste-302-14-open-p.wav",),
            "ride": ("15590__lewis__sabmute.wav",),
            "crash": ("124101__connersaw8__crash.wav",),
            "tom1": ("101450__menegass__tomh.wav", "99931__menegass__noise-tom1.wav"),
            "tom2": ("99930__menegass__noise-tom0.wav",),
        },
    ),
)  # fmt: skip


@lru_cache(maxsize=256)
def shot(path: Path) -> Audio:
    """Read a one-shot as mono at `SAMPLE_RATE`, without leading silence, with a peak of 1: `(samples,)`."""
    with tempfile.NamedTemporaryFile(suffix=".f32") as raw:
        decoded = decode(path, Path(raw.name), max_duration_s=60)
        audio = np.fromfile(raw.name, "<f4").reshape(-1, decoded.channels).mean(1)
    if decoded.sample_rate != SAMPLE_RATE:
        audio = resample_frac(torch.from_numpy(audio), decoded.sample_rate, SAMPLE_RATE).numpy()
    peak = float(np.abs(audio).max())
    first = int(np.argmax(np.abs(audio) > 0.02 * peak))
    return np.asarray(audio[max(0, first - 20) :][: 3 * SAMPLE_RATE] / peak, np.float32)


def sampled_kit(rng: np.random.Generator) -> dict[str, Audio]:
    """Return a random sampled kit, with some pieces of other kits, retuned or damped."""
    mine = int(rng.integers(len(SAMPLED_KITS)))
    kit = {}
    for piece in SAMPLED_KITS[mine][1]:
        folder, pieces = SAMPLED_KITS[rng.integers(len(SAMPLED_KITS)) if rng.uniform() < 0.3 else mine]
        audio, speed = shot(folder / str(rng.choice(pieces[piece]))), rng.uniform(0.85, 1.2)
        audio = np.interp(np.arange(0, len(audio) - 1, speed), np.arange(len(audio)), audio)
        if rng.uniform() < 0.3:
            audio *= np.exp(-np.arange(len(audio)) / SAMPLE_RATE / log_uniform(rng, 0.06, 0.6))
        kit[piece] = audio.astype(np.float32)
    return kit


def drums_of(rng: np.random.Generator, hits: Sequence[Hit], n: int) -> Audio:
    """Render the hits on a random kit of all training families: `(2, n)`."""
    kind = rng.choice(["font", "sampled", "patches", "own"], p=[0.25, 0.25, 0.05, 0.45])
    if kind == "sampled":
        return render_drums(hits, sampled_kit(rng), n, rng)
    if kind == "own":
        kit = acoustic_kit(rng) if rng.uniform() < 0.7 else drum_kit(rng)
        return render_drums(hits, kit, n, rng)
    if kind == "patches":
        return play_patches([Part(DRUM_CHANNEL, 0, drum_notes(hits))], n)
    font = TRAINING_FONTS[rng.integers(len(TRAINING_FONTS))]
    return play([Part(DRUM_CHANNEL, int(rng.choice(MIDI_KITS)), drum_notes(hits))], font, n)
