"""Convert docstrings written for ``help()`` and doctest to what the API pages need."""

import re
from typing import Any

from griffe import Extension, Object

__all__ = ["DocstringsForMarkdown"]

_SEVERAL = re.compile(r"^    (?P<names>[a-z_]\w*(?:, [a-z_]\w*)+):(?P<text>.*(?:\n {8}.*)*)", re.MULTILINE)
_ERRORS = re.compile(r"^    [A-Z]\w*(?:, [A-Z]\w*)+:", re.MULTILINE)
_QUOTE = re.compile(r"(?<=: )> ")
_EXAMPLE = re.compile(r"^Example:\n(?P<body>(?: .*\n?|\n)+)", re.MULTILINE)


class DocstringsForMarkdown(Extension):
    """Shows ``Example:`` as code, a final ``::`` as a colon, several arguments one by one, several errors as one.

    And a description such as ``> 0`` as text: to Markdown it is a quotation.
    """

    def on_object(self, *, obj: Object, **_: Any) -> None:
        """Rewrite the docstring of a module, class, function or attribute before griffe reads it."""
        if obj.docstring is not None:
            text = re.sub(r"::$", ":", obj.docstring.value, flags=re.MULTILINE)
            text = _QUOTE.sub(r"\\> ", text)
            text = _ERRORS.sub(lambda match: match[0].replace(", ", " | "), text)
            obj.docstring.value = _EXAMPLE.sub(_as_code, _SEVERAL.sub(_as_several, text))


def _as_several(match: re.Match[str]) -> str:
    return "\n".join(f"    {name}:{match['text']}" for name in match["names"].split(", "))


def _as_code(match: re.Match[str]) -> str:
    body = match["body"]
    if ">>>" not in body:
        body = f"    ```python\n{body.rstrip()}\n    ```\n"
    return f"Examples:\n{body}"
