from intervals import Interval, merge


def test_overlap():
    assert Interval(1, 4).overlaps(Interval(3, 8))


def test_no_overlap():
    assert not Interval(1, 2).overlaps(Interval(5, 8))


def test_contains():
    assert Interval(1, 2).contains(2)
    assert not Interval(1, 2).contains(3)


def test_merge_keeps_gaps():
    assert merge([Interval(5, 6), Interval(1, 2)]) == [Interval(1, 2), Interval(5, 6)]


def test_merge():
    assert merge([Interval(1, 4), Interval(3, 8)]) == [Interval(1, 8)]
