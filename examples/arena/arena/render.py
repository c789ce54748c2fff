"""Small pictures of a world."""

from __future__ import annotations

import io
import zlib
from collections.abc import Sequence

from PIL import Image, ImageDraw

from arena.models import Body, WorldMap

FLOOR, WALL, GOLD, WHITE = (236, 232, 220), (90, 84, 78), (214, 168, 32), (255, 255, 255)


def minimap(world_map: WorldMap, bodies: Sequence[Body], focus: str = "", size: int = 64) -> bytes:
    """A square PNG of ``size`` pixels: walls, chests, a dot for each player, a ring around ``focus``."""
    picture = Image.new("RGB", (size, size), FLOOR)
    pen = ImageDraw.Draw(picture)
    scale = size / max(world_map.width, world_map.height)
    for row, cells in enumerate(world_map.rows):
        for column, cell in enumerate(cells):
            if cell == "#":
                pen.rectangle(_box(column, row, column + 1, row + 1, scale), fill=WALL)
    for chest in world_map.chests:
        pen.rectangle(_box(chest.x - 0.3, chest.y - 0.3, chest.x + 0.3, chest.y + 0.3, scale), fill=GOLD)
    for body in bodies:
        box = _box(body.x - 0.5, body.y - 0.5, body.x + 0.5, body.y + 0.5, scale)
        pen.ellipse(box, fill=_colour(body.player), outline=WHITE if body.player == focus else None)
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


def _box(left: float, top: float, right: float, bottom: float, scale: float) -> tuple[int, int, int, int]:
    return round(left * scale), round(top * scale), round(right * scale), round(bottom * scale)


def _colour(player: str) -> tuple[int, int, int]:
    red, green, blue, _ = zlib.crc32(player.encode()).to_bytes(4, "big")
    return red // 2 + 40, green // 2 + 40, blue // 2 + 40
