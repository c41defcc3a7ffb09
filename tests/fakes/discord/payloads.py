"""Read and check the messages that a bot sends."""

from __future__ import annotations

import json
import re
from typing import Any

from aiohttp import web

from tests.fakes.discord.components import check_components, walk
from tests.fakes.discord.forms import Form, RequestRejected, bad_form
from tests.fakes.discord.state import COMPONENTS_V2, EPHEMERAL, MIB, Attachment, Json, Message

REQUEST_LIMIT_BYTES = 25 * MIB
SUPPRESS_EMBEDS, SUPPRESS_NOTIFICATIONS = 1 << 2, 1 << 12
EMBED_LENGTHS = {"title": 256, "description": 4096, "url": 2048}


async def read(request: web.Request) -> tuple[Json, list[Attachment]]:
    """Return the payload and the new files in order."""
    if not request.content_type.startswith("multipart/"):
        body = await request.text()
        return _parsed(body) if body else {}, []
    payload: Json = {}
    files: dict[int, Attachment] = {}
    reader = await request.multipart()
    received_bytes = 0
    while (part := await reader.next()) is not None:
        name: Any = getattr(part, "name", None)
        data: bytes = await part.read()  # type: ignore[union-attr]
        received_bytes += len(data)
        if name == "payload_json":
            payload = _parsed(data)
        elif found := re.fullmatch(r"files\[(\d+)\]", name or ""):
            filename = getattr(part, "filename", None) or ""
            if not 1 <= len(filename) <= 260 or "/" in filename:
                raise bad_form(f"files.{found[1]}.filename", f"{filename!r} is not a file name")
            files[int(found.group(1))] = Attachment(
                filename=filename, data=data, content_type="application/octet-stream"
            )
    if received_bytes > REQUEST_LIMIT_BYTES:
        raise RequestRejected(413, 40005, "Request entity too large")
    return payload, [files[index] for index in sorted(files)]


def _parsed(body: str | bytes) -> Json:
    try:
        payload = json.loads(body)
    except ValueError:
        raise RequestRejected(400, 50109, "The request body contains invalid JSON.") from None
    if not isinstance(payload, dict):
        raise bad_form("_", "Only dictionaries may be used in a DictType")
    return payload


def apply(message: Message, payload: Json, files: list[Attachment], limit_bytes: int) -> None:
    """Apply the payload to the message, or raise `Refused` and leave the message unchanged."""
    if any(len(file.data) > limit_bytes for file in files):
        raise RequestRejected(413, 40005, "Request entity too large")
    asked_flags = int(payload.get("flags") or 0)
    flags = message.flags | (asked_flags & COMPONENTS_V2)
    content = payload["content"] or "" if "content" in payload else message.content
    components = payload["components"] or [] if "components" in payload else message.components
    embeds = payload["embeds"] or [] if "embeds" in payload else message.embeds
    attachments = message.attachments
    if "attachments" in payload:
        attachments = _named(message, payload["attachments"] or [], files)
    elif files:
        attachments = [*message.attachments, *files]
    form = Form()
    if asked_flags & ~(SUPPRESS_EMBEDS | SUPPRESS_NOTIFICATIONS | COMPONENTS_V2 | EPHEMERAL):
        form.fail("flags", "MESSAGE_FLAGS_INVALID", f"{asked_flags} has flags that a bot cannot set.")
    form.count("attachments", attachments, 0, 10)
    _check_mentions(form, payload.get("allowed_mentions") or {})
    check_message(form, bool(flags & COMPONENTS_V2), content, components, embeds, attachments)
    message.flags, message.content, message.embeds = flags, content, embeds
    message.components, message.attachments = _numbered(components), attachments
    message.allowed_mentions = payload.get("allowed_mentions") or {}


def _named(message: Message, named: list[Json], files: list[Attachment]) -> list[Attachment]:
    """Return the attachments that a payload lists, kept and new."""
    kept = {str(attachment.id): attachment for attachment in message.attachments}
    attachments = []
    for entry in named:
        new = int(entry["id"]) if str(entry["id"]) not in kept else None
        if new is not None and new >= len(files):
            raise bad_form("attachments", f"attachment {entry['id']} is not there")
        if len(entry.get("description") or "") > 1024:
            raise bad_form("attachments.description", "Must be 1024 or fewer in length.")
        attachments.append(files[new] if new is not None else kept[str(entry["id"])])
        if entry.get("description"):
            attachments[-1].description = entry["description"]
    return attachments


def check_message(
    form: Form, v2: bool, content: str, components: list[Json], embeds: list[Json], attachments: list[Attachment]
) -> None:
    """Raise `Refused` if a limit is broken."""
    if v2:
        for name, value in (("content", content), ("embeds", embeds)):
            if value:
                form.fail(name, "MESSAGE_CANNOT_USE_LEGACY_FIELDS_WITH_COMPONENTS_V2", f"{name} cannot be used")
    form.length("content", content, 0, 2000)
    _check_embeds(form, embeds)
    check_components(form, components, v2=v2, names={attachment.filename for attachment in attachments})
    form.done()
    if not components and (v2 or not (content.strip() or embeds or attachments)):
        raise RequestRejected(400, 50006, "Cannot send an empty message")


def _check_mentions(form: Form, allowed: Json) -> None:
    for kind in allowed.get("parse") or []:
        form.choice("allowed_mentions.parse", kind, ("users", "roles", "everyone"))
    for kind in ("users", "roles"):
        ids = allowed.get(kind) or []
        form.count(f"allowed_mentions.{kind}", ids, 0, 100)
        if ids and kind in (allowed.get("parse") or []):
            form.fail("allowed_mentions", "MESSAGE_ALLOWED_MENTIONS_PARSE_EXCLUSIVE", f"parse and {kind} exclude")


def _check_embeds(form: Form, embeds: list[Json]) -> None:
    form.count("embeds", embeds, 0, 10)
    characters = 0
    for at, embed in enumerate(embeds):
        texts = {name: embed.get(name) or "" for name in EMBED_LENGTHS}
        for name, text in texts.items():
            form.length(f"embeds.{at}.{name}", text, 0, EMBED_LENGTHS[name])
        fields = embed.get("fields") or []
        form.count(f"embeds.{at}.fields", fields, 0, 25)
        for number, field in enumerate(fields):
            form.length(f"embeds.{at}.fields.{number}.name", field.get("name"), 1, 256)
            form.length(f"embeds.{at}.fields.{number}.value", field.get("value"), 1, 1024)
        footer, author = (embed.get("footer") or {}).get("text") or "", (embed.get("author") or {}).get("name") or ""
        form.length(f"embeds.{at}.footer.text", footer, 0, 2048)
        form.length(f"embeds.{at}.author.name", author, 0, 256)
        characters += len(texts["title"] + texts["description"] + footer + author)
        characters += sum(len(field.get("name") or "") + len(field.get("value") or "") for field in fields)
    if characters > 6000:
        form.fail("embeds", "MAX_EMBED_SIZE_EXCEEDED", "Embed size exceeds maximum size of 6000")


def _numbered(components: list[Json]) -> list[Json]:
    """Add the numbers of components and the pictures of galleries, as Discord does."""
    for number, part in enumerate(walk(components), start=1):
        part["id"] = number
        for item in part.get("items", []):
            media = item["media"]
            item["media"] = {"proxy_url": media["url"], "width": 1, "height": 1, "content_type": "image/png"} | media
    return components
