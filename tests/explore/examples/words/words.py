"""Titles made of words."""


def initials(name):
    return "".join(word[0].upper() for word in name.split(" "))


def shorten(text, width):
    """At most ``width`` characters, with an ellipsis when something was cut."""
    if len(text) <= width:
        return text
    return text[:width] + "…"
