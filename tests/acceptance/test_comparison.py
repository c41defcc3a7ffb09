"""A comparison of models in Discord: files without names, a choice, and the whole song with the winner."""

from __future__ import annotations

import pytest

from tests.acceptance.conftest import COMPARED, Stage

pytestmark = pytest.mark.asyncio(loop_scope="module")


async def test_comparison_attaches_one_file_per_model_without_names(stage: Stage) -> None:
    card, message = await stage.compare()
    assert "comparison of models" in message.text and len(message.attachments) == 2
    for each in (card, message):
        assert [button["label"] for button in each.buttons()][:2] == ["A", "B"]
    for each in (card, message):
        shown = f"{each.text} {[(file.filename, file.description) for file in each.attachments]}"
        assert not [name for name in COMPARED if name in shown], shown


async def test_choice_names_the_models_and_separates_with_the_winner(stage: Stage) -> None:
    card, _ = await stage.compare()
    await stage.bot.stop()
    await stage.bot.start()
    chosen = await stage.ann.press(card, "B")
    assert "You chose B, which is **htdemucs**." in await stage.private(chosen)
    assert "A: hdemucs_mmi" in chosen.answer.text
    whole = await stage.ann.answered(await stage.ann.press(chosen.answer, "Separate the whole song with htdemucs"))
    await stage.shows(whole, "4 stems ·")


async def test_others_may_choose_but_not_separate(stage: Stage) -> None:
    _, message = await stage.compare()
    chosen = await stage.bob.press(message, "A")
    assert "hdemucs_mmi" in await stage.private(chosen)
    assert chosen.answer.buttons() == []
