"""RoFormer models from the operator's folder and from their fixed addresses."""

from __future__ import annotations

import re
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from engine.errors import ModelCorrupt, ModelUnavailable, UnknownModel
from engine.jobs.models import MODELS, add_own_models
from engine.jobs.options import StemSeparationOptions
from engine.jobs.roformer_config import MELBAND_VOCALS, RoFormerConfig
from engine.separation.models.library import ModelLibrary
from engine.separation.models.pinned_source import PINNED, PinnedFile, PinnedModel, PinnedSource
from engine.separation.models.sources import FolderSource
from engine.separation.network.roformer import RoFormer
from tests.fakes.model_hub import FakeModelHub, fake_model_hub
from tests.fixtures.model_files import BUDGET_BYTES, library
from tests.fixtures.signals import noise
from tests.fixtures.tiny_roformers import FOUR_STEMS, VOCALS, write_config, write_roformer

USUAL = """
audio: {chunk_size: 11025, sample_rate: 44100}
model: {stft_hop_length: 441}
training: {instruments: [vocals, other], target_instrument: vocals}
"""
BOMB = "".join(
    ["a: &l0 [vocals, vocals]\n"]
    + [f"a{level}: &l{level} [*l{level - 1}, *l{level - 1}]\n" for level in range(1, 40)]
    + [USUAL.replace("[vocals, other]", "*l39")]
)


@pytest.fixture(autouse=True)
def built_in_models() -> Iterator[None]:
    """Remove the operator's models after a test."""
    yield
    add_own_models(None)


def from_folder(folder: Path) -> ModelLibrary:
    add_own_models(folder)
    return ModelLibrary(folder, folder / "cache", BUDGET_BYTES, sources=[FolderSource(folder, pickles=True)])


@pytest.mark.parametrize("ending", [".safetensors", ".ckpt"])
@pytest.mark.parametrize("is_mel", [True, False])
def test_operators_model_is_loaded(tmp_path: Path, ending: str, is_mel: bool) -> None:
    network = write_roformer(tmp_path, "mine", FOUR_STEMS, is_mel=is_mel, ending=ending)
    models = from_folder(tmp_path)
    assert models.state("mine").state == "ready" and "mine" in [state.name for state in models.states()]
    model = models.load("mine")
    assert model.sources == ("drums", "bass", "other", "vocals") and model.rest is None
    assert model.segment_s == model.max_segment_s == 0.25 and model.version
    windows = 0.2 * noise(2, FOUR_STEMS.window_samples)[None]
    with torch.no_grad():
        torch.testing.assert_close(model.members[0](windows), network(windows))


def test_operators_model_has_a_name_and_stems(tmp_path: Path) -> None:
    write_roformer(tmp_path, "mine")
    with pytest.raises(UnknownModel):
        StemSeparationOptions.from_user(model="mine")
    add_own_models(tmp_path)
    assert StemSeparationOptions.from_user(model="mine").model == "mine"
    assert MODELS["mine"].stems == ("vocals", "instrumental") and MODELS["mine"].licence == "not stated"
    stored = StemSeparationOptions(model="mine").model_dump_json()
    add_own_models(None)
    assert "mine" not in MODELS
    assert StemSeparationOptions.model_validate_json(stored).model == "mine"


def test_wrapped_half_precision_checkpoint_is_loaded(tmp_path: Path) -> None:
    network = write_roformer(tmp_path, "mine")
    (tmp_path / "mine.safetensors").unlink()
    half = {name: value.half() for name, value in network.state_dict().items()}
    torch.save({"state_dict": half, "epoch": 17}, tmp_path / "mine.ckpt")
    loaded = from_folder(tmp_path).load("mine").members[0]
    assert isinstance(loaded, RoFormer) and {value.dtype for value in loaded.state_dict().values()} == {torch.float32}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        pytest.param({"final_norm.gamma": None}, "lacks|bands", id="missing"),
        pytest.param(
            {"layers.0.0.layers.0.0.mix.weight": (2, 2)}, "also has layers.0.0.layers.0.0.mix.weight", id="more"
        ),
        pytest.param({"layers.1.0.layers.0.0.to_qkv.weight": (7, 16)}, "other shapes", id="shape"),
        pytest.param({"band_split.to_features.0.0.gamma": (12,)}, "bands", id="bands"),
        pytest.param({"layers.0.1.layers.0.0.rotary_embed.freqs": (4,)}, "rotary", id="positions"),
    ],
)
def test_other_network_is_refused(tmp_path: Path, change: dict[str, tuple[int, ...] | None], message: str) -> None:
    state = write_roformer(tmp_path, "mine", FOUR_STEMS, is_mel=False, ending=".ckpt").state_dict()
    for name, shape in change.items():
        if shape is None:
            del state[name]
        else:
            state[name] = torch.zeros(shape)
    torch.save(state, tmp_path / "mine.ckpt")
    with pytest.raises(ModelCorrupt, match=message):
        from_folder(tmp_path).load("mine")


def test_stems_of_yaml_and_weights_must_agree(tmp_path: Path) -> None:
    write_roformer(tmp_path, "mine", FOUR_STEMS)
    write_config(tmp_path / "mine.yaml", VOCALS)
    with pytest.raises(ModelCorrupt, match="it has 4 stems, and"):
        from_folder(tmp_path).load("mine")


@pytest.mark.parametrize("content", [b"rotten", b""])
@pytest.mark.parametrize("ending", [".safetensors", ".ckpt"])
def test_damaged_weights_are_reported(tmp_path: Path, ending: str, content: bytes) -> None:
    write_roformer(tmp_path, "mine", ending=ending)
    (tmp_path / f"mine{ending}").write_bytes(content)
    with pytest.raises(ModelCorrupt, match=re.escape(f"mine{ending} is damaged")):
        from_folder(tmp_path).load("mine")


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ({"stereo": False}, "model.stereo is False"),
        ({"skip_connection": True}, "skip_connection"),
        ({"stft_normalized": True}, "stft_normalized"),
        ({"stft_win_length": 1024}, "stft_win_length"),
        ({"stft_hop_length": 5000}, "stft_hop_length"),
        ({"stft_hop_length": None}, "wrong type"),
    ],
)
def test_unsupported_configuration_is_left_out(tmp_path: Path, model: dict[str, object], message: str) -> None:
    write_roformer(tmp_path, "mine")
    write_config(tmp_path / "mine.yaml", VOCALS, **model)
    (problem,) = add_own_models(tmp_path)
    assert "mine" not in MODELS and message in problem and problem.startswith("The model mine.yaml is left out: ")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[" * 10_000, "nested too deeply"),
        ("#" * 70_000, "larger than 64 KiB"),
        (USUAL.replace("11025", ".inf"), "wrong type"),
        (USUAL.partition("training:")[0] + "training: [a]", "wrong type"),
        (USUAL.replace("44100", "10000000000"), "audio.sample_rate is 10000000000"),
        (USUAL.replace("[vocals, other]", "[[vocals], [other]]"), "must be a list of names"),
        (USUAL.replace("[vocals, other]", "vocals"), "must be a list of names"),
        (USUAL.replace("target_instrument: vocals", "target_instrument: [vocals]"), "must be a list of names"),
        (BOMB, "must be a list of names"),
        (BOMB.replace("441}", "441, stereo: *l39}"), "model.stereo is list"),
    ],
)
def test_hostile_configuration_is_left_out(tmp_path: Path, text: str, message: str) -> None:
    write_roformer(tmp_path, "mine")
    (tmp_path / "mine.yaml").write_text(text)
    (problem,) = add_own_models(tmp_path)
    assert "mine" not in MODELS and message in problem and len(problem) < 1000


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("layers.0.0.layers.0.0.to_gates.bias", torch.zeros(0)),
        ("band_split.to_features.0.0.gamma", torch.tensor(1.0)),
        ("layers.0.0.layers.0.0.norm.gamma", torch.tensor(1.0)),
    ],
)
def test_weights_of_absurd_shapes_are_refused(tmp_path: Path, name: str, value: torch.Tensor) -> None:
    state = write_roformer(tmp_path, "mine").state_dict()
    save_file({**state, name: value}, tmp_path / "mine.safetensors")
    with pytest.raises(ModelCorrupt, match="not a supported RoFormer network"):
        from_folder(tmp_path).load("mine")


def test_useless_files_are_left_out_with_a_reason(tmp_path: Path) -> None:
    write_config(tmp_path / "alone.yaml", VOCALS)
    write_roformer(tmp_path, "my model")
    (tmp_path / "broken.yaml").write_text("audio: {")
    (tmp_path / "bag.yaml").write_text("models: [aaaa]")
    before = list(MODELS)
    problems = " ".join(add_own_models(tmp_path))
    assert list(MODELS) == before
    assert "no weights beside it" in problems and "letters, digits" in problems and "broken.yaml" in problems


@pytest.mark.parametrize(
    ("instruments", "target", "sources", "rest", "is_inverted"),
    [
        (("vocals", "other"), "vocals", ("vocals",), "instrumental", False),
        (("vocals", "other"), "other", ("vocals",), "instrumental", True),
        (("vocals", "instrumental"), "instrumental", ("vocals",), "instrumental", True),
        (("vocals", "other"), None, ("vocals", "instrumental"), None, False),
        (("other", "vocals"), None, ("instrumental", "vocals"), None, False),
        (("drums", "other"), "drums", ("drums",), "other", False),
        (("drums", "bass", "other", "vocals"), None, ("drums", "bass", "other", "vocals"), None, False),
    ],
)
def test_stems_follow_the_instruments(
    instruments: tuple[str, ...], target: str | None, sources: tuple[str, ...], rest: str | None, is_inverted: bool
) -> None:
    config = RoFormerConfig(44_100, 441, instruments, target)
    assert (config.sources, config.rest, config.is_inverted) == (sources, rest, is_inverted)


def test_unknown_instrument_is_named() -> None:
    with pytest.raises(ValueError, match="it separates dry; stems here are vocals"):
        RoFormerConfig(44_100, 441, ("dry", "other"), "dry")


# Downloads.

SAFE, CHECKPOINT = "voices.safetensors", "Voices.ckpt"


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[FakeModelHub]:
    for ending, name in ((".safetensors", SAFE), (".ckpt", CHECKPOINT)):
        folder = tmp_path / "served/author" / ending[1:] / "resolve/abc123"
        write_roformer(folder, "written", MELBAND_VOCALS, ending=ending)
        (folder / f"written{ending}").rename(folder / name)
    with fake_model_hub(tmp_path / "served") as served:
        yield served


def pinned(tmp_path: Path, hub: FakeModelHub, *, wrong: str = "") -> PinnedSource:
    """Return a source of `melband_vocals` in the fake hub; the pinned checksum of the file `wrong` is another."""
    files = []
    for folder, name in (("safetensors", SAFE), ("ckpt", CHECKPOINT)):
        content = (hub.folder / "author" / folder / "resolve/abc123" / name).read_bytes()
        digest = sha256(b"" if name == wrong else content).hexdigest()
        files.append(PinnedFile(f"author/{folder}", "abc123", name, digest))
    models = {"melband_vocals": PinnedModel(MELBAND_VOCALS, files)}
    return PinnedSource(tmp_path / "cache/roformer", endpoint=hub.url, models=models)


def test_first_use_downloads_and_second_does_not(tmp_path: Path, hub: FakeModelHub) -> None:
    source = pinned(tmp_path, hub)
    assert library(tmp_path, source).state("melband_vocals").state == "to_fetch"
    seen: list[tuple[int, int | None]] = []
    model = library(tmp_path, source).load("melband_vocals", lambda done, total: seen.append((done, total)))
    assert (model.sources, model.rest, model.segment_s) == (("vocals",), "instrumental", 8.0)
    assert hub.requests == [("GET", SAFE)] and seen[-1][0] == seen[-1][1]
    again = library(tmp_path, source)
    assert again.state("melband_vocals").state == "ready"
    assert again.load("melband_vocals").version == model.version
    assert len(hub.requests) == 1


def test_original_replaces_an_unreachable_mirror(tmp_path: Path, hub: FakeModelHub) -> None:
    source = pinned(tmp_path, hub)
    (hub.folder / "author/safetensors/resolve/abc123" / SAFE).unlink()
    assert library(tmp_path, source).load("melband_vocals").sources == ("vocals",)
    assert hub.requests == [("GET", SAFE), ("GET", CHECKPOINT)]


def test_file_with_wrong_checksum_is_refused(tmp_path: Path, hub: FakeModelHub) -> None:
    library(tmp_path, pinned(tmp_path, hub, wrong=SAFE)).load("melband_vocals")
    assert [path.name for path in (tmp_path / "cache/roformer").iterdir()] == [CHECKPOINT]
    (tmp_path / "cache/roformer" / CHECKPOINT).unlink()
    hub.damage.update({SAFE, CHECKPOINT})
    with pytest.raises(ModelUnavailable, match="models pull melband_vocals") as caught:
        library(tmp_path, pinned(tmp_path, hub)).load("melband_vocals")
    assert "was damaged during the download" in (caught.value.detail or "")
    assert not list((tmp_path / "cache/roformer").iterdir())


def test_broken_download_resumes(tmp_path: Path, hub: FakeModelHub) -> None:
    hub.break_after[SAFE] = 50_000
    library(tmp_path, pinned(tmp_path, hub)).load("melband_vocals")
    assert hub.ranges == ["bytes=50000-"]


def test_damaged_file_in_cache_is_downloaded_again(tmp_path: Path, hub: FakeModelHub) -> None:
    source = pinned(tmp_path, hub)
    library(tmp_path, source).pull("melband_vocals")
    (tmp_path / "cache/roformer" / SAFE).write_bytes(b"rotten")
    library(tmp_path, source).load("melband_vocals")
    assert hub.count("GET") == 2


def test_offline_mode_forbids_the_download(tmp_path: Path, hub: FakeModelHub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    models = library(tmp_path, pinned(tmp_path, hub))
    assert models.state("melband_vocals").state == "unavailable"
    with pytest.raises(ModelUnavailable):
        models.load("melband_vocals")
    assert hub.requests == []


def test_copy_in_operators_folder_needs_no_yaml(tmp_path: Path) -> None:
    write_roformer(tmp_path / "own", "melband_vocals", MELBAND_VOCALS, ending=".ckpt")
    (tmp_path / "own/melband_vocals.yaml").unlink()
    model = library(tmp_path, FolderSource(tmp_path / "own", pickles=True)).load("melband_vocals")
    assert model.rest == "instrumental" and model.segment_s == 8


def test_downloads_are_pinned_by_revision_and_checksum() -> None:
    files = [file for model in PINNED.values() for file in model.files]
    assert [file.name for file in files] == ["melband_roformer_kim.safetensors", "MelBandRoformer.ckpt"]
    assert all(len(file.sha256) == 64 and len(file.revision) == 40 for file in files)
