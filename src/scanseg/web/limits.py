"""What one request may cost, and the answer to one that asks for more."""

from __future__ import annotations

import re
from dataclasses import dataclass, fields

from scanseg.contracts import InputError
from scanseg.formats.photos import PhotoLimits


@dataclass(frozen=True)
class ServeLimits:
    """Bounds that hold for every client.

    Args:
        max_bytes: size of an uploaded photo; the rest of a request may take another megabyte.
        max_pixels: width x height of a photo, read from its header before it is decoded.
        max_labels: words of one request, their synonyms and background words included.
        max_characters: of all these words together.
        max_queue: requests that wait while one is worked on; the next is told to come back.
        max_seconds: that a request may wait for its turn, and again that it may be worked on.
        upload_seconds: within which the body of a request must have arrived.
        head_seconds: within which a request's headers must have arrived, and within which a client
            must take in what it is sent.
        max_connections: requests that are being answered at once, uploads included.

    Raises:
        InputError: one is not positive.
    """

    max_bytes: int = 32 * 2**20
    max_pixels: int = 30_000_000
    max_labels: int = 1000
    max_characters: int = 20_000
    max_queue: int = 8
    max_seconds: float = 120.0
    upload_seconds: float = 30.0
    head_seconds: float = 10.0
    max_connections: int = 32

    def __post_init__(self) -> None:
        for field in fields(self):
            if not getattr(self, field.name) > 0:
                raise InputError(f"{field.name} must be positive, not {getattr(self, field.name)}")

    @property
    def body_bytes(self) -> int:
        """Size of a whole request's body: photo, words and the parts' headers."""
        return self.max_bytes + 2**20

    @property
    def field_bytes(self) -> int:
        """Size of one part of a form that is no photo."""
        return 4 * self.max_characters + 1024  # UTF-8 takes up to four bytes for one

    @property
    def photo(self) -> PhotoLimits:
        """Bounds for ``read_photo``."""
        return PhotoLimits(max_pixels=self.max_pixels, max_bytes=self.max_bytes)


_EXAMPLES = re.compile(r"""\[[^]]*\]|\{.*\}|"[^"]*"|(?<!\w)'[^']*'""")


class Refusal(Exception):  # noqa: N818  (an answer, not a fault)
    """A request that is answered with an error.

    Args:
        status: HTTP status.
        error: what is the matter, one line.
        hint: what to do about it.
        retry_after: seconds after which it may work, for 429 and 503.
    """

    def __init__(
        self, status: int, error: str, hint: str = "", *, retry_after: int | None = None
    ) -> None:
        super().__init__(error)
        self.status, self.error, self.hint, self.retry_after = status, error, hint, retry_after

    @classmethod
    def of(cls, status: int, message: str) -> Refusal:
        """From a message such as "the image has 9 pixels: enlarge it", cut at its last colon.

        Colons in brackets or quotes, as in examples, do not count, and a quotation is no hint.
        """
        bare = _EXAMPLES.sub(lambda found: "_" * len(found[0]), message)
        cut = bare.rfind(": ")
        if cut < 0 or not bare[cut + 2 :].strip("_. "):
            return cls(status, message)
        return cls(status, message[:cut], message[cut + 2 :])

    @property
    def body(self) -> dict[str, str]:
        """As JSON: ``error`` and ``hint``."""
        return {"error": self.error, "hint": self.hint}

    @property
    def headers(self) -> dict[str, str]:
        """``Retry-After`` where it may help."""
        return {} if self.retry_after is None else {"retry-after": str(self.retry_after)}
