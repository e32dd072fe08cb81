from route.graph import distance

LINE = {"a": ["b"], "b": ["c"]}


def test_line():
    assert distance(LINE, "a", "c") == 2


def test_same():
    assert distance(LINE, "a", "a") == 0


def test_unreachable_in_a_circle():
    circle = {"a": ["b"], "b": ["c"], "c": ["b"]}
    assert distance(circle, "a", "z") is None
    assert circle == {"a": ["b"], "b": ["c"], "c": ["b"]}
