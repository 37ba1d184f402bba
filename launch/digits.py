"""Whole numbers as people type them."""

__all__ = ["is_whole_number"]

_MOST = 18  # digits, of what fits into 64 bits: Python refuses to read thousands of them


def is_whole_number(text: str) -> bool:
    """Return whether ``text`` is nothing but ASCII digits, of a number that a computer counts to.

    Example:
        >>> is_whole_number("007"), is_whole_number("-1"), is_whole_number("²"), is_whole_number("9" * 5000)
        (True, False, False, False)
    """
    return text.isascii() and text.isdecimal() and len(text) <= _MOST
