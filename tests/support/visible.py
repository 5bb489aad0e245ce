"""What a reader sees of a page or a card, and which of its sentences speak of what is not there."""

from __future__ import annotations

import html
import re

# What is drawn, and what are names and commands: their words are those of options and fields.
UNREAD = re.compile(r"<(style|script|svg|pre|code)\b.*?</\1>|<!--.*?-->", re.DOTALL)
PICTURES = re.compile(r"\b(images?|pictures?|photo(?:graph)?s?)\b", re.IGNORECASE)


def visible(page: str) -> str:
    """Return the prose of an HTML page as it is read, a paragraph or cell a line."""
    text = re.sub(r"<[^>]+>", "\n", UNREAD.sub(" ", page))
    return re.sub(r"\s*\n\s*", "\n", html.unescape(text))


def of_pictures(text: str) -> list[str]:
    """Return the lines that speak of images, pictures or photographs."""
    return [line.strip() for line in text.splitlines() if PICTURES.search(line)]


def prose(card: str) -> str:
    """Return a Markdown card without its programs."""
    return re.sub(r"```.*?```", "", card, flags=re.DOTALL)
