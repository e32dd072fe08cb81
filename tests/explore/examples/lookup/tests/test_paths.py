from lookup import dig

VALUE = {"a": [{"b": 1}, {"b": 2}]}


def test_found():
    assert dig(VALUE, "a.1.b") == 2


def test_missing_key():
    assert dig(VALUE, "x") is None


def test_missing_index():
    assert dig(VALUE, "a.7.b", default="none") == "none"
