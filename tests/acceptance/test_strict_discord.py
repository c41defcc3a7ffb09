"""The fake Discord enforces Discord's limits with Discord's error codes; a violation fails the test."""

from __future__ import annotations

import json
from typing import Any

import aiohttp
import pytest

from tests.fakes.discord import FakeDiscord
from tests.fakes.discord.commands import check_choices, check_commands
from tests.fakes.discord.components import check_modal
from tests.fakes.discord.forms import Form, RequestRejected
from tests.fakes.discord.payloads import apply
from tests.fakes.discord.state import COMPONENTS_V2, MIB, Attachment, Channel, Guild, Message, User

Json = dict[str, Any]


def button(number: int = 0, **changes: Any) -> Json:
    return {"type": 2, "style": 1, "label": "Go", "custom_id": f"b{number}"} | changes


def row(*parts: Json) -> Json:
    return {"type": 1, "components": list(parts)}


def select(**changes: Any) -> Json:
    options = [{"label": "one", "value": "1"}]
    return {"type": 3, "custom_id": "s", "options": options} | changes


def options(count: int) -> list[Json]:
    return [{"label": f"{number}", "value": f"{number}"} for number in range(count)]


def text(length: int) -> Json:
    return {"type": 10, "content": "x" * length}


def link(url: str) -> Json:
    return {"type": 2, "style": 5, "label": "x", "url": url}


def box(*parts: Json) -> Json:
    return {"type": 17, "components": list(parts)}


GALLERY: Json = {"type": 12, "items": [{"media": {"url": "attachment://a.png"}}]}


def sent(payload: Json, files: list[Attachment] | None = None) -> Message:
    message = Message(Channel("songs", Guild("Band")), User("bot", bot=True))
    apply(message, payload, files or [], 10 * MIB)
    return message


V2 = {"flags": COMPONENTS_V2}
ALLOWED: dict[str, Json] = {
    "content": {"content": "x" * 2000},
    "buttons": {"content": "x", "components": [row(*(button(number) for number in range(5)))] * 1},
    "select": {"content": "x", "components": [row(select(options=options(25)))]},
    "layout": V2 | {"components": [{"type": 17, "components": [text(4000)], "accent_color": 0xFFFFFF}]},
    "mentions": {"content": "x", "allowed_mentions": {"parse": ["roles"], "users": ["1"]}},
    "embed": {"embeds": [{"title": "x" * 256, "description": "x" * 4096}]},
}
REFUSED: dict[str, tuple[Json, str]] = {
    "content": ({"content": "x" * 2001}, "content"),
    "empty": ({"content": "  "}, ""),
    "flags": ({"content": "x", "flags": 1 << 13}, "flags"),
    "rows": ({"content": "x", "components": [row(button(number)) for number in range(6)]}, "components"),
    "six buttons": ({"content": "x", "components": [row(*(button(number) for number in range(6)))]}, "components"),
    "empty row": ({"content": "x", "components": [row()]}, "components"),
    "select and button": ({"content": "x", "components": [row(select(), button())]}, "components"),
    "26 options": ({"content": "x", "components": [row(select(options=options(26)))]}, "components"),
    "same options": ({"content": "x", "components": [row(select(options=options(1) * 2))]}, "components"),
    "placeholder": ({"content": "x", "components": [row(select(placeholder="x" * 151))]}, "components"),
    "label": ({"content": "x", "components": [row(button(label="x" * 81))]}, "components"),
    "no label": ({"content": "x", "components": [row(button(label=""))]}, "components"),
    "custom id": ({"content": "x", "components": [row(button(custom_id="x" * 101))]}, "components"),
    "same custom id": ({"content": "x", "components": [row(button(), button())]}, "components"),
    "link and custom id": ({"content": "x", "components": [row(button(url="https://a.b"))]}, "components"),
    "long link": ({"content": "x", "components": [row(link("https://a.b/" + "x" * 512))]}, "components"),
    "localhost": ({"content": "x", "components": [row(link("http://localhost/"))]}, "components"),
    "v2 without flag": ({"content": "x", "components": [text(1)]}, "components"),
    "v2 with content": (V2 | {"content": "x", "components": [text(1)]}, "content"),
    "v2 without components": (V2, ""),
    "long text": (V2 | {"components": [text(2001), text(2000)]}, "components"),
    "empty text": (V2 | {"components": [text(0)]}, "components"),
    "41 components": (V2 | {"components": [text(1)] * 41}, "components"),
    "missing picture": (V2 | {"components": [GALLERY]}, "components"),
    "container in container": (V2 | {"components": [box(box(text(1)))]}, "components"),
    "embed title": ({"embeds": [{"title": "x" * 257}]}, "embeds"),
    "embed fields": ({"embeds": [{"fields": [{"name": "x", "value": "x"}] * 26}]}, "embeds"),
    "embeds in all": ({"embeds": [{"description": "x" * 3001}] * 2}, "embeds"),
    "eleven embeds": ({"embeds": [{"title": "x"}] * 11}, "embeds"),
    "mentions": ({"content": "x", "allowed_mentions": {"parse": ["users"], "users": ["1"]}}, "allowed_mentions"),
    "101 users": ({"content": "x", "allowed_mentions": {"users": ["1"] * 101}}, "allowed_mentions"),
}  # fmt: skip


@pytest.mark.parametrize("name", ALLOWED)
def test_payload_within_limits_is_accepted(name: str) -> None:
    sent(json.loads(json.dumps(ALLOWED[name])))


@pytest.mark.parametrize("name", REFUSED)
def test_payload_over_a_limit_is_refused(name: str) -> None:
    payload, place = REFUSED[name]
    with pytest.raises(RequestRejected) as refused:
        sent(json.loads(json.dumps(payload)))
    assert refused.value.code == (50035 if place else 50006)
    assert list(refused.value.errors or {}) == ([place] if place else [])


def test_eleven_attachments_are_refused() -> None:
    with pytest.raises(RequestRejected, match="attachments"):
        sent({"content": "x"}, [Attachment(f"{number}.mp3", b"1", "audio/mpeg") for number in range(11)])


def test_file_over_the_limit_is_refused_as_40005() -> None:
    with pytest.raises(RequestRejected) as refused:
        sent({"content": "x"}, [Attachment("a.mp3", bytes(10 * MIB + 1), "audio/mpeg")])
    assert (refused.value.status, refused.value.code) == (413, 40005)


COMMAND: Json = {"name": "stemify", "description": "Split", "options": []}


def option(**changes: Any) -> Json:
    return {"name": "file", "description": "A file", "type": 3} | changes


@pytest.mark.parametrize(
    "commands",
    [
        [COMMAND | {"name": "Stemify"}],
        [COMMAND | {"name": "x" * 33}],
        [COMMAND | {"description": ""}],
        [COMMAND | {"description": "x" * 101}],
        [COMMAND, COMMAND],
        [COMMAND | {"options": [option(), option(name="b", required=True)]}],
        [COMMAND | {"options": [option(name=f"o{number}") for number in range(26)]}],
        [COMMAND | {"options": [option(), option()]}],
        [COMMAND | {"options": [option(choices=[{"name": str(n), "value": str(n)} for n in range(26)])]}],
        [COMMAND | {"options": [option(choices=[{"name": "x" * 101, "value": "x"}])]}],
        [COMMAND | {"options": [option(autocomplete=True, choices=[{"name": "x", "value": "x"}])]}],
        [{"name": "x", "type": 3, "description": "not for menus"}],
        [{"name": f"m{number}", "type": 3} for number in range(16)],
        [COMMAND | {"contexts": [3]}],
    ],
)
def test_command_over_a_limit_is_refused(commands: list[Json]) -> None:
    check_commands([COMMAND])
    with pytest.raises(RequestRejected):
        check_commands(commands)


def test_26_autocomplete_choices_are_refused() -> None:
    choices = [{"name": str(number), "value": str(number)} for number in range(26)]
    check_choices(choices[:25])
    with pytest.raises(RequestRejected):
        check_choices(choices)


@pytest.mark.parametrize(
    "changes",
    [{"title": "x" * 46}, {"custom_id": "x" * 101}, {"components": []}, {"components": [{"type": 17}]}],
)
def test_modal_over_a_limit_is_refused(changes: Json) -> None:
    field = {"type": 4, "custom_id": "t", "style": 1}
    modal = {"title": "Split", "custom_id": "m", "components": [{"type": 18, "label": "Name", "component": field}]}
    for data, is_refused in ((modal, False), (modal | changes, True)):
        form = Form()
        check_modal(form, data)
        assert bool(form.errors) == is_refused


async def test_violation_gets_error_tree_and_fails_test() -> None:
    with pytest.raises(AssertionError, match="50035"):
        async with FakeDiscord() as fake:
            url = f"{fake.api_url}/channels/{fake.channel(fake.guild()).id}/messages"
            headers = {"Authorization": f"Bot {fake.bot_token}"}
            async with (
                aiohttp.ClientSession(headers=headers) as session,
                session.post(url, json={"content": "x" * 2001}) as answer,
            ):
                assert answer.status == 400
                body = await answer.json()
            assert body["code"] == 50035 and body["message"] == "Invalid Form Body"
            assert body["errors"]["content"]["_errors"][0]["code"] == "BASE_TYPE_MAX_LENGTH"
