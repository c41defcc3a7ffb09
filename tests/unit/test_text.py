from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from engine.text import safe_title, stem_filename


@given(st.text())
def test_any_title_becomes_one_path_component(title: str) -> None:
    name = stem_filename(title, "vocals", "htdemucs_ft", "flac")
    assert "/" not in name and "\\" not in name and "\0" not in name
    assert not name.startswith(".")
    assert len(name.encode()) <= 255
    assert name.isprintable()
    assert name.endswith(" - vocals - htdemucs_ft.flac")


def test_direction_marks_cannot_reverse_extension() -> None:
    assert safe_title("song\u202e3pm.exe") == "song 3pm.exe"


def test_path_traversal_in_title_is_removed() -> None:
    assert safe_title("../../etc/passwd") == "etc passwd"


def test_letters_of_all_scripts_are_kept() -> None:
    assert safe_title("Für Elise – 愛 ليلى") == "Für Elise – 愛 ليلى"


def test_empty_title_gets_fallback() -> None:
    assert safe_title(" ..\u200b ") == "audio"
    assert safe_title(None) == "audio"


def test_lone_surrogates_are_removed() -> None:
    assert safe_title("a\ud800b") == "ab"
