"""File types that the decoder reads: FFmpeg's demuxers, and the file name extensions of each."""

from __future__ import annotations

EXTENSIONS_BY_DEMUXER: dict[str, tuple[str, ...]] = {
    "mp3": (".mp3", ".mp2"),
    "wav": (".wav",),
    "w64": (".w64",),
    "flac": (".flac",),
    "ogg": (".ogg", ".oga", ".opus"),
    "mov": (".m4a", ".m4b", ".m4r", ".mp4", ".m4v", ".mov", ".3gp", ".3g2"),
    "matroska": (".webm", ".weba", ".mka", ".mkv"),
    "aac": (".aac",),
    "aiff": (".aiff", ".aif", ".aifc"),
    "caf": (".caf",),
}

DEMUXERS = tuple(EXTENSIONS_BY_DEMUXER)

EXTENSIONS = tuple(extension for extensions in EXTENSIONS_BY_DEMUXER.values() for extension in extensions)
"""Every extension of a readable file, in lower case with its dot."""
