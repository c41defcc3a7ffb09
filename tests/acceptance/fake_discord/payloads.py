"""Reading and judging what a bot sends as a message, as strictly as Discord does where it matters here."""

from __future__ import annotations

import json
import re
from typing import Any

from aiohttp import web

from tests.acceptance.fake_discord.state import COMPONENTS_V2, MIB, Attachment, Json, Message

REQUEST_LIMIT_BYTES = 25 * MIB


class Refused(Exception):
    """Becomes an error answer."""

    def __init__(self, status: int, code: int, message: str) -> None:
        super().__init__(message)
        self.status, self.code, self.message = status, code, message


def bad_form(message: str) -> Refused:
    return Refused(400, 50035, f"Invalid Form Body: {message}")


async def read(request: web.Request) -> tuple[Json, list[Attachment]]:
    """(payload, new files in their order)."""
    if not request.content_type.startswith("multipart/"):
        body = await request.text()
        return (json.loads(body) if body else {}), []
    payload: Json = {}
    files: dict[int, Attachment] = {}
    reader = await request.multipart()
    while (part := await reader.next()) is not None:
        name: Any = getattr(part, "name", None)
        data: bytes = await part.read()  # type: ignore[union-attr]
        if name == "payload_json":
            payload = json.loads(data)
        elif found := re.fullmatch(r"files\[(\d+)\]", name or ""):
            files[int(found.group(1))] = Attachment(
                filename=getattr(part, "filename", None) or "file", data=data, content_type="application/octet-stream"
            )
    return payload, [files[index] for index in sorted(files)]


def check_sizes(files: list[Attachment], limit_bytes: int) -> None:
    if any(len(file.data) > limit_bytes for file in files) or sum(len(f.data) for f in files) > REQUEST_LIMIT_BYTES:
        raise Refused(413, 40005, "Request entity too large")


def apply(message: Message, payload: Json, files: list[Attachment], limit_bytes: int) -> None:
    """Write the payload into the message, or raise `Refused` and leave it as it was."""
    check_sizes(files, limit_bytes)
    flags = message.flags | (int(payload.get("flags") or 0) & COMPONENTS_V2)
    content = payload["content"] or "" if "content" in payload else message.content
    components = payload["components"] or [] if "components" in payload else message.components
    embeds = payload["embeds"] or [] if "embeds" in payload else message.embeds
    attachments = message.attachments
    if "attachments" in payload:
        named = payload["attachments"] or []
        kept = {str(a.id): a for a in message.attachments}
        attachments = []
        for entry in named:
            new = int(entry["id"]) if str(entry["id"]) not in kept else None
            if new is not None and new >= len(files):
                raise bad_form(f"attachment {entry['id']} is not there")
            attachments.append(files[new] if new is not None else kept[str(entry["id"])])
    elif files:
        attachments = [*message.attachments, *files]
    if len(attachments) > 10:
        raise bad_form("more than 10 attachments")
    check(bool(flags & COMPONENTS_V2), content, components, embeds, attachments)
    message.flags, message.content, message.embeds = flags, content, embeds
    message.components, message.attachments = _numbered(components), attachments
    message.allowed_mentions = payload.get("allowed_mentions") or {}


def check(v2: bool, content: str, components: list[Json], embeds: list[Json], attachments: list[Attachment]) -> None:
    parts = list(_walk(components))
    if v2:
        if content or embeds:
            raise bad_form("content and embeds cannot be used with components V2")
        if not components:
            raise Refused(400, 50006, "Cannot send an empty message")
        if sum(len(part["content"]) for part in parts if part["type"] == 10) > 4000:
            raise bad_form("more than 4000 characters of text")
        if len(parts) > 40:
            raise bad_form("more than 40 components")
    else:
        if any(part["type"] not in (1, 2, 3) for part in parts):
            raise bad_form("components V2 without the flag")
        if not (content or embeds or attachments or components):
            raise Refused(400, 50006, "Cannot send an empty message")
        if len(content) > 2000:
            raise bad_form("content is longer than 2000")
    names = {attachment.filename for attachment in attachments}
    seen: set[str] = set()
    for part in parts:
        if part["type"] == 1 and not 1 <= len(part.get("components", [])) <= 5:
            raise bad_form("a row holds one to five buttons")
        if part["type"] == 10 and not part["content"]:
            raise bad_form("empty text")
        if part["type"] == 2:
            _check_button(part, seen)
        if part["type"] == 12:
            for item in part["items"]:
                url = item["media"]["url"]
                if url.startswith("attachment://") and url.removeprefix("attachment://") not in names:
                    raise bad_form(f"{url} is not attached")


def _check_button(part: Json, seen: set[str]) -> None:
    if not (part.get("label") or part.get("emoji")) or len(part.get("label") or "") > 80:
        raise bad_form("a button needs a label of at most 80 characters")
    if part["style"] == 5:
        url = part["url"]
        if len(url) > 512 or not re.match(r"https?://[\w.:\[\]-]+", url):
            raise bad_form("not a well formed URL, or longer than 512")
    else:
        if not 1 <= len(part["custom_id"]) <= 100 or part["custom_id"] in seen:
            raise bad_form("custom_id: 1 to 100 characters, no two the same")
        seen.add(part["custom_id"])


def _walk(components: list[Json]) -> list[Json]:
    found: list[Json] = []
    for part in components:
        found.append(part)
        found += _walk(part.get("components", []))
        if "accessory" in part:
            found += _walk([part["accessory"]])
    return found


def _numbered(components: list[Json]) -> list[Json]:
    """Discord gives every component a number, and resolves the pictures of galleries."""
    for number, part in enumerate(_walk(components), start=1):
        part["id"] = number
        for item in part.get("items", []):
            media = item["media"]
            item["media"] = {"proxy_url": media["url"], "width": 1, "height": 1, "content_type": "image/png"} | media
    return components
