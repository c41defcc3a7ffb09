"""Repair tags that are marked as Latin-1 but use another encoding."""

from __future__ import annotations

import codecs
import re
from itertools import pairwise

_FEWEST_LETTERS = 4
_FREQUENT_LETTERS = {  # by code page; of two equal scores the first wins
    "cp1251": "оеаинтсрвлкмдпуяії",
    "cp1253": "αοιετσνρυηςλδκάέήίόύώ",
    "cp1255": "יוהלארתבמשנם",
    "cp1256": "اليمنتروبدةعسحك",
    "koi8-r": "оеаинтсрвлкмдпуя",
}
_COMMON_CHINESE = frozenset(
    "的一是不了我你他她人在有爱愛们这那来到时上下大小天地心想月亮生日风雨花开中国歌曲情梦夜明春秋海水"
)
_ENCODINGS = ("utf-8", "cp932", *_FREQUENT_LETTERS, "gb18030", "euc-kr", "euc-jp")
_DECODERS = {name: codecs.lookup(name).decode for name in _ENCODINGS}  # imports them, which a sandbox forbids later


def repair(text: str) -> str:
    """Decode `text` in its true encoding if it was read as Latin-1 by mistake; otherwise return it unchanged.

    Western words mix accented with plain letters, so only words with nothing but accented letters are suspicious.
    """
    try:
        data = text.encode("latin-1")
    except UnicodeEncodeError:
        return text
    high = sum(byte >= 0x80 for byte in data)
    plain = sum(chr(byte).isalpha() for byte in data if byte < 0x80)
    if high < _FEWEST_LETTERS:
        return text
    if (utf8 := _decode(data, "utf-8")) is not None:
        return utf8
    if (
        (kana := _decode(data, "cp932"))
        and _share(kana, "\u3041", "\u30fe") > 0.3
        and _share(kana, "\uff61", "\uff9f") == 0
    ):
        return kana
    if plain > high or not re.search(rb"[\xa1-\xfe]{4}", data):
        return text
    return _single_byte(data) or _double_byte(data) or text


def _single_byte(data: bytes) -> str | None:
    best, best_score = None, 0.5
    for code_page, frequent in _FREQUENT_LETTERS.items():
        decoded = _decode(data, code_page)
        if decoded is None or re.search(r"[^\W\d_A-Za-z][A-Za-z]|[A-Za-z][^\W\d_A-Za-z]", decoded):
            continue
        letters = [char for char in decoded if ord(char) > 0x7F]
        if not all(char.isalpha() and char >= "\u0386" for char in letters) or any(
            char.islower() and after.isupper() for char, after in pairwise(decoded)
        ):
            continue
        score = sum(char.lower() in frequent for char in letters) / len(letters)
        if score > best_score:
            best, best_score = decoded, score
    return best


def _double_byte(data: bytes) -> str | None:
    chinese, korean, japanese = (_decode(data, name) for name in ("gb18030", "euc-kr", "euc-jp"))
    if japanese and _share(japanese, "\u3041", "\u30fe") > 0.3:
        return japanese
    is_chinese = chinese is not None and _share(chinese, "\u4e00", "\u9fff") == 1
    if (
        korean
        and _share(korean, "\uac00", "\ud7a3") == 1
        and not (is_chinese and _share_of_common_chinese(chinese or "") >= 0.3)
    ):
        return korean
    return chinese if is_chinese else None


def _decode(data: bytes, encoding: str) -> str | None:
    try:
        return _DECODERS[encoding](data)[0]
    except UnicodeDecodeError:
        return None


def _share(text: str, first: str, last: str) -> float:
    """Return the share of the characters beyond ASCII that lie between `first` and `last`."""
    foreign = [char for char in text if ord(char) > 0x7F]
    return sum(first <= char <= last for char in foreign) / len(foreign) if foreign else 0.0


def _share_of_common_chinese(text: str) -> float:
    foreign = [char for char in text if ord(char) > 0x7F]
    return sum(char in _COMMON_CHINESE for char in foreign) / max(1, len(foreign))
