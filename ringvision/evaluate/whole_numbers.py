"""Whole numbers among the settings of an evaluation, checked in one way."""

from typing import Any

from ringvision.errors import UserError


def check_least(settings: Any, **least: int) -> None:
    """UserError for the first of these fields that is below its least value; None passes."""
    for name, lowest in least.items():
        value = getattr(settings, name)
        if value is not None and value < lowest:
            raise UserError(f"{name} {value} was given; expected a whole number from {lowest} upward")
