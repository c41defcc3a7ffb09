"""Models from the operator's folder, the hub and demucs' old host: downloads, versions and untrusted files."""

from __future__ import annotations

import json
import shutil
import sys
import threading
import types
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from engine.errors import ModelCorrupt, ModelUnavailable, UnknownModel
from engine.jobs.models import MODELS
from engine.separation.models.library import ModelLibrary
from engine.separation.models.sources import FolderSource, HubSource, LegacySource, demucs_files
from tests.fakes.model_hub import FakeModelHub, fake_model_hub
from tests.fixtures.model_files import BUDGET_BYTES, library, pickled
from tests.fixtures.tiny_models import SOURCES, tiny_htdemucs, write_model


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[FakeModelHub]:
    """Serve `htdemucs` and the bag `htdemucs_ft`."""
    write_model(tmp_path / "served/adefossez/HTDemucs")
    folder = tmp_path / "served/adefossez/HTDemucs-ft"
    for seed, signature in enumerate(["aaaa0000", "bbbb1111"]):
        write_model(folder, "htdemucs_ft", seed=seed, signature=signature)
    bag = "models: ['aaaa0000', 'bbbb1111']\nweights: [[1, 0, 0, 1], [0, 1, 1, 1]]\n"
    (folder / "htdemucs_ft.yaml").write_text(bag)
    with fake_model_hub(tmp_path / "served") as served:
        yield served


def hub_source(tmp_path: Path, hub: FakeModelHub) -> HubSource:
    return HubSource(tmp_path / "cache/hub", endpoint=hub.url)


def test_first_use_downloads_and_second_does_not(tmp_path: Path, hub: FakeModelHub) -> None:
    assert library(tmp_path, hub_source(tmp_path, hub)).state("htdemucs").state == "to_fetch"
    model = library(tmp_path, hub_source(tmp_path, hub)).load("htdemucs")
    assert model.sources == tuple(SOURCES)
    assert hub.count("GET") == 2  # the description and the weights
    asked = len(hub.requests)
    again = library(tmp_path, hub_source(tmp_path, hub))
    assert again.state("htdemucs").state == "ready"
    again.load("htdemucs")
    assert len(hub.requests) == asked
    stored = load_file(hub.folder / "adefossez/HTDemucs/0a1b2c3d.safetensors")
    assert all(torch.equal(value, stored[name]) for name, value in model.members[0].state_dict().items())


def test_bag_is_loaded_with_its_weights(tmp_path: Path, hub: FakeModelHub) -> None:
    model = library(tmp_path, hub_source(tmp_path, hub)).load("htdemucs_ft")
    assert model.weights == ((1, 0, 0, 1), (0, 1, 1, 1))
    assert model.wanted_members(model.rows(["drums"])) == (0,)
    assert model.share(1, model.rows(["vocals"])[0]) == 0.5


def test_pull_reports_progress(tmp_path: Path, hub: FakeModelHub) -> None:
    seen: list[tuple[int, int | None]] = []
    models = library(tmp_path, hub_source(tmp_path, hub))
    models.pull("htdemucs", lambda done, total: seen.append((done, total)))
    size = (hub.folder / "adefossez/HTDemucs/0a1b2c3d.safetensors").stat().st_size
    assert seen[-1] == (size, size)
    asked = len(hub.requests)
    models.pull("htdemucs")
    assert len(hub.requests) == asked


def test_interrupted_download_is_resumed(tmp_path: Path, hub: FakeModelHub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.file_download.time.sleep", lambda _: None)
    monkeypatch.setattr("huggingface_hub.constants.DOWNLOAD_CHUNK_SIZE", 4096)
    hub.break_after["0a1b2c3d.safetensors"] = 20_000
    library(tmp_path, hub_source(tmp_path, hub)).load("htdemucs")
    assert hub.ranges == ["bytes=16384-"]


def test_download_after_a_damaged_one_succeeds(tmp_path: Path, hub: FakeModelHub) -> None:
    hub.damage.add("0a1b2c3d.safetensors")
    models = library(tmp_path, hub_source(tmp_path, hub))
    with pytest.raises(ModelUnavailable, match="could not be downloaded"):
        models.load("htdemucs")
    assert models.state("htdemucs").state == "to_fetch"
    hub.damage.clear()
    models.load("htdemucs")


def test_damaged_file_in_cache_is_downloaded_again(tmp_path: Path, hub: FakeModelHub) -> None:
    library(tmp_path, hub_source(tmp_path, hub)).pull("htdemucs")
    (weights,) = (tmp_path / "cache/hub").rglob("*.safetensors")
    weights.resolve().write_bytes(b"rotten")
    library(tmp_path, hub_source(tmp_path, hub)).load("htdemucs")


def test_missing_network_error_says_what_to_do(tmp_path: Path, hub: FakeModelHub) -> None:
    unreachable = HubSource(tmp_path / "cache/hub", endpoint="http://127.0.0.1:9")
    with pytest.raises(ModelUnavailable, match="models pull htdemucs") as caught:
        library(tmp_path, unreachable).load("htdemucs")
    assert "STEMIFY_MODELS_DIR" in caught.value.message
    library(tmp_path, hub_source(tmp_path, hub)).pull("htdemucs")
    library(tmp_path, unreachable).load("htdemucs")  # cached models need no network


def test_offline_mode_is_named_as_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    state = library(tmp_path, HubSource(tmp_path / "cache")).state("htdemucs")
    assert state.state == "unavailable"
    assert "HF_HUB_OFFLINE" in (state.reason or "")


def test_concurrent_loads_share_one_download(tmp_path: Path, hub: FakeModelHub) -> None:
    models = library(tmp_path, hub_source(tmp_path, hub))
    found = []
    threads = [threading.Thread(target=lambda: found.append(models.load("htdemucs"))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({id(model) for model in found}) == 1
    assert hub.count("GET") == 2


def test_least_recently_used_model_is_evicted(tmp_path: Path) -> None:
    for name, signature in [("htdemucs", "aaaa0000"), ("hdemucs_mmi", "bbbb1111"), ("mdx_extra", "cccc2222")]:
        write_model(tmp_path / "own", name, signature=signature)
    tiny = tiny_htdemucs()
    room = 2 * sum(p.numel() * p.element_size() for p in tiny.parameters()) + 1000
    models = library(tmp_path, FolderSource(tmp_path / "own", pickles=False), budget_bytes=room)
    first = models.load("htdemucs")
    second = models.load("hdemucs_mmi")
    assert models.load("htdemucs") is first
    models.load("mdx_extra")
    assert models.load("htdemucs") is first
    assert models.load("hdemucs_mmi") is not second, "it was evicted"


def test_operators_folder_comes_first_and_may_have_pickles(tmp_path: Path, hub: FakeModelHub) -> None:
    pickled(tmp_path / "own", "dddd3333")
    (tmp_path / "own/htdemucs.yaml").write_text("models: [dddd3333]\n")
    own = FolderSource(tmp_path / "own", pickles=True)
    model = library(tmp_path, own, hub_source(tmp_path, hub)).load("htdemucs")
    expected = tiny_htdemucs(5).state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in model.members[0].state_dict().items())
    assert hub.requests == []


def test_pickle_outside_operators_folder_is_ignored(tmp_path: Path) -> None:
    pickled(tmp_path / "own", "dddd3333")
    (tmp_path / "own/htdemucs.yaml").write_text("models: [dddd3333]\n")
    assert library(tmp_path, FolderSource(tmp_path / "own", pickles=False)).state("htdemucs").state != "ready"


def test_pickle_with_wrong_checksum_in_name_is_rejected(tmp_path: Path) -> None:
    path = pickled(tmp_path / "own", "dddd3333")
    path.rename(path.with_name("htdemucs-00000000.th"))
    with pytest.raises(ModelCorrupt):
        library(tmp_path, FolderSource(tmp_path / "own", pickles=True)).load("htdemucs")


def legacy_source(tmp_path: Path, hub: FakeModelHub) -> LegacySource:
    path = pickled(tmp_path / "served/hybrid", "eeee4444")
    (tmp_path / "bags").mkdir(exist_ok=True)
    (tmp_path / "bags/htdemucs.yaml").write_text("models: [eeee4444]\n")
    files = {"eeee4444": f"hybrid/{path.name}"}
    return LegacySource(tmp_path / "cache/legacy", root_url=hub.url + "/", files=files, bags=tmp_path / "bags")


def test_legacy_host_replaces_hub_and_download_resumes(tmp_path: Path, hub: FakeModelHub) -> None:
    unreachable = HubSource(tmp_path / "cache/hub", endpoint="http://127.0.0.1:9")
    source = legacy_source(tmp_path, hub)
    (served,) = (tmp_path / "served/hybrid").iterdir()
    hub.break_after[served.name] = 5_000
    library(tmp_path, unreachable, source).load("htdemucs")
    assert hub.ranges == ["bytes=5000-"]
    asked = len(hub.requests)
    library(tmp_path, unreachable, source).load("htdemucs")
    assert len(hub.requests) == asked


def test_legacy_pickle_must_have_the_pinned_checksum(tmp_path: Path, hub: FakeModelHub) -> None:
    source = legacy_source(tmp_path, hub)
    (served,) = (tmp_path / "served/hybrid").iterdir()
    hub.damage.add(served.name)
    with pytest.raises(ModelUnavailable):
        library(tmp_path, source).load("htdemucs")
    assert not list((tmp_path / "cache/legacy").glob("*"))


def test_replaced_pickle_in_cache_is_not_opened(tmp_path: Path, hub: FakeModelHub) -> None:
    source = legacy_source(tmp_path, hub)
    models = library(tmp_path, source)
    models.pull("htdemucs")
    (cached,) = (tmp_path / "cache/legacy").iterdir()
    cached.write_bytes(b"something else")
    models.load("htdemucs")  # downloaded again
    assert cached.stat().st_size > 1000


@pytest.mark.parametrize("place", ["klass", "structure"])
def test_file_that_names_foreign_code_does_not_run_it(tmp_path: Path, place: str) -> None:
    ran = types.ModuleType("foreign_code")
    sys.modules.pop("foreign_code", None)
    (tmp_path / "path").mkdir()
    (tmp_path / "path/foreign_code.py").write_text("raise SystemExit('ran')\n")
    sys.path.insert(0, str(tmp_path / "path"))
    try:
        named = {
            "klass": "foreign_code.Network" if place == "klass" else "demucs.htdemucs.HTDemucs",
            "args": json.dumps([SOURCES]),
            "kwargs": "{}",
        }
        if place == "structure":
            named["structure"] = json.dumps({"_dict": [["meta", {"_class": "foreign_code.Network"}]]})
        (tmp_path / "own").mkdir()
        save_file({"x": torch.zeros(1)}, tmp_path / "own/htdemucs.safetensors", named)
        with pytest.raises(ModelCorrupt):
            library(tmp_path, FolderSource(tmp_path / "own", pickles=False)).load("htdemucs")
        assert ran.__name__ not in sys.modules
    finally:
        sys.path.remove(str(tmp_path / "path"))


@pytest.mark.parametrize("content", ["models: ['../../etc/passwd']", "models: []", "just text", "models: {", "{}"])
def test_invalid_bag_is_reported_as_damaged(tmp_path: Path, content: str) -> None:
    (tmp_path / "htdemucs.yaml").write_text(content)
    models = library(tmp_path, FolderSource(tmp_path, pickles=False))
    with pytest.raises(ModelCorrupt):
        models.load("htdemucs")
    assert models.state("htdemucs").state == "unavailable"


def test_every_named_model_has_a_state_and_demucs_pins_its_files(tmp_path: Path) -> None:
    models = ModelLibrary(None, tmp_path, BUDGET_BYTES)
    states = {state.name: state for state in models.states()}
    assert list(states) == list(MODELS)
    assert states["htdemucs"].state == "to_fetch"
    assert all(state.reason for state in states.values() if state.state == "unavailable")
    legacy = LegacySource(tmp_path)
    for name in ("htdemucs", "htdemucs_ft", "htdemucs_6s", "hdemucs_mmi", "mdx_extra", "mdx_extra_q"):
        assert legacy._bag(name) is not None
    assert all(path.endswith(".th") and "-" in path for path in demucs_files().values())


def test_unknown_name_is_rejected(tmp_path: Path) -> None:
    with pytest.raises(UnknownModel):
        library(tmp_path).load("../htdemucs")


def test_quantized_weights_without_diffq_name_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("engine.separation.models.files.find_spec", lambda _: None)
    models = library(tmp_path)
    assert "diffq" in (models.state("mdx_extra_q").reason or "")
    with pytest.raises(ModelUnavailable, match="diffq"):
        models.load("mdx_extra_q")


def test_version_follows_the_weights(tmp_path: Path) -> None:
    for folder, seed in (("first", 0), ("other", 1)):
        write_model(tmp_path / folder, seed=seed)
    shutil.copytree(tmp_path / "first", tmp_path / "copy")  # written again, its header would have another order
    sources = {folder: FolderSource(tmp_path / folder, pickles=False) for folder in ("first", "copy", "other")}
    libraries = {folder: library(tmp_path, source) for folder, source in sources.items()}
    versions = {folder: each.load("htdemucs").version for folder, each in libraries.items()}
    assert versions["first"] == versions["copy"] and versions["first"] != versions["other"]
    state = libraries["first"].state("htdemucs")
    assert state.version == versions["first"] and state.size_bytes is not None and state.size_bytes > 1000
    for weights in (tmp_path / "copy").glob("*.safetensors"):
        weights.unlink()
    assert libraries["copy"].state("htdemucs").files == ()
