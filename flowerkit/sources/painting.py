"""Pictures of flowers, painted with Pillow: what a species looks like goes in, pixels come out.

What no camera repeats (pose, light, clutter, blur, noise) comes from a random generator. Lengths are
fractions of the picture or of the bloom's radius, so that a state of the generator gives the same scene
at any size. Painted two or three times too large and reduced, for smooth edges.
"""

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

MARKS = ("plain", "eye", "rim", "veins", "spots")
CENTRES = {  # radius, bulge, number of seeds or stamens
    "none": (0.0, 0.0, 0),
    "button": (0.1, 0.05, 9),
    "disc": (0.24, 0.06, 34),
    "cone": (0.3, 0.35, 44),
    "stamens": (0.34, 0.1, 14),
}
GROUNDS = {  # dark, middle, light
    "hedge": ((18, 40, 20), (44, 86, 36), (110, 150, 70)),
    "meadow": ((60, 100, 34), (120, 160, 60), (190, 206, 110)),
    "soil": ((48, 34, 26), (92, 68, 50), (150, 120, 92)),
    "sky": ((110, 150, 200), (160, 196, 230), (228, 236, 240)),
    "shade": ((10, 14, 14), (26, 36, 34), (64, 80, 70)),
    "stone": ((90, 92, 92), (140, 140, 134), (196, 194, 186)),
    "straw": ((120, 96, 50), (176, 148, 88), (222, 204, 150)),
}

_GREENS = (40, 90, 30), (120, 150, 80)  # darkest and lightest leaf


class Form(NamedTuple):
    """How a genus is built. Widths, notches and frills are fractions of the petal's length."""

    name: str
    petals: tuple[int, int]  # of the first and the second species of a pair
    layers: int
    width: float  # half the petal's width
    base: float  # exponents of the outline x**base * (1 - x)**tip: small is blunt, large is pointed
    tip: float
    notch: float = 0.0  # depth of the dent in the tip, as in a primrose
    frill: float = 0.0  # height of the waves along the tip, as in a carnation
    curl: float = 0.0  # sideways sweep of the tip, as in a periwinkle
    lopsided: float = 0.0  # upper petals longer, lower ones shorter, as in a pansy
    cup: float = 0.1  # how high the petal tips rise over the flower's plane; negative: they hang
    centre: str = "button"  # a key of CENTRES
    heads: int = 1  # small blooms on a stem


@dataclass(frozen=True)
class Species:
    """A kind of flower; colours are red, green, blue in 0..255."""

    name: str
    form: Form
    petals: int
    colour: tuple[int, int, int]
    second_colour: tuple[int, int, int]  # of the throat and of the marking
    mark: str  # one of MARKS
    centre_colour: tuple[int, int, int]
    ground: str  # a key of GROUNDS, the usual one; a third of the pictures have another


class _Pose(NamedTuple):
    """Where a bloom is and how it is turned: centre and radius in pixels, angles in radians."""

    centre: np.ndarray
    radius: float
    spin: float
    tilt: float
    lean: float


def paint_flower(kind: Species, *, size: int, rng: np.random.Generator) -> np.ndarray:
    """A picture of `kind` by daylight, with what grows beside it: (size, size, 3) uint8."""
    oversampling = 3 if size <= 128 else 2
    side = size * oversampling
    picture = _paint_ground(kind, side, rng)
    brush = ImageDraw.Draw(picture)
    pose = _draw_pose(kind, side, rng)
    _paint_plants(brush, kind, pose, side, rng)
    _paint_head(brush, kind, pose, rng)
    if rng.random() < 0.25:  # something grows before the bloom
        _paint_blade(brush, side, rng)
    picture = picture.reduce(oversampling)
    if rng.random() < 0.5:
        picture = picture.filter(ImageFilter.GaussianBlur(size * rng.uniform(0.002, 0.011)))
    return _light(picture, rng)


def _paint_ground(kind: Species, side: int, rng: np.random.Generator) -> Image.Image:
    """Out of focus: blobs on a small picture, blurred and enlarged."""
    ground = kind.ground if rng.random() < 0.67 else rng.choice(tuple(GROUNDS))
    shades = np.array(GROUNDS[ground], float) * rng.uniform(0.8, 1.2)
    small = 40
    picture = Image.new("RGB", (small, small), _ink(shades[1]))
    brush = ImageDraw.Draw(picture)
    num = int(rng.integers(12, 30))
    colours = shades[rng.integers(3, size=num)] * rng.uniform(0.8, 1.2, (num, 1))
    _dots(brush, rng.uniform(-4, small + 4, (num, 2)), rng.uniform(1, 9, (num, 2)), colours)
    num = int(rng.integers(0, 5))  # other flowers, far behind
    colours = rng.uniform((130, 50, 50), (255, 220, 230), (num, 3))
    _dots(brush, rng.uniform(0, small, (num, 2)), rng.uniform(1, 3.5, (num, 1)), colours)
    picture = picture.filter(ImageFilter.GaussianBlur(rng.uniform(0.6, 2.5)))
    return picture.resize((side, side), Image.Resampling.BICUBIC)


def _draw_pose(kind: Species, side: int, rng: np.random.Generator) -> _Pose:
    centre = side * (0.5 + rng.normal(0, 0.07, 2).clip(-0.16, 0.16))
    radius = side * rng.uniform(0.18, 0.46)
    spin = rng.normal(0, 0.3) if kind.form.lopsided > 0 else rng.uniform(0, 2 * math.pi)
    return _Pose(centre, radius, spin, math.radians(70) * rng.beta(1.3, 2.0), rng.normal(0, 0.5))


def _paint_plants(brush, kind: Species, pose: _Pose, side: int, rng: np.random.Generator) -> None:
    """Blades, leaves, the stem, buds and other blooms, all behind the main bloom."""
    for _ in range(int(rng.integers(0, 7))):
        _paint_blade(brush, side, rng)
    foot = np.array([rng.uniform(0.2, 0.8), 1.05]) * side
    green = rng.uniform(*_GREENS)
    _paint_curve(brush, foot, pose.centre, 0.025 * side, green, rng)
    for _ in range(int(rng.integers(0, 5))):
        along = foot + rng.uniform(0, 0.9) * (pose.centre - foot)
        _paint_leaf(brush, along, side * rng.uniform(0.15, 0.4), rng)
    for _ in range(rng.choice((0, 0, 1, 2))):
        _paint_bud(brush, kind, rng.uniform(0.1, 0.9, 2) * side, foot, side, rng)
    for _ in range(rng.choice((0, 0, 0, 1, 2))):
        turn = rng.uniform(0, 2 * math.pi)
        away = pose.centre + 0.45 * side * np.array([math.cos(turn), math.sin(turn)])
        _paint_curve(brush, foot, away, 0.02 * side, green, rng)
        behind = _draw_pose(kind, side, rng)
        behind = behind._replace(centre=away, radius=0.55 * behind.radius)
        _paint_head(brush, kind, behind, rng)


def _paint_blade(brush, side: int, rng: np.random.Generator) -> None:
    start = np.array([rng.uniform(-0.1, 1.1), 1.05]) * side
    end = rng.uniform((-0.1, 0.0), (1.1, 0.7)) * side
    _paint_curve(brush, start, end, side * rng.uniform(0.008, 0.03), rng.uniform(*_GREENS), rng)


def _paint_curve(brush, start, end, width: float, colour, rng: np.random.Generator) -> None:
    """A bent stroke that grows thinner: a quadratic Bezier curve, lit from one side."""
    t = np.linspace(0, 1, 9)[:, None]
    bend = (start + end) / 2 + rng.normal(0, 0.12, 2) * np.abs(end - start).max()
    path = (1 - t) ** 2 * start + 2 * t * (1 - t) * bend + t**2 * end
    ahead = 2 * (1 - t) * (bend - start) + 2 * t * (end - bend)
    normal = ahead[:, ::-1] * (-1, 1) / (np.hypot(*ahead.T)[:, None] + 1e-6)
    half = normal * width * (1 - 0.6 * t)
    _fill(brush, np.concatenate([path - half, (path + half)[::-1]]), colour * 0.75)
    _fill(brush, np.concatenate([path - half, (path + 0.2 * half)[::-1]]), colour)


def _paint_leaf(brush, foot, length: float, rng: np.random.Generator) -> None:
    """A leaf that points up, half of it in the light."""
    leaf = Form("leaf", (1, 1), 1, rng.uniform(0.15, 0.3), 0.7, 0.9, curl=rng.normal(0, 0.2))
    pose = _Pose(foot, length, rng.uniform(-math.pi, 0), rng.uniform(0, 0.9), 0.0)
    whole, inner = _project(_petal_outline(leaf) * [[[1, 1]], [[1, 0.86]]], pose)
    green = rng.uniform(*_GREENS)
    _fill(brush, whole, green * 0.7)
    _fill(brush, inner, green)
    _fill(brush, inner[: len(inner) // 2], green * 1.15)


def _paint_bud(brush, kind: Species, place, foot, side: int, rng: np.random.Generator) -> None:
    green = rng.uniform(*_GREENS)
    _paint_curve(brush, foot, place, 0.012 * side, green, rng)
    outline = _petal_outline(Form("bud", (1, 1), 1, 0.34, 0.5, 0.8))
    pose = _Pose(place, side * rng.uniform(0.08, 0.15), rng.normal(-math.pi / 2, 0.4), 0.0, 0.0)
    _fill(brush, _project(outline, pose), np.array(kind.colour) * rng.uniform(0.75, 1))
    _fill(brush, _project(outline * (0.6, 1.05), pose), green)


def _paint_head(brush, kind: Species, pose: _Pose, rng: np.random.Generator) -> None:
    """One bloom, or a head of small ones from the rim to the middle."""
    tint = np.array(kind.colour) * rng.normal(1, 0.08, 3)  # no two plants are quite alike
    blooms = [pose]
    if kind.form.heads > 1:
        places = _spiral(kind.form.heads, 0.8)
        spots = _project(places, pose, 0.5 - 0.5 * (places**2).sum(1))
        small = pose._replace(radius=0.36 * pose.radius, tilt=0.8 * pose.tilt)
        blooms = (small._replace(centre=p, spin=rng.uniform(0, 6.28)) for p in spots[::-1])
    for bloom in blooms:
        for layer in range(kind.form.layers):
            reach = 1 - 0.72 * layer / kind.form.layers
            _paint_petals(brush, kind, bloom, tint * (1 - 0.07 * (layer % 2)), reach, rng)
        _paint_centre(brush, kind, bloom, rng)


def _paint_petals(brush, kind: Species, pose: _Pose, tint, reach: float, rng) -> None:
    """A ring of petals, each in four tones from the rim to the throat."""
    form, num = kind.form, kind.petals
    turns = 2 * math.pi * (np.arange(num) + rng.normal(0, 0.08, num)) / num
    turns += rng.uniform(0, 2 * math.pi) * (form.lopsided == 0)
    lengths = reach * rng.normal(1, 0.04, num) * (1 - form.lopsided * np.sin(turns))
    height = form.cup + 0.5 * (1 - reach)
    scales, colours = _petal_tones(kind, tint)
    shapes = _petal_outline(form) * scales[:, None]
    outlines = _arrange(shapes[None], turns, lengths, height, pose).reshape(num, len(scales), -1)
    shades = 1 + 0.1 * np.cos(turns + pose.spin - 4) + rng.normal(0, 0.03, num)
    inks = np.clip(colours * shades[:, None, None], 0, 255).astype(int).tolist()
    marks = _arrange(_mark_petals(kind, rng), turns, lengths, height, pose)
    mark_colour, thickness = 0.8 * np.array(kind.second_colour), max(1.0, 0.035 * pose.radius)
    for petal, tones, mark in zip(outlines.tolist(), inks, marks, strict=True):
        for points, ink in zip(petal, tones, strict=True):
            brush.polygon(points, fill=tuple(ink))
        if kind.mark == "spots":
            _dots(brush, mark, thickness, mark_colour)
        for vein in mark.reshape(3, 4).tolist() if kind.mark == "veins" else ():
            brush.line(vein, fill=_ink(mark_colour), width=max(1, round(0.7 * thickness)))


def _arrange(shapes, turns, lengths, height: float, pose: _Pose) -> np.ndarray:
    """Pixels (petals, ..., 2) of `shapes` (petals or 1, ..., 2) along x, laid around the bloom."""
    ring = (-1,) + (1,) * (shapes.ndim - 2)
    x, y = (shapes[..., axis] * lengths.reshape(ring) for axis in (0, 1))
    cos, sin = np.cos(turns).reshape(ring), np.sin(turns).reshape(ring)
    return _project(np.stack([x * cos - y * sin, x * sin + y * cos], -1), pose, height * x * x)


def _petal_tones(kind: Species, tint: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Scales (4, 2) of the outline's length and width, and colours (4, 3), outermost first."""
    second, next_scale, outer = np.array(kind.second_colour, float), (0.97, 0.9), 0.72 * tint
    if kind.mark == "rim":
        next_scale, outer = (0.86, 0.8), 0.7 * second + 0.3 * tint
    throat = second if kind.mark == "eye" else 0.75 * tint + 0.25 * second
    scales = np.array(((1, 1), next_scale, (0.75, 0.6), (0.5, 0.5)), float)
    return scales, np.array((outer, tint, 0.87 * tint + 0.13 * 255, throat))


@lru_cache(maxsize=256)  # the blooms of a head share it
def _petal_outline(form: Form) -> np.ndarray:
    """(24, 2) float64: a petal of length 1 from the origin along x, upper edge first."""
    num = 12
    along = 1 - np.linspace(1, 0, num) ** (1 / max(form.tip, 0.25))  # dense where the edge is round
    widest = form.base / (form.base + form.tip)
    top = widest**form.base * (1 - widest) ** form.tip
    half = form.width * along**form.base * (1 - along) ** form.tip / top
    x = np.concatenate([along, along[::-1]])
    y = np.concatenate([half, -half[::-1]])
    x = x - form.notch * x**4 * np.exp(-((3 * y / form.width) ** 2))
    x = x + form.frill * x**3 * np.where(np.arange(2 * num) % 2, 1, -1)
    return np.stack([x, y + form.curl * x**2], 1)


def _mark_petals(kind: Species, rng: np.random.Generator) -> np.ndarray:
    """(petals, n, 2) float64: four spots, the ends of three veins, or nothing."""
    x = y = np.empty((kind.petals, 0))
    if kind.mark == "spots":
        x = rng.uniform(0.35, 0.75, (kind.petals, 4))
        y = rng.uniform(-0.5, 0.5, x.shape) * kind.form.width
    elif kind.mark == "veins":
        x = np.tile((0.2, 0.8), (kind.petals, 3))
        y = np.repeat((-0.5, 0.0, 0.5), 2) * kind.form.width * x
    return np.stack([x, y + kind.form.curl * x**2], -1)


def _paint_centre(brush, kind: Species, pose: _Pose, rng: np.random.Generator) -> None:
    """Seeds on a dome, or stamens."""
    radius, bulge, num = CENTRES[kind.form.centre]
    if not num:
        return
    places = _spiral(num, radius * (0.7 if kind.form.layers > 1 else 1))
    tips = _project(places, pose, bulge * (1 - (places**2).sum(1) / radius**2))
    colour = np.array(kind.centre_colour, float)
    if kind.form.centre == "stamens":
        for x, y in tips.tolist():
            brush.line((*pose.centre, x, y), fill=_ink(0.5 * colour + 120), width=2)
    else:
        rim = places[-1, 0] + 1j * places[-1, 1]
        rim = 1.1 * rim * np.exp(1j * np.linspace(0, 2 * math.pi, 20))
        _fill(brush, _project(np.stack([rim.real, rim.imag], 1), pose), colour * 0.6)
    size = pose.radius * (0.035 if num < 20 else 0.028)
    _dots(brush, tips, size, colour * rng.uniform(0.75, 1.25, (num, 1)))


def _spiral(num: int, radius: float) -> np.ndarray:
    """(num, 2) float64: places spread evenly over a disc, by the golden angle (Vogel 1979)."""
    turns = math.pi * (3 - math.sqrt(5)) * np.arange(num)
    reach = radius * np.sqrt((np.arange(num) + 0.5) / num)
    return reach[:, None] * np.stack([np.cos(turns), np.sin(turns)], 1)


def _project(points: np.ndarray, pose: _Pose, height: np.ndarray | float = 0.0) -> np.ndarray:
    """Pixels (..., 2) of points in the bloom's plane, lengths in radii, `height` above the plane."""
    x, y = points[..., 0], points[..., 1]
    across = x * math.cos(pose.spin) - y * math.sin(pose.spin)
    deep = x * math.sin(pose.spin) + y * math.cos(pose.spin)
    deep = deep * math.cos(pose.tilt) - height * math.sin(pose.tilt)
    right = across * math.cos(pose.lean) - deep * math.sin(pose.lean)
    down = across * math.sin(pose.lean) + deep * math.cos(pose.lean)
    return pose.centre + pose.radius * np.stack([right, down], -1)


def _ink(colour: np.ndarray) -> tuple[int, ...]:
    return tuple([min(255, max(0, int(part))) for part in colour.tolist()])


def _fill(brush, points: np.ndarray, colour: np.ndarray) -> None:
    brush.polygon(points.ravel().tolist(), fill=_ink(colour))


def _dots(brush, centres: np.ndarray, radii, colours: np.ndarray) -> None:
    """Ellipses around `centres` (n, 2); `radii` and `colours` are one for all, or one a row."""
    boxes = np.concatenate([centres - radii, centres + radii], axis=1).tolist()
    inks = np.broadcast_to(np.clip(colours, 0, 255).astype(int), (len(boxes), 3)).tolist()
    for box, ink in zip(boxes, inks, strict=True):
        brush.ellipse(box, fill=tuple(ink))


def _light(picture: Image.Image, rng: np.random.Generator) -> np.ndarray:
    """Brightness, warmth, a gradient from one side and the camera's noise: (s, s, 3) uint8."""
    pixels = np.asarray(picture, np.float32)
    ramp = np.linspace(-1, 1, len(pixels), dtype=np.float32)
    slope_x, slope_y = rng.normal(0, 0.13, 2).astype(np.float32)
    warmth = rng.normal(0, 0.08)
    gain = rng.uniform(0.6, 1.2) * np.array([1 + warmth, 1, 1 - warmth])
    light = 1 + slope_x * ramp[None, :] + slope_y * ramp[:, None]
    pixels = pixels * gain.astype(np.float32) * light[..., None]
    pixels += rng.standard_normal(pixels.shape, np.float32) * np.float32(rng.uniform(1, 6))
    return np.clip(pixels, 0, 255).astype(np.uint8)
