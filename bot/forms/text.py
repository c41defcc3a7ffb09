"""What users read in forms, and about fields that cannot be read."""

from __future__ import annotations

from engine.jobs.options import Quality

# The options of a job.

START = "Split into stems"
AUTOMATIC = "Automatic"
AUTOMATIC_HELP = "Fits the quality and the stems"
AGAIN = "Separate again"
MODEL = "Model"
QUALITY = "Quality"
FORMAT = "Format"
STEMS = "Stems"
ALL_STEMS = "All stems"
QUALITIES = {
    Quality.FAST: "least time",
    Quality.BALANCED: "the default of Demucs",
    Quality.BEST: "two passes: takes twice as long",
}

# A comparison.

COMPARE = "Try models on 30 s"
MODELS = "Two to four models"
TOO_FEW_MODELS = "Only one model can be used here, so there is nothing to compare."

# A mix.

MIX = "Mix"
EVERYTHING = "Everything"
NO_VOCALS = "No vocals (karaoke)"
VOLUMES, VOLUMES_HELP = "Volumes", "In percent, for stems that you name"
KEY, KEY_HELP = "Key", "Semitones up or down: -12 to 12"
TEMPO, TEMPO_HELP = "Tempo", "In percent of the song's: 50 to 150"
PART, PART_HELP = "Part", "From and to, in minutes and seconds"
BAD_VOLUMES = "Give volumes from 0 to 400 percent, such as: vocals 50, drums 120."
BAD_KEY = "Give the key in semitones, such as -2."
BAD_TEMPO = "Give the tempo in percent, such as 90."
TEMPO_OUT_OF_RANGE = "The tempo must be from 50 to 150 percent."
BAD_PART = "Give the part as two times, such as 0:30-1:15."


def without(stem: str) -> str:
    return NO_VOCALS if stem == "vocals" else f"No {stem}"


def only(stem: str) -> str:
    return f"Only {stem}"


def volumes_example(first: str, last: str) -> str:
    return f"{first} 50, {last} 120"
