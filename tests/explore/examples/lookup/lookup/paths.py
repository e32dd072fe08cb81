"""``dig(value, "a.0.b")``"""


def step(value, name):
    if isinstance(value, list):
        return value[int(name)]
    return value[name]


def dig(value, path, default=None):
    for name in path.split("."):
        try:
            value = step(value, name)
        except KeyError:
            return default
    return value
