"""The scores of the shipped weights of `mini`."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch

from engine.separation import Separator
from engine.synth.song import STEMS, sample_song
from engine.synth.synthesizer import Audio
from training.mixing import numpy_song
from training.scores import EMBEDDED, Stems, load_embedded, mean_scores, separated
from training.songs import HELD_OUT_SEEDS

PUBLISHED_DB = 8.18  # mean over stems and the three songs below
Separate = Callable[[Audio], Stems]


@pytest.fixture(scope="module")
def separate() -> Iterator[Separate]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    separator = Separator(load_embedded().eval())
    yield lambda mix: separated(separator, mix)
    torch.set_num_threads(threads)


def test_three_fixed_songs_score_as_published(separate: Separate) -> None:
    songs = [numpy_song(HELD_OUT_SEEDS + 5000 + i, 8.0) for i in range(3)]
    assert mean_scores(songs, separate)["mini"]["mean"] > PUBLISHED_DB - 0.5


def test_every_demo_stem_beats_no_separation(separate: Separate) -> None:
    scores = mean_scores([sample_song().stems], separate)
    for stem in STEMS:
        assert scores["mini"][stem] > 2 + max(scores["the mix itself"][stem], scores["silence"][stem]), stem


def test_mini_is_small_and_has_model_card() -> None:
    (weights,) = EMBEDDED.glob("*.safetensors")
    assert weights.stat().st_size < 6e6
    assert weights.stem in (EMBEDDED / "mini.yaml").read_text()
    assert (EMBEDDED / "MODEL_CARD.md").is_file()
