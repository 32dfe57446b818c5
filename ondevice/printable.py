"""Texts from outside as a terminal may show them."""

from __future__ import annotations


def printable(text: str) -> str:
    """A text whose characters do not steer a terminal: all but newlines and tabs that are not
    printable (escapes, other control characters, lone surrogates, marks that turn the direction of
    writing) become Python's escapes.
    """
    if text.isascii() and text.replace("\n", "").replace("\t", "").isprintable():
        return text
    return "".join(
        char if char.isprintable() or char in "\n\t" else char.encode("unicode_escape").decode()
        for char in text
    )
