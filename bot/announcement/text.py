"""What users read in the messages with stems and mixes."""

from __future__ import annotations

from collections.abc import Sequence

from bot.cards.failures import failure_text
from bot.links import with_public_links
from bot.text import clean, counted, escape, file_label, join_words, size
from engine.jobs.job import JobStatus, JobView

MORE_STEMS = "More stems"
MIX_IN_PROGRESS = "This mix is being made and will be posted here in a few seconds."
MIX_TOO_LARGE = "This mix is too large to attach here."
POSTING = "Posting the file…"
_LINKS_LENGTH = 1500  # of the 2000 characters of a message


def announcement(
    view: JobView,
    user_id: int | None,
    *,
    shown: bool = True,
    left_out: Sequence[str] = (),
    limit_bytes: int = 0,
    bit_rate: int | None = None,
) -> str:
    """Return the text that mentions the requester, if `user_id` is given.

    `shown`: the final card is there; `left_out`: the stems that are too large to attach; `bit_rate`: of attached copies
    that are smaller than the stems.
    """
    view, job = with_public_links(view), view.job
    mention = "" if user_id is None else f"<@{user_id}> your "
    if job.status is JobStatus.FAILED:
        reason = "Its card says why." if shown else failure_text(job)
        return f"<@{user_id}> **{escape(job.title)}** could not be separated. {reason}"
    title = f"**{escape(job.title)}**"
    compared = f"comparison of models for {title} is ready. Press the letter of the best one."
    text = mention + (f"stems of {title} are ready." if job.options.comparison is None else compared)
    text = text[0].upper() + text[1:]
    if bit_rate is not None:
        text += f" Attached at {bit_rate // 1000} kbit/s"
        text += "; full quality by the links on the card." if view.links else "."
    return text + _left_out_text(view, left_out, limit_bytes)


def announcement_without_title(view: JobView, user_id: int | None) -> str:
    """Return the text for channels in which Discord blocks the title or the links."""
    if user_id is None:
        return "The stems of a song are ready."
    is_failed = view.job.status is JobStatus.FAILED
    if view.job.options.comparison is not None and not is_failed:
        return f"<@{user_id}> your comparison of models is ready."
    return f"<@{user_id}> your song could not be separated." if is_failed else f"<@{user_id}> your stems are ready."


def mix(name: str, bit_rate: int | None) -> str:
    """Return the text of a message with a mix; `bit_rate`: of a copy that is smaller than the mix."""
    return f"**{escape(name, 150)}**" + (f" · {bit_rate // 1000} kbit/s" if bit_rate is not None else "")


def _left_out_text(view: JobView, left_out: Sequence[str], limit_bytes: int) -> str:
    """Return a sentence that names stems with their links, or nothing."""
    if not left_out:
        return ""
    urls = {link.name: link.url for link in view.links}
    names = [file_label(name) for name in left_out]
    linked = [f"[{file_label(name)}](<{urls[name]}>)" for name in left_out if name in urls]
    are_linked = len(linked) == len(names) and sum(map(len, linked)) <= _LINKS_LENGTH
    verb = counted(len(left_out), one="is", other="are")
    most = f" ({size(limit_bytes)} at most)" if limit_bytes else ""
    where = ": use the links on the card." if view.links and not are_linked else "."
    return f" {join_words(linked if are_linked else names)} {verb} too large to attach here{most}{where}"


def more_stems(view: JobView, left_out: Sequence[str] = ()) -> str:
    """Return the text of a further message with stems; `left_out`: stems too large to attach."""
    return f"More of **{escape(view.job.title)}**" + _left_out_text(with_public_links(view), left_out, 0)


def file_description(name: str, title: str) -> str:
    """Return the alternative text of an attached file; `title` may be empty."""
    return f"{file_label(name)} of {clean(title)}" if title else file_label(name)
