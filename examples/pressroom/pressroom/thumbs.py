"""Covers: a picture per document, drawn from its title and the statistics of its text."""

from __future__ import annotations

import hashlib
import io
import textwrap
from collections import Counter
from functools import lru_cache

from PIL import Image, ImageDraw, ImageFilter, ImageFont

from pressroom.models import Document, Thumb

SIZES = ((480, 270), (240, 135), (96, 54))
LETTERS = "abcdefghijklmnopqrstuvwxyz"

_CANVAS = (960, 540)  # drawn larger and scaled down: smooth edges
_Colour = tuple[int, int, int]


def covers(document: Document) -> tuple[Thumb, ...]:
    """The document's cover in each of ``SIZES``. The same document gives the same bytes."""
    cover = _draw(document)
    return tuple(
        Thumb(document.slug, width, height, _png(cover.resize((width, height), Image.Resampling.LANCZOS)))
        for width, height in SIZES
    )


def letter_shares(text: str) -> tuple[float, ...]:
    """The share of each letter a-z among all letters of the text, relative to the commonest: 0.0 to 1.0."""
    counts = Counter(text.lower())
    commonest = max((counts[letter] for letter in LETTERS), default=0)
    return tuple(counts[letter] / commonest if commonest else 0.0 for letter in LETTERS)


def _draw(document: Document) -> Image.Image:
    seed = hashlib.sha256(document.title.encode()).digest()
    dark, light = _colours(seed)
    width, height = _CANVAS
    gradient = Image.linear_gradient("L").resize(_CANVAS, Image.Resampling.BILINEAR)
    cover = Image.composite(Image.new("RGB", _CANVAS, dark), Image.new("RGB", _CANVAS, light), gradient)

    glow = Image.new("RGB", _CANVAS, (0, 0, 0))
    lamp = ImageDraw.Draw(glow)
    for number in range(6):
        x, y = seed[number] * width // 255, seed[number + 6] * height // 255
        radius = 60 + seed[number + 12] // 2
        lamp.ellipse((x - radius, y - radius, x + radius, y + radius), fill=_mix(light, (255, 255, 255), number / 6))
    cover = Image.blend(cover, glow.filter(ImageFilter.GaussianBlur(36)), 0.35)

    pen = ImageDraw.Draw(cover, "RGBA")
    bar = width // len(LETTERS)
    for number, share in enumerate(letter_shares(document.text)):
        top = height - 24 - round(share * 200)
        pen.rectangle((number * bar + 6, top, (number + 1) * bar - 2, height - 24), fill=(*light, 190))
    lines = document.text.count("\n")
    words = len(document.text.split())
    pen.text((40, 240), f"{words} words in {lines} lines", font=_font(30), fill=(255, 255, 255, 200))
    title = "\n".join(textwrap.wrap(document.title, 24, max_lines=2, placeholder=" ..."))
    pen.multiline_text((44, 44), title, font=_font(76), fill=(0, 0, 0, 120))
    pen.multiline_text((40, 40), title, font=_font(76), fill=(255, 255, 255, 255))
    return cover


def _colours(seed: bytes) -> tuple[_Colour, _Colour]:
    dark = (seed[20] // 4, seed[21] // 4, 40 + seed[22] // 4)
    light = (96 + seed[23] // 2, 96 + seed[24] // 2, 96 + seed[25] // 2)
    return dark, light


def _mix(one: _Colour, other: _Colour, share: float) -> _Colour:
    red, green, blue = (round(a + (b - a) * share) for a, b in zip(one, other, strict=True))
    return red, green, blue


@lru_cache(maxsize=4)
def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)


def _png(picture: Image.Image) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", compress_level=4)
    return buffer.getvalue()
