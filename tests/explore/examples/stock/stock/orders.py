"""Orders of items that run out."""


def shortage(wanted, stored):
    """How many of each item are missing."""
    missing = {}
    for name, count in wanted.items():
        lack = count - stored.get(name, 0)
        if lack > 0:
            missing[name] = lack
    return missing
