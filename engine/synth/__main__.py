"""Write the sample song to a WAV file, at the lowest priority: python -m engine.synth FILE."""

from __future__ import annotations

import os
import sys
import wave

import numpy as np

from engine.synth.song import sample_song


def main(path: str) -> None:
    os.nice(19)
    song = sample_song()
    frames = np.round(np.clip(song.mix.T, -1, 1) * 32767).astype("<i2")
    with wave.open(path, "wb") as file:
        file.setnchannels(2)
        file.setsampwidth(2)
        file.setframerate(song.sample_rate)
        file.writeframes(frames.tobytes())


if __name__ == "__main__":
    main(sys.argv[1])
