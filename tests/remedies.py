"""Shared by the tests of remedies, which do what a message says, to the letter, and look whether that works."""

import re
from contextlib import AbstractContextManager
from typing import Any

import pytest

__all__ = ["says"]


def says(remedy: str) -> AbstractContextManager[Any]:
    """Expect an error that names the remedy, or a warning, which is an error in tests."""
    return pytest.raises((TypeError, ValueError, RuntimeError, UserWarning), match=re.escape(remedy))
