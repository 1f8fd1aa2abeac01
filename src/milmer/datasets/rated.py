"""Ratings as publishers' files give them."""

from __future__ import annotations

import math

from milmer.errors import UserError


def rating(value: object, low: float, high: float, where: str) -> float:
    """Return a rating as a number, NaN where none was given.

    Parameters
    ----------
    value : object
        A number or its text; None, empty text and NaN are no rating.
    low, high : float
        The scale.
    where : str
        Which rating of which file, for the error.

    Raises
    ------
    UserError
        If it is no number or lies outside of the scale.
    """
    given = "" if value is None else str(value).strip()
    if given.lower() in ("", "nan"):
        return float("nan")
    try:
        number = float(given)
    except ValueError:
        number = math.inf
    if not low <= number <= high:
        raise UserError(f"{where} is {given}, expected a number from {low:g} to {high:g}; get the file again")
    return number
