"""Pages are counted from one."""

from pages import settings

FIRST = 0


def page(items, number=FIRST, size=settings.PER_PAGE):
    start = (number - 1) * size
    return items[start : start + size]


def count(items, size=settings.PER_PAGE):
    return -(-len(items) // size)
