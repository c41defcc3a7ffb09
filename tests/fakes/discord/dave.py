"""The end-to-end encryption of a voice channel (DAVE): the gateway's part, and another member who listens.

The member is a session of davey. The gateway proposes to add it to the bot's group, which is MLS (RFC 9420), and passes
on what the bot commits.
"""

from __future__ import annotations

import struct

import davey
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

VERSION = 1
EXTERNAL_SENDER, KEY_PACKAGE, PROPOSALS, COMMIT_WELCOME, ANNOUNCE_COMMIT = 25, 26, 27, 28, 29
MARKER = b"\xfa\xfa"  # ends an encrypted frame
TRANSITION_ID = 1
_MLS_MESSAGE = b"\0\1\0\1"  # version 1.0, public message
_EXTERNAL, _PROPOSAL, _ADD, _APPEND = 2, 2, 1, 0


class DaveGroup:
    """The group of a bot and one listener."""

    def __init__(self, *, bot_id: int, listener_id: int, channel_id: int) -> None:
        self._bot_id, self._channel_id = bot_id, channel_id
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._listener = davey.DaveSession(VERSION, listener_id, channel_id)
        self._key_package = self._listener.get_serialized_key_package()
        self._listener.set_external_sender(self.external_sender)

    @property
    def external_sender(self) -> bytes:
        """The gateway as a sender of proposals."""
        point = self._key.public_key().public_bytes(
            serialization.Encoding.X962, serialization.PublicFormat.UncompressedPoint
        )
        return _vector(point) + struct.pack(">H", 1) + _vector(b"")

    @property
    def proposals(self) -> bytes:
        """The proposal to add the listener, signed by the gateway."""
        content = _vector(struct.pack(">Q", self._channel_id)) + struct.pack(">QBI", 0, _EXTERNAL, 0) + _vector(b"")
        content += struct.pack(">BH", _PROPOSAL, _ADD) + self._key_package
        signed = _vector(b"MLS 1.0 FramedContentTBS") + _vector(_MLS_MESSAGE + content)
        message = _MLS_MESSAGE + content + _vector(self._key.sign(signed, ec.ECDSA(hashes.SHA256())))
        return bytes([_APPEND]) + _vector(message)

    def commit(self, commit_and_welcome: bytes) -> bytes:
        """Let the listener join with the welcome; return the commit."""
        size = _commit_size(commit_and_welcome)
        self._listener.process_welcome(commit_and_welcome[size:])
        return commit_and_welcome[:size]

    def decrypt(self, frame: bytes) -> bytes:
        """Return the Opus frame that the listener decrypts. Raises what davey raises."""
        return self._listener.decrypt(self._bot_id, davey.MediaType.audio, frame)


def _commit_size(data: bytes) -> int:
    """Return the size of a commit without a path, which a welcome follows."""
    at = _after_vector(data, 4)  # the group
    at = _after_vector(data, at + 8 + 5) + 1  # epoch, sender, authenticated data, content type
    at = _after_vector(data, at)  # proposals
    assert data[at] == 0, "the commit has a path"
    at += 1
    for _ in range(3):  # signature, confirmation tag, membership tag
        at = _after_vector(data, at)
    return at


def _vector(data: bytes) -> bytes:
    """Return data with its length before it, as MLS writes it."""
    size = len(data)
    if size < 1 << 6:
        return bytes([size]) + data
    return struct.pack(">H", size | 1 << 14) + data if size < 1 << 14 else struct.pack(">I", size | 1 << 31) + data


def _after_vector(data: bytes, at: int) -> int:
    """Return where the vector ends that begins at `at`."""
    width = 1 << (data[at] >> 6)
    return at + width + (int.from_bytes(data[at : at + width]) & ((1 << (8 * width - 2)) - 1))
