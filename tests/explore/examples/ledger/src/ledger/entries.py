"""Entries and their totals; ünïcode in comments moves byte columns."""

import functools

NAMES = {"€": "euro", "£": "pound"}


def checked(function):
    @functools.wraps(function)
    def wrapper(*args, **kwargs):
        return round(function(*args, **kwargs), 2)

    return wrapper


@checked
def total(entries, rate=None):
    result = 0.0
    for entry in entries:  # “entries” are numbers
        result += entry
    return result * rate if rate else result


def describe(symbol, amount):
    name = NAMES.get(symbol, "unit")
    return f"{amount} {name}" + ("s" if amount != 1 else "")
