from words import initials, shorten


def test_initials():
    assert initials("ada lovelace") == "AL"


def test_short_text_stays():
    assert shorten("abc", 3) == "abc"


def test_shortened_text_fits():
    assert shorten("abcdef", 4) == "abc…"
