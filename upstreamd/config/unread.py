"""What stands for a value that could not be read, so that the rules about the others can be asked all the same."""

from __future__ import annotations

from typing import Any, NoReturn


class UnreadError(Exception):
    """A rule has asked for a value that could not be read, and so has no answer."""


class _Unread:
    """Tells nothing: whatever is asked of it raises UnreadError."""

    __slots__ = ()

    def _nothing(self, *_: object) -> NoReturn:
        raise UnreadError

    __bool__ = __len__ = __iter__ = __contains__ = __getattr__ = __fspath__ = _nothing
    __eq__ = __ne__ = __lt__ = __le__ = __gt__ = __ge__ = __hash__ = _nothing
    __str__ = __repr__ = __format__ = __mul__ = _nothing


UNREAD: Any = _Unread()
