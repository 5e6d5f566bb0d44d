"""Procedurally drawn cartoon cats and dogs: the data set that needs no download.

Every picture is a pure function of (seed, index, size). The *form* decides the class: each class
has eight breeds, a breed being a fixed combination of ears, head, muzzle, body, tail and coat
pattern with small individual variation. Everything else (coat colour, background, position,
scale, flip, rotation, light) is drawn from the same distribution for both classes.

Geometry lives on the square [-1, 1] x [-1, 1] with y pointing down. Shapes are drawn at
`SUPERSAMPLE` times the final size and averaged down. Only uniform random numbers, rounded
trigonometry, elementary arithmetic and integer pixel coordinates are used, so that the bytes are
the same on every machine.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw

CLASSES = ["cat", "dog"]
TRAIN_IMAGES = 4000
TEST_IMAGES = 1500
VERSION = 1

SUPERSAMPLE = 4
OUTLINE = 0.034
Colour = tuple[int, int, int]


class Breed(NamedTuple):
    """The fixed form of one breed; lengths are relative to the head or to the pose."""

    name: str
    ears: tuple[str, float, float, float]  # kind, length, width, lean outwards
    head: tuple[float, float, float]  # width, height, taper (> 0: wide jaw, < 0: narrow jaw)
    muzzle: float  # 0 = flat face, 1 = long snout
    body: tuple[float, float]  # girth, leg length
    tail: tuple[str, float]  # kind, thickness
    coat: str  # see HEAD_MARKS, BODY_MARKS and `Animal`
    fluff: float = 0.0  # size of the cheek tufts


# fmt: off
CATS = [
    ("tabby", ("point", .62, .62, .16), (1.05, .92, .10), .0, (1.0, 1.0), ("hook", 1.0), "stripes"),
    ("siamese", ("point", .86, .74, .30), (.92, .94, -.14), .1, (.82, 1.1), ("curl", .8), "mask"),
    ("persian", ("point", .44, .54, .1), (1.1, .9, .1), 0, (1.2, .8), ("plume", 1.5), "points", .2),
    ("calico", ("point", .60, .60, .20), (1.08, .90, .06), .0, (1., .95), ("curl", 1.), "patches"),
    ("lynx", ("tuft", .78, .6, .2), (1, .94, .08), .1, (1.12, 1.1), ("plume", 1.4), "stripes", .26),
    ("tuxedo", ("point", .66, .58, .12), (1.04, .94, .06), .0, (.95, 1.0), ("hook", .9), "bib"),
    ("bengal", ("point", .54, .58, .24), (1.0, .92, .00), .1, (.96, 1.0), ("curl", 1.1), "spots"),
    ("sphynx", ("point", 1.0, .86, .40), (.90, .96, -.20), .1, (.80, 1.1), ("hook", .6), "plain"),
]
DOGS = [
    ("beagle", ("drop", 1.05, .46, .16), (.94, .96, .04), .6, (1.0, .95), ("wag", 1.0), "patches"),
    ("labrador", ("drop", .76, .44, .20), (1.02, .94, .00), .7, (1.1, 1.0), ("wag", 1.4), "plain"),
    ("dalmatian", ("drop", .86, .40, .26), (.92, .96, -.06), .7, (.92, 1.1), ("whip", .9), "spots"),
    ("pug", ("button", .50, .50, .20), (1.10, .92, .08), .3, (1.16, .8), ("ring", 1.1), "mask"),
    ("shepherd", ("bat", .86, .46, .1), (.92, .96, -.10), .9, (1.0, 1.1), ("brush", 1.5), "saddle"),
    ("spaniel", ("drop", 1.36, .64, .14), (.94, .94, .00), .6, (1.0, .9), ("stub", 1.3), "bib"),
    ("bulldog", ("bat", .62, .50, .26), (1.14, .90, .12), .4, (1.2, .8), ("stub", 1.0), "eyepatch"),
    ("terrier", ("button", .6, .5, .04), (.94, .98, .04), .8, (1, .95), ("wag", .9), "stripes", .2),
]
# fmt: on
BREEDS = [[Breed(*row) for row in CATS], [Breed(*row) for row in DOGS]]

# One narrow palette for both classes; backgrounds are pastels of about one brightness.
COATS = [(212, 164, 114), (206, 174, 134), (176, 134, 102), (188, 166, 144), (198, 150, 122)]
WALLS = [(176, 202, 212), (184, 206, 184), (204, 194, 212), (214, 194, 190)]
CREAM, INK, PINK = (248, 240, 226), (66, 48, 44), (222, 142, 138)
NOSE, IRIS = (58, 44, 46), (214, 220, 150)

_ANGLES = [2 * math.pi * i / 24 for i in range(24)]
CIRCLE = np.array([(round(math.cos(a), 6), round(math.sin(a), 6)) for a in _ANGLES])

# Centre lines of the tails, starting at the root; x points away from the body.
TAILS = {
    "hook": [(0, 0), (0.30, 0.06), (0.44, -0.20), (0.38, -0.56), (0.46, -0.82), (0.66, -0.80)],
    "curl": [(0, 0), (0.34, 0.08), (0.52, -0.10), (0.44, -0.44), (0.24, -0.62), (0.30, -0.82)],
    "plume": [(0, 0), (0.26, 0.06), (0.46, -0.14), (0.46, -0.46), (0.38, -0.74)],
    "wag": [(0, 0), (0.14, -0.04), (0.26, -0.20), (0.34, -0.42)],
    "whip": [(0, 0), (0.20, 0.00), (0.36, -0.10), (0.52, -0.30)],
    "ring": [(0, 0), (0.16, -0.12), (0.12, -0.32), (-0.06, -0.34), (-0.10, -0.20), (0.02, -0.16)],
    "brush": [(0, 0), (0.18, 0.04), (0.32, 0.20), (0.40, 0.44)],
    "stub": [(0, 0), (0.08, -0.05), (0.15, -0.13)],
}


# Coat markings as clipped ellipses (u, v, ru, rv) on the inner coordinates of head and trunk.
HEAD_MARKS = {
    "patches": [(0.72, -0.42, 0.60, 0.66), (-0.92, -0.50, 0.32, 0.50)],
    "spots": [(u, v, 0.12, 0.12) for u, v in ((-0.6, -0.5), (0, -0.72), (0.5, -0.55), (0.8, 0.1))],
    "mask": [(0.0, 0.22, 0.62, 0.66)],
    "saddle": [(0.0, -0.72, 0.62, 0.56)],
    "eyepatch": [(0.42, -0.14, 0.38, 0.42)],
}
_SPOTS = ((-0.5, -0.3), (-0.1, -0.65), (0.0, 0.1), (0.35, -0.3), (0.7, 0.1), (0.6, -0.6))
BODY_MARKS = {
    "patches": [(0.05, -0.70, 0.42, 0.62), (0.85, 0.0, 0.34, 0.50)],
    "spots": [(u, v, 0.13, 0.15) for u, v in _SPOTS],
    "saddle": [(0.2, -0.75, 0.85, 0.75)],
    "eyepatch": [(0.65, -0.4, 0.40, 0.55)],
}
# Stripes as clipped triangles: the middle of the base, then the point.
HEAD_STRIPES = [(u, -1.0, u * 0.7, -0.42) for u in (-0.36, 0.0, 0.36)]
HEAD_STRIPES += [(side * 1.05, v, side * 0.6, v - 0.02) for side in (-1, 1) for v in (0.0, 0.3)]
BODY_STRIPES = [(u, -1.0, u, -0.05) for u in (-0.55, -0.2, 0.15, 0.5, 0.8)]
BLAZE = [(-0.05, -1), (0.05, -1), (0.2, 0), (0.75, 0.6), (0, 1.2), (-0.75, 0.6), (-0.2, 0)]
CAT_NOSE = np.array([(-0.10, -0.06), (0.10, -0.06), (0.0, 0.06)])


def mix(a: Colour, b: Colour, share: float) -> Colour:
    """Give the colour `share` of the way from `a` to `b`."""
    return tuple(int(x + (y - x) * share) for x, y in zip(a, b, strict=True))


def smooth(points: object, closed: bool = True, rounds: int = 2) -> np.ndarray:
    """Round the corners of a polyline by cutting them (Chaikin)."""
    points = np.array(points, dtype=np.float64)
    for _ in range(rounds):
        here = np.concatenate([points, points[:1]]) if closed else points
        step = (here[1:] - here[:-1]) * 0.25
        cut = np.empty((2 * len(step), 2))
        cut[0::2], cut[1::2] = here[:-1] + step, here[1:] - step
        points = cut if closed else np.concatenate([points[:1], cut, points[-1:]])
    return points


LEG = smooth([(-0.8, -1), (0.8, -1), (0.8, 0.5), (1.15, 1), (-1.3, 1), (-0.9, 0.5)])


class Pen:
    """Draws outlined flat shapes through one similarity transform of the whole animal."""

    def __init__(self, size: int) -> None:
        self.side = size * SUPERSAMPLE
        self.image = Image.new("RGB", (self.side, self.side))
        self.canvas = ImageDraw.Draw(self.image)
        self.aim(0.0, 0.0, 1.0, 0.0, False)

    def aim(self, x: float, y: float, scale: float, angle: float, flip: bool) -> None:
        """Set the transform; a flip mirrors the animal before it is turned."""
        half, mirror = self.side / 2, -1.0 if flip else 1.0
        c, s = round(math.cos(angle), 6) * scale * half, round(math.sin(angle), 6) * scale * half
        self.rows = (c * mirror, s * mirror, -s, c)
        self.origin = (half * (1 + x), half * (1 + y))
        self.unit = half * scale

    def pixels(self, points: np.ndarray) -> list[float]:
        """Canvas coordinates of points, rounded to whole pixels and flattened."""
        xx, xy, yx, yy = self.rows
        out = np.empty((len(points), 2))
        out[:, 0] = points[:, 0] * xx + points[:, 1] * yx + self.origin[0]
        out[:, 1] = points[:, 0] * xy + points[:, 1] * yy + self.origin[1]
        return np.rint(out, out=out).ravel().tolist()

    def shape(self, points: np.ndarray, fill: Colour | None, line: float = OUTLINE) -> None:
        """Draw a filled closed shape with an outline of width `line` (0: none)."""
        flat = self.pixels(points)
        if fill is not None:
            self.canvas.polygon(flat, fill=fill)
        if line:
            width = max(1, round(line * self.unit))
            self.canvas.line(flat + flat[:4], fill=INK, width=width)

    def stroke(self, points: np.ndarray, width: float) -> None:
        """Draw an open line."""
        self.canvas.line(self.pixels(points), fill=INK, width=max(1, round(width * self.unit)))

    def tube(self, line: np.ndarray, radii: np.ndarray, fill: Colour) -> None:
        """Draw a centre line thickened by `radii`, with a round end."""
        ends = np.concatenate([line[:1], line, line[-1:]])
        dx, dy = (ends[2:] - ends[:-2]).T
        scale = radii / np.sqrt(dx * dx + dy * dy)
        side = np.stack([-dy * scale, dx * scale], axis=1)
        tip = line[-1:] + side[-1:, ::-1] * (1, -1)
        around = np.concatenate([line + side, tip, (line - side)[::-1]])
        self.shape(smooth(around, rounds=1), fill)


class Blob:
    """A warped ellipse; (u, v) on the unit disc are its inner coordinates."""

    def __init__(self, x: float, y: float, rx: float, ry: float, taper=0.0, angle=0.0) -> None:
        self.x, self.y, self.rx, self.ry, self.taper = x, y, rx, ry, taper
        self.cos, self.sin = round(math.cos(angle), 6), round(math.sin(angle), 6)

    def at(self, points: object) -> np.ndarray:
        """Picture coordinates of inner coordinates (which may lie outside the disc)."""
        u, v = np.array(points, dtype=np.float64).T
        a, b = u * (1 + self.taper * v) * self.rx, v * self.ry
        out = np.empty((len(a), 2))
        out[:, 0] = a * self.cos - b * self.sin + self.x
        out[:, 1] = a * self.sin + b * self.cos + self.y
        return out

    def inside(self, points: object) -> np.ndarray:
        """Like `at`, with points beyond the edge pulled back onto it."""
        uv = np.array(points, dtype=np.float64)
        radius = np.sqrt(uv[:, :1] * uv[:, :1] + uv[:, 1:] * uv[:, 1:])
        return self.at(uv / np.maximum(radius, 1.0))

    def disc(self, u: float, v: float, ru: float, rv: float) -> np.ndarray:
        """Draw an ellipse around an inner coordinate."""
        return self.at(CIRCLE * (ru, rv) + (u, v))

    def spot(self, u: float, v: float, ru: float, rv: float) -> np.ndarray:
        """Draw the same, clipped at the edge of the blob."""
        return self.inside(CIRCLE * (ru, rv) + (u, v))


class Animal:
    """One individual: a breed with its colours and small variations, ready to be drawn."""

    def __init__(self, rng: np.random.Generator, pen: Pen, kind: int, breed: Breed) -> None:
        self.rng, self.pen, self.breed, self.is_dog = rng, pen, breed, CLASSES[kind] == "dog"
        base = COATS[rng.integers(len(COATS))]
        self.base = mix(base, mix(CREAM, INK, rng.uniform()), 0.14)
        # Dogs have more dark area (nose, ears), so that cats' markings are deeper: the statistics
        # of the pixel values are to be those of one and the same distribution.
        self.dark = mix(self.base, INK, rng.uniform(0.0, 0.16) + (0.36 if self.is_dog else 0.53))
        self.light = mix(self.base, CREAM, rng.uniform(0.55, 0.80))
        dark_points = breed.coat in ("mask", "points", "saddle")
        self.points = self.dark if dark_points else self.base  # tail and upright ears
        limbs = {"mask": self.dark, "points": self.dark, "bib": self.light}
        self.limb = limbs.get(breed.coat, self.base)
        self.yaw = 0.0  # -1: the face turned to the left, 0: towards the viewer

    def vary(self, spread: float) -> float:
        """Draw a factor around 1."""
        return 1.0 + self.rng.uniform(-spread, spread) * 1.5

    def mark(self, blob: Blob, marks: list, stripes: list, shift: float) -> None:
        """Dark coat markings on the head or the trunk, a little different every time."""
        j, k = self.rng.uniform(-0.07, 0.07, 2)
        for u, v, ru, rv in marks:
            self.pen.shape(blob.spot(u + shift + j, v + k, ru, rv), self.dark, 0)
        for u, v, u2, v2 in stripes if self.breed.coat == "stripes" else ():
            a, b = (0.11, 0.0) if abs(v) > abs(u) else (0.0, 0.11)
            u, u2 = u + shift, u2 + shift
            corners = [(u - a, v - b), (u + a, v + b), (u2 + j, v2 + k)]
            self.pen.shape(blob.inside(corners), self.dark, 0)

    def upright_ears(self, head: Blob) -> None:
        """Ears that stand behind the head: cat triangles and long rounded dog ears."""
        kind, length, width, lean = self.breed.ears
        x, y, half = 0.60 + lean * self.vary(0.2), -0.62 - length * self.vary(0.1), width / 2
        middle = (y - 0.6) / 2
        if kind == "bat":
            ear = [(0.56 - half, -0.5), (0.58 - half, middle), (x - 0.1, y - 0.12)]
            ear += [(x + 0.14, y - 0.06), (0.66 + half, middle), (0.56 + half, -0.4)]
        else:
            ear = [(0.56 - half, -0.6), (0.56 - half, -0.7), (x, y), (x, y), (x, y)]
            ear += [(0.60 + half, -0.4), (0.56 + half, -0.2)]
        ear, root = smooth(ear), np.array((0.56, -0.55))
        dark = self.breed.coat in ("patches", "eyepatch")
        colour = self.dark if dark else self.points
        for side in ((-1.0, 1.0), (1.0, 1.0)):
            self.pen.shape(head.at(ear * side), colour)
            inner = root + (ear - root) * 0.58
            self.pen.shape(head.at(inner * side), mix(colour, PINK, 0.6), 0)
            if kind == "tuft":
                self.pen.stroke(head.at(np.array([(x, y), (x + 0.06, y - 0.26)]) * side), 0.05)

    def hanging_ears(self, head: Blob) -> None:
        """Dog ears in front of the head: hanging flaps, or folded tips."""
        kind, length, width, lean = self.breed.ears
        length, lean = length * self.vary(0.1), lean * self.vary(0.2)
        far, low = lean + width, length - 0.62
        if kind == "drop":
            ear = [(0.58, -0.80), (0.98, -0.72), (0.74 + far, -0.2), (0.74 + far, low)]
            ear += [(0.74 + lean + width * 0.4, low + 0.18), (0.74 + lean / 2, low), (0.76, -0.2)]
        else:
            ear = [(0.26, -0.78), (0.46, -0.98 - lean), (0.56 + width * 0.9, -0.84 - lean)]
            ear += [(0.56 + far, low - 0.1), (0.56 + far, low - 0.06)]
        dark = self.breed.coat in ("patches", "mask")
        colour = self.dark if dark else mix(self.base, self.dark, 0.35)
        for side in (-1, 1):
            self.pen.shape(head.at(smooth(ear) * (side, 1) + (0.1 * self.yaw, 0)), colour)

    def eyes(self, head: Blob, face: float) -> None:
        """Cats: wide light eyes with slit pupils; dogs: round dark eyes."""
        pen, apart, size, v = self.pen, 0.42 * self.vary(0.08), self.vary(0.12), -0.12
        for u in (face - apart, face + apart):
            if self.is_dog:
                pen.shape(head.disc(u, v - 0.06, 0.135 * size, 0.16 * size), INK, 0)
                pen.shape(head.disc(u - 0.04, v - 0.12, 0.05, 0.055), CREAM, 0)
            else:
                pen.shape(head.disc(u, v, 0.20 * size, 0.19 * size), IRIS, 0.026)
                pen.shape(head.disc(u, v, 0.075 * size, 0.17 * size), INK, 0)

    def cat_muzzle(self, head: Blob, face: float) -> None:
        """Two small pads, a tiny nose and whiskers."""
        pen, middle = self.pen, np.array((face * 1.25, 0.40 + 0.1 * self.breed.muzzle))
        mouth = smooth([(0, 0.02), (0.02, 0.16), (0.13, 0.22), (0.24, 0.15)], closed=False)
        for side in ((-1, 1), (1, 1)):
            pen.shape(head.at(CIRCLE * (0.2, 0.15) + (side[0] * 0.13, 0.1) + middle), self.light, 0)
            for low in (-0.12, 0.04, 0.2):
                whisker = np.array([(0.24, 0.08 + low * 0.3), (0.98, low * 1.4 - 0.02)])
                pen.stroke(head.at(whisker * side + middle), 0.016)
        for side in ((-1, 1), (1, 1)):
            pen.stroke(head.at(mouth * side + middle), 0.024)
        pen.shape(head.at(CAT_NOSE + middle), PINK, 0.02)

    def dog_muzzle(self, head: Blob, face: float) -> None:
        """Draw a protruding snout with a large nose and sometimes a tongue."""
        pen, long, turn = self.pen, self.breed.muzzle * self.vary(0.12), abs(self.yaw)
        u, v = face + self.yaw * (0.10 + 0.75 * long), 0.46 + 0.16 * long
        wide, high = 0.46 + 0.26 * long * turn, 0.36 + 0.16 * long * (1 - turn)
        if self.rng.uniform() < 0.45:
            pen.shape(head.disc(u, v + high + 0.04, 0.15, 0.26), PINK, 0.026)
        tone = self.dark if self.breed.coat == "mask" else mix(self.base, self.light, 0.7)
        pen.shape(head.disc(u, v, wide, high), tone)
        x, y, corner = u + self.yaw * 0.62 * wide, v - 0.52 * high, v + high * 0.3
        mouth = [(x - 0.26, corner), (x, v + high * 0.62), (x + 0.26, corner)]
        pen.stroke(head.at([(x, y), (x, corner)]), 0.024)
        pen.stroke(head.at(smooth(mouth, closed=False)), 0.024)
        pen.shape(head.disc(x, y, 0.21, 0.15), NOSE, 0)
        pen.shape(head.disc(x - 0.06, y - 0.05, 0.06, 0.03), mix(NOSE, CREAM, 0.6), 0)

    def head(self, x: float, y: float, radius: float) -> None:
        """Draw the whole head, centred at (x, y)."""
        breed, pen, face = self.breed, self.pen, 0.26 * self.yaw
        wide, high, taper = breed.head
        high, wide = high * radius * self.vary(0.05), wide * radius * self.vary(0.06)
        head = Blob(x, y, wide, high, taper, self.rng.uniform(-0.14, 0.14))
        if breed.ears[0] in ("point", "tuft", "bat"):
            self.upright_ears(head)
        if breed.fluff:
            out = 1.0 + breed.fluff
            tufts = [(0.8, -0.2), (0.92, 0.0), (out, 0.22), (out, 0.22), (0.95, 0.34)]
            tufts += [(out * 0.94, 0.54), (out * 0.94, 0.54), (0.74, 0.7), (0.4, 0.96)]
            both = tufts + [(-u, v) for u, v in reversed(tufts)]
            pen.shape(smooth(head.at(both), rounds=1), self.base)
        pen.shape(head.at(CIRCLE), self.base, 0.0 if breed.fluff else OUTLINE)
        if breed.coat == "bib":
            blaze = [(u + face, v) for u, v in BLAZE]
            pen.shape(smooth(head.inside(blaze)), self.light, 0)
        self.mark(head, HEAD_MARKS.get(breed.coat, []), HEAD_STRIPES, face)
        self.eyes(head, face)
        if self.is_dog:
            self.dog_muzzle(head, face)
        else:
            self.cat_muzzle(head, face)
        if breed.ears[0] in ("drop", "button"):
            self.hanging_ears(head)

    def trunk(self, body: Blob) -> None:
        """Draw the body with its markings and outline."""
        coat = self.breed.coat
        self.pen.shape(body.at(CIRCLE), self.base, 0)
        self.mark(body, BODY_MARKS.get(coat, []), BODY_STRIPES, 0.0)
        if coat in ("bib", "plain", "points", "saddle", "patches"):
            self.pen.shape(body.spot(self.yaw * 0.6, 0.25, 0.42, 0.72), self.light, 0)
        self.pen.shape(body.at(CIRCLE), None)

    def tail(self, x: float, y: float, size: float) -> None:
        """Draw the tail, rooted at (x, y)."""
        kind, thick = self.breed.tail
        line = smooth(TAILS[kind], closed=False)
        line = line * (size * self.vary(0.12), size * self.vary(0.12)) + (x, y)
        along = np.linspace(0.0, 1.0, len(line))
        bulge = 1.6 * along * (1.0 - along) if kind in ("plume", "brush") else 0.0
        self.pen.tube(line, 0.075 * thick * (1.0 - 0.35 * along + bulge), self.points)

    def leg(self, x: float, top: float, foot: float) -> None:
        """One straight leg with a paw."""
        leg = Blob(x, (top + foot) / 2, 0.108, (foot - top) / 2)
        self.pen.shape(leg.at(LEG), self.limb)

    def portrait(self, girth: float) -> None:
        """Head and shoulders."""
        self.yaw = self.rng.uniform(-0.8, 0.3)
        self.trunk(Blob(0.1, 1.05, 0.62 * girth, 0.62, 0.1))
        self.head(0.0, -0.02, 0.62)

    def sit(self, girth: float) -> None:
        """Sitting, seen from the front or three-quarter."""
        self.yaw = self.rng.uniform(-0.8, 0.3)
        self.tail(0.30 * girth, 0.66, 1.0)
        self.trunk(Blob(0.06, 0.42, 0.38 * girth, 0.52, 0.22))
        for x in (0.06 - 0.32 * girth, 0.06 + 0.32 * girth):
            self.pen.shape(Blob(x, 0.80, 0.19, 0.15).at(CIRCLE), self.limb)
        for x in (-0.10, 0.16):
            self.leg(x, 0.36, 0.94)
        self.head(-0.02, -0.30, 0.47)

    def stand(self, girth: float) -> None:
        """Standing, seen from the side."""
        self.yaw = self.rng.uniform(-1.0, -0.3)
        foot = 0.50 + 0.32 * self.breed.body[1]
        self.tail(0.66, 0.14, 0.8)
        for x in (-0.16, 0.58):
            self.leg(x, 0.3, foot - 0.05)
        self.trunk(Blob(0.2, 0.28, 0.56, 0.29 * girth))
        for x in (-0.28, 0.46):
            self.leg(x, 0.34, foot)
        self.head(-0.34, -0.20, 0.45)

    def lie(self, girth: float) -> None:
        """Lying with the head up, seen from the side."""
        self.yaw = self.rng.uniform(-1.0, -0.3)
        self.tail(0.70, 0.52, 0.8)
        self.trunk(Blob(0.22, 0.50, 0.60, 0.31 * girth))
        self.pen.shape(Blob(0.56, 0.62, 0.22, 0.21 * girth).at(CIRCLE), self.base)
        for x, y in ((-0.30, 0.76), (-0.16, 0.82)):
            self.pen.shape(Blob(x, y, 0.26, 0.09).at(CIRCLE), self.limb)
        self.head(-0.28, 0.06, 0.48)

    def pose(self) -> None:
        """Draw the animal in one of its poses."""
        poses = (self.portrait,) * 2 + (self.sit,) * 2 + (self.stand, self.lie)
        poses[self.rng.integers(len(poses))](self.breed.body[0] * self.vary(0.06))


def background(rng: np.random.Generator, pen: Pen) -> None:
    """Draw a plain wall. Anything more would be what tells one picture from another."""
    wall = WALLS[rng.integers(len(WALLS))]
    wall = mix(wall, CREAM if rng.uniform() < 0.5 else INK, rng.uniform(0.0, 0.14))
    pen.canvas.rectangle((0, 0, pen.side, pen.side), fill=wall)


def light(rng: np.random.Generator, picture: np.ndarray) -> np.ndarray:
    """Lay a faint brightness gradient and some haze (which lowers the contrast)."""
    across = (np.arange(len(picture)) + 0.5) / len(picture) - 0.5
    dx, dy, level = rng.uniform(-0.08, 0.08), rng.uniform(-0.08, 0.08), rng.uniform(0.9, 1.06)
    gain = level + dx * across[None, :] + dy * across[:, None]
    haze = rng.uniform(0.0, 0.25)
    lit = (picture * (1.0 - haze) + 176.0 * haze) * gain[:, :, None]
    return np.clip(np.rint(lit), 0, 255).astype(np.uint8)


def draw(seed: int, index: int, size: int) -> tuple[np.ndarray, int]:
    """Picture `index` of the data set `seed`: uint8 (size, size, 3) and its class."""
    rng = np.random.Generator(np.random.PCG64([seed, index]))
    kind = index % 2
    pen = Pen(size)
    background(rng, pen)
    x, y, angle = rng.uniform(-1.0, 1.0, 3) * (0.25, 0.2, 0.15)
    pen.aim(x, y, rng.uniform(0.75, 1.2), angle, bool(rng.integers(2)))
    breed = BREEDS[kind][rng.integers(len(BREEDS[kind]))]
    Animal(rng, pen, kind, breed).pose()
    return light(rng, np.asarray(pen.image.reduce(SUPERSAMPLE))), kind


def contact_sheet(rows: int, columns: int, size: int, seed: int = 0) -> np.ndarray:
    """Lay out the first rows x columns pictures, cats and dogs in turn."""
    tiles = [draw(seed, index, size)[0] for index in range(rows * columns)]
    grid = np.stack(tiles).reshape(rows, columns, size, size, 3)
    return grid.transpose(0, 2, 1, 3, 4).reshape(rows * size, columns * size, 3)
