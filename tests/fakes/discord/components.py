"""Discord's limits on message components and modals."""

from __future__ import annotations

import re

from tests.fakes.discord.forms import Form
from tests.fakes.discord.state import Json

ROW, BUTTON, STRING_SELECT, TEXT_INPUT, SECTION, TEXT, THUMBNAIL, GALLERY, FILE, SEPARATOR = (
    1,
    2,
    3,
    4,
    9,
    10,
    11,
    12,
    13,
    14,
)
CONTAINER, LABEL, FILE_UPLOAD, RADIO_GROUP, CHECKBOX_GROUP, CHECKBOX = 17, 18, 19, 21, 22, 23
SELECTS = (3, 5, 6, 7, 8)
CLASSIC = (ROW, BUTTON, *SELECTS)
CHILDREN = {
    ROW: (BUTTON, *SELECTS),
    SECTION: (TEXT,),
    CONTAINER: (ROW, TEXT, SECTION, GALLERY, SEPARATOR, FILE),
}
IN_LABELS = (TEXT_INPUT, *SELECTS, FILE_UPLOAD, RADIO_GROUP, CHECKBOX_GROUP, CHECKBOX)
TOP_LEVEL = (ROW, SECTION, TEXT, GALLERY, FILE, SEPARATOR, CONTAINER)


def walk(components: list[Json]) -> list[Json]:
    found: list[Json] = []
    for part in components:
        found.append(part)
        found += walk(part.get("components", []))
        if "accessory" in part:
            found += walk([part["accessory"]])
    return found


def check_components(form: Form, components: list[Json], *, v2: bool, names: set[str]) -> None:
    """Check the components of a message with the attached files `names`."""
    parts = walk(components)
    if v2:
        if len(parts) > 40:
            form.fail("components", "COMPONENT_MAX_TOTAL_EXCEEDED", "The maximum number of components is 40.")
        if sum(len(part["content"]) for part in parts if part["type"] == TEXT) > 4000:
            form.fail("components", "COMPONENT_DISPLAYABLE_TEXT_SIZE_EXCEEDED", "Must be 4000 or fewer in length.")
    else:
        form.count("components", components, 0, 5)
    for at, part in enumerate(components):
        form.choice(f"components.{at}.type", part["type"], TOP_LEVEL if v2 else (ROW,))
        _check(form, f"components.{at}", part, names)
    form.unique("components", [part["custom_id"] for part in parts if part.get("custom_id")])


def _check(form: Form, path: str, part: Json, names: set[str]) -> None:
    kind, children = part["type"], part.get("components", [])
    for at, child in enumerate(children):
        form.choice(f"{path}.components.{at}.type", child["type"], CHILDREN.get(kind, ()))
        _check(form, f"{path}.components.{at}", child, names)
    if kind == ROW:
        selects = [child for child in children if child["type"] in SELECTS]
        form.count(f"{path}.components", children, 1, 1 if selects else 5)
    elif kind == SECTION:
        form.count(f"{path}.components", children, 1, 3)
        form.choice(f"{path}.accessory.type", part["accessory"]["type"], (BUTTON, THUMBNAIL))
        _check(form, f"{path}.accessory", part["accessory"], names)
    elif kind == CONTAINER:
        form.count(f"{path}.components", children, 1, 40)
        if part.get("accent_color") is not None and not 0 <= part["accent_color"] <= 0xFFFFFF:
            form.fail(f"{path}.accent_color", "NUMBER_TYPE_MAX", "int value should be less than or equal to 16777215.")
    elif kind == TEXT:
        form.length(f"{path}.content", part["content"], 1, 4000)
    elif kind == BUTTON:
        _check_button(form, path, part)
    elif kind == STRING_SELECT:
        _check_select(form, path, part)
    elif kind in (GALLERY, FILE, THUMBNAIL):
        media = (
            [item["media"] for item in part["items"]]
            if kind == GALLERY
            else [part["file" if kind == FILE else "media"]]
        )
        form.count(f"{path}.items", media, 1, 10)
        for item in media:
            _check_media(form, path, item["url"], names, only_attached=kind == FILE)


def _check_media(form: Form, path: str, url: str, names: set[str], *, only_attached: bool) -> None:
    if url.startswith("attachment://"):
        if url.removeprefix("attachment://") not in names:
            form.fail(f"{path}.media.url", "UNFURLED_MEDIA_ITEM_REFERENCED_ATTACHMENT_NOT_FOUND", f"{url} is missing.")
    elif only_attached or not re.match(r"https?://", url):
        form.fail(f"{path}.media.url", "URL_TYPE_INVALID_URL", "Not a well formed URL.")


def _check_button(form: Form, path: str, part: Json) -> None:
    form.choice(f"{path}.style", part["style"], range(1, 7))
    if not part.get("label") and not part.get("emoji"):
        form.fail(f"{path}.label", "BUTTON_COMPONENT_LABEL_OR_EMOJI_REQUIRED", "A button needs a label or an emoji.")
    form.length(f"{path}.label", part.get("label") or "", 0, 80)
    if part["style"] == 5:
        form.length(f"{path}.url", part.get("url"), 1, 512)
        if not re.match(r"https?://(?:[\w-]+\.)+\w+|https?://\[[0-9a-f:]+\]|discord://", part.get("url") or ""):
            form.fail(f"{path}.url", "URL_TYPE_INVALID_URL", "Not a well formed URL.")
        if part.get("custom_id"):
            form.fail(path, "BUTTON_COMPONENT_INVALID_LINK", "A custom id and url cannot both be specified.")
    else:
        form.length(f"{path}.custom_id", part.get("custom_id"), 1, 100)
        if part.get("url"):
            form.fail(path, "BUTTON_COMPONENT_INVALID_LINK", "A custom id and url cannot both be specified.")


def _check_select(form: Form, path: str, part: Json) -> None:
    form.length(f"{path}.custom_id", part.get("custom_id"), 1, 100)
    form.length(f"{path}.placeholder", part.get("placeholder") or "", 0, 150)
    options = part.get("options", [])
    form.count(f"{path}.options", options, 1, 25)
    for at, option in enumerate(options):
        form.length(f"{path}.options.{at}.label", option.get("label"), 1, 100)
        form.length(f"{path}.options.{at}.value", option.get("value"), 1, 100)
        form.length(f"{path}.options.{at}.description", option.get("description") or "", 0, 100)
    form.unique(f"{path}.options", [option.get("value") for option in options])
    least, most = part.get("min_values", 1), part.get("max_values", 1)
    if not 0 <= least <= most <= max(1, len(options)):
        form.fail(f"{path}.max_values", "BASE_TYPE_INVALID", f"min_values {least}, max_values {most}")


def check_modal(form: Form, data: Json) -> None:
    form.length("title", data.get("title"), 1, 45)
    form.length("custom_id", data.get("custom_id"), 1, 100)
    form.count("components", data.get("components", []), 1, 5)
    inner: list[Json] = []
    for at, part in enumerate(data.get("components", [])):
        path = f"components.{at}"
        form.choice(f"{path}.type", part["type"], (ROW, TEXT, LABEL))
        if part["type"] == LABEL:
            form.length(f"{path}.label", part.get("label"), 1, 45)
            form.length(f"{path}.description", part.get("description") or "", 0, 100)
            form.choice(f"{path}.component.type", part["component"]["type"], IN_LABELS)
            inner.append(part["component"])
        elif part["type"] == ROW:
            inner += part["components"]
    for part in inner:
        form.length("components.custom_id", part.get("custom_id"), 1, 100)
        if part["type"] == STRING_SELECT:
            _check_select(form, "components", part)
        if part["type"] == TEXT_INPUT:
            form.choice("components.style", part.get("style"), (1, 2))
            form.length("components.value", part.get("value") or "", 0, 4000)
            form.length("components.placeholder", part.get("placeholder") or "", 0, 100)
    form.unique("components", [part.get("custom_id") for part in inner])
