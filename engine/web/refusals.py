"""What only the web server refuses: leaves of the one tree."""

from __future__ import annotations

from engine.errors import InputRefused, RetryLater, StemifyError


class BadRequest(InputRefused):
    """That request cannot be read. The API's description is at /api/openapi.json."""

    code = "bad_request"


class UnsupportedBody(BadRequest):
    """Send the song as multipart/form-data (field "file"), or a link as application/json ("youtubeUrl")."""

    code = "unsupported_body"


class UnsupportedEncoding(UnsupportedBody):
    """Encoded request bodies are not accepted. Send the body without Content-Encoding or Content-Transfer-Encoding."""

    code = "unsupported_encoding"


class UploadTooSlow(BadRequest):
    """The upload stood still for too long and was given up. Please send the file again."""

    code = "upload_too_slow"


class HeadTooSlow(BadRequest):
    """The request did not arrive in time. Please send it again."""

    code = "request_too_slow"


class HeadTooLarge(BadRequest):
    """The request's address and headers are too large. Send fewer or shorter headers."""

    code = "head_too_large"


class TooManyStreams(RetryLater):
    """Too many pages are watching songs at once from where you are. Close some of them, then load this one again."""

    code = "too_many_streams"


class Unauthorized(StemifyError):
    """This server wants an API token. Send it as "Authorization: Bearer <token>"; whoever runs the server has it."""

    code = "no_token"


class WrongHost(StemifyError):
    """This server is not set up for this address. Open it at the address that it prints when it starts. If you run it
    behind a proxy, set STEMIFY_WEB__PUBLIC_URL to the address that people open."""

    code = "wrong_host"


class CrossSite(StemifyError):
    """Another web site sent this request, so nothing was done. Use Stemify's own page."""

    code = "cross_site"


class PublicUrlMissing(CrossSite):
    """This page was opened at an address that the server is not set up for, so nothing was done. Whoever runs it must
    set STEMIFY_WEB__PUBLIC_URL to the address that people open."""

    code = "public_url_missing"


class LinkInvalid(StemifyError):
    """This link is not complete or was changed. Copy the whole link again."""

    code = "link_invalid"


class LinkExpired(StemifyError):
    """This link has expired. Ask for a fresh one where you got it, or separate the song again."""

    code = "link_expired"


class RangeNotSatisfiable(StemifyError):
    """The file has no such part: it is shorter than that."""

    code = "range_outside"
