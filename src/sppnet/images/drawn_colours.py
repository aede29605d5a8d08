"""Colours of drawn scenes."""

import colorsys

import numpy as np

Colour = tuple[int, int, int]


def paint(rng: np.random.Generator, *, light: bool = False) -> Colour:
    """Draw a full colour for a thing, or a pale one.

    Args:
        rng: Decides.
        light: Pale instead of full.

    Returns:
        RGB, 0..255.
    """
    hue = float(rng.random())
    if light:
        return _rgb(hue, rng.uniform(0.08, 0.3), rng.uniform(0.86, 0.97))
    return _rgb(hue, rng.uniform(0.55, 0.85), rng.uniform(0.6, 0.92))


def muted(rng: np.random.Generator) -> Colour:
    """Draw a calm colour for a background.

    Args:
        rng: Decides.

    Returns:
        RGB, 0..255.
    """
    return _rgb(float(rng.random()), rng.uniform(0.08, 0.38), rng.uniform(0.5, 0.92))


def darker(colour: Colour, share: float) -> Colour:
    """Multiply a colour.

    Example:
        >>> darker((100, 200, 50), 0.5)
        (50, 100, 25)
    """
    red, green, blue = (round(value * share) for value in colour)
    return red, green, blue


def lighter(colour: Colour, share: float) -> Colour:
    """Mix a colour with white.

    Example:
        >>> lighter((55, 155, 255), 0.5)
        (155, 205, 255)
    """
    red, green, blue = (round(value + (255 - value) * share) for value in colour)
    return red, green, blue


def _rgb(hue: float, saturation: float, value: float) -> Colour:
    """From HSV, all 0..1."""
    red, green, blue = (round(255 * part) for part in colorsys.hsv_to_rgb(hue, saturation, value))
    return red, green, blue
