"""A comparison of models in Discord: files without names, a choice, and the whole song with the winner."""

from __future__ import annotations

import pytest

from tests.acceptance.conftest import SONG, Stage
from tests.fakes.discord import Message

pytestmark = pytest.mark.asyncio(loop_scope="module")
MODELS = ("htdemucs", "hdemucs_mmi")


async def compared(stage: Stage) -> tuple[Message, Message]:
    """Return the card of a comparison that Ann has started, and the message with its files."""
    before = len(stage.fake.mentions_of(stage.ann.user))
    first = await stage.ann.answered(await stage.ann.slash(stage.songs, "stemify", file=SONG))
    await stage.until(lambda: len(stage.fake.mentions_of(stage.ann.user)) > before, "the stems")
    asked = await stage.ann.press(await stage.more(stage.ann, first), "Try models on 30 s…")
    with pytest.raises(ValueError, match="models has no option"):
        await stage.ann.fill(asked, models="htdemucs")
    card = await stage.ann.answered(await stage.ann.fill(asked, models="\n".join(MODELS)))
    await stage.shows(card, "Press the letter of the best one")
    await stage.until(lambda: len(stage.fake.mentions_of(stage.ann.user)) > before + 1, "the files")
    return card, stage.fake.mentions_of(stage.ann.user)[-1]


async def test_comparison_attaches_one_file_per_model_without_names(stage: Stage) -> None:
    card, message = await compared(stage)
    assert "comparison of models" in message.text and len(message.attachments) == 2
    for each in (card, message):
        assert [button["label"] for button in each.buttons()][:2] == ["A", "B"]
    for each in (card, message):
        shown = f"{each.text} {[(file.filename, file.description) for file in each.attachments]}"
        assert not [name for name in MODELS if name in shown], shown


async def test_choice_names_the_models_and_separates_with_the_winner(stage: Stage) -> None:
    card, _ = await compared(stage)
    await stage.bot.stop()
    await stage.bot.start()
    chosen = await stage.ann.press(card, "B")
    assert "You chose B, which is **htdemucs**." in await stage.private(chosen)
    assert "A: hdemucs_mmi" in chosen.answer.text
    whole = await stage.ann.answered(await stage.ann.press(chosen.answer, "Separate the whole song with htdemucs"))
    await stage.shows(whole, "4 stems ·")


async def test_others_may_choose_but_not_separate(stage: Stage) -> None:
    _, message = await compared(stage)
    chosen = await stage.bob.press(message, "A")
    assert "hdemucs_mmi" in await stage.private(chosen)
    assert chosen.answer.buttons() == []
