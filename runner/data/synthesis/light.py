"""Light and texture: shadows of everything that has a height, crowns of trees, grain, blur.

The arrays hold integers, so that the pixels are the same on every processor.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from runner.data.synthesis.canvas import SIDE_PX
from runner.data.synthesis.scene import Tree

Pixels = NDArray[np.uint8]
Heights = NDArray[np.int16]

_CONTRAST = np.array([97 + (level - 100) * 19 // 16 for level in range(256)], np.int16)
_STEP_PX = 1.7
_REACH_PX = 46
"""Longer shadows are cut off. Each step costs the same time, and few shadows are longer."""
_LEAF = (71, 88, 56)
_SKY_LIGHT = (42, 47, 55)
"""What is left of 128 parts of red, green and blue in shadow, where only the blue sky gives light."""


@dataclass(frozen=True)
class Relief:
    """Heights and shadows of a scene.

    Attributes:
        crowns: the height of trees at each pixel, in pixels; 0 where there is none.
        shade: how much of each pixel lies in shadow, from 0 to 255.
        shadow: the direction in which shadows fall.
    """

    crowns: Heights
    shade: Pixels
    shadow: complex

    @classmethod
    def lit(cls, built: Image.Image, trees: Sequence[Tree], shadow: complex, shadow_length: float) -> "Relief":
        """The relief of trees and buildings.

        Args:
            built: the heights of buildings, in pixels.
            shadow, shadow_length: those of the Scene.
        """
        crowns = _crowns(trees)
        return cls(crowns, _shade(np.maximum(np.asarray(built, np.int16), crowns), shadow, shadow_length), shadow)


@cache
def _crown(radius: int) -> Heights:
    """The heights of a tree: a dome, with smaller domes on it for boughs."""
    side = 2 * radius + 1
    # Position and height of boughs are in parts of the radius: offsets in elevenths, sizes in sixteenths.
    y, x = np.mgrid[:side, :side].astype(np.int64) - radius
    dome = np.zeros((side, side), np.int16)
    boughs = ((0, 0, 16), (-5, -4, 10), (6, -3, 9), (3, 6, 10), (-5, 5, 9))
    for dx, dy, share in boughs:
        reach = radius * share / 16
        square = reach * reach - (x - dx * radius / 11) ** 2 - (y - dy * radius / 11) ** 2
        bump = np.sqrt(np.maximum(square, 0)) * 0.75 + (square > 0) * (1 if share == 16 else 4)
        dome = np.maximum(dome, bump.astype(np.int16))
    return dome


def _crowns(trees: Sequence[Tree]) -> Heights:
    # The margin is wider than the radius of any crown, so that trees at the edge need no special case.
    margin = 20
    field = np.zeros((SIDE_PX + 2 * margin, SIDE_PX + 2 * margin), np.int16)
    for tree in trees:
        crown = _crown(tree.radius)
        left = int(tree.at.real) + margin - tree.radius
        top = int(tree.at.imag) + margin - tree.radius
        side = len(crown)
        if 0 <= left <= len(field) - side and 0 <= top <= len(field) - side:
            place = field[top : top + side, left : left + side]
            np.maximum(place, crown, out=place)
    return field[margin:-margin, margin:-margin]


def _shade(heights: Heights, shadow: complex, shadow_length: float) -> Pixels:
    """255 where something between a pixel and the sun is higher than the ray of light there, else 0, blurred."""
    # In sixteenths of a pixel. `light` is the height below which a pixel gets no sun; it drops with the distance.
    scaled = heights * 16
    light = np.zeros_like(scaled)
    for step in range(1, int(_REACH_PX / _STEP_PX) + 1):
        way = step * _STEP_PX
        dx, dy = round(shadow.real * way), round(shadow.imag * way)
        drop = int(16 * way / shadow_length)
        there, here = _shifted(dx, dy)
        np.maximum(light[there], scaled[here] - drop, out=light[there])
    dark = (light > scaled + 8).astype(np.uint8) * 255
    return np.asarray(Image.fromarray(dark).filter(ImageFilter.BoxBlur(1)), np.uint8)


def _shifted(dx: int, dy: int) -> tuple[tuple[slice, slice], tuple[slice, slice]]:
    """The slices of all pixels that have a neighbour at (-dx, -dy), and of these neighbours."""

    def ends(shift: int) -> tuple[slice, slice]:
        low, high = max(0, shift), SIDE_PX + min(0, shift)
        return slice(low, high), slice(low - shift, high - shift)

    (there_x, here_x), (there_y, here_y) = ends(dx), ends(dy)
    return (there_y, there_x), (here_y, here_x)


def _noise(rng: np.random.Generator, cells: int) -> Heights:
    """Smooth noise from -128 to 127: `cells` bumps across the picture, over a few broad patches."""
    lattice = rng.integers(0, 180, (cells, cells), np.uint8)
    patches = Image.fromarray(rng.integers(0, 56, (14, 14), np.uint8))
    # Bicubic resizing overshoots by less than a half, so the sum stays below 256.
    bumps = lattice + np.asarray(patches.resize((cells, cells), Image.Resampling.BICUBIC))
    return np.asarray(Image.fromarray(bumps).resize((SIDE_PX, SIDE_PX), Image.Resampling.BICUBIC), np.int16) - 128


def develop(rng: np.random.Generator, colour: Image.Image, roughness: Image.Image, relief: Relief) -> Image.Image:
    """Turns flat colours into a satellite picture: adds trees, texture, shadows, blur and noise."""
    bumps = _noise(rng, 260) + _noise(rng, 90)
    texture = np.asarray(roughness, np.int16) * (bumps >> 2) >> 8
    leaves = relief.crowns > 0
    leaf_light = _leaf_light(relief, bumps)
    shade = relief.shade.astype(np.int16)
    grain = rng.integers(-5, 6, (SIDE_PX, SIDE_PX), np.int16)

    # All products fit into int16.
    bands = []
    for band, leaf, sky in zip(colour.split(), _LEAF, _SKY_LIGHT, strict=True):
        level = np.where(leaves, leaf * leaf_light >> 7, np.asarray(band, np.int16) + texture)
        level = np.clip(level, 0, 255) * (128 - ((128 - sky) * shade >> 8)) >> 7
        level = _CONTRAST[_softened(level)] + grain
        bands.append(Image.fromarray(np.clip(level, 0, 255).astype(np.uint8)))

    return Image.merge("RGB", bands)


def _leaf_light(relief: Relief, texture: Heights) -> Heights:
    """The brightness of crowns, in parts of 128: more for high boughs, and for slopes that face the sun."""
    # The difference to the height two pixels further away from the sun: positive on slopes that face away.
    crowns = relief.crowns
    there, here = _shifted(round(-2 * relief.shadow.real), round(-2 * relief.shadow.imag))
    slope = np.zeros_like(crowns)
    slope[there] = crowns[there] - crowns[here]
    light = 90 + crowns * 4 - np.clip(slope, -8, 8) * 8 + (texture >> 2)
    return np.clip(light, 26, 254)


def _softened(level: Heights) -> Heights:
    """Blurs with the weights 1 2 1 in both directions. The outermost pixels stay as they are."""
    # The 2 rounds to the nearest integer: + binds tighter than >>.
    rows = level.copy()
    rows[1:-1] = level[:-2] + 2 * level[1:-1] + level[2:] + 2 >> 2
    soft = rows.copy()
    soft[:, 1:-1] = rows[:, :-2] + 2 * rows[:, 1:-1] + rows[:, 2:] + 2 >> 2
    return soft
