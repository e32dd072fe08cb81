from ledger.entries import describe, total


def test_total():
    assert total([1.0, 2.5]) == 3.5


def test_total_with_rate():
    assert total([1.0, 2.0], rate=2) == 6.0


def test_total_with_rate_of_nothing():
    assert total([1.0, 2.0], rate=0) == 0.0


def test_describe():
    assert describe("€", 2) == "2 euros"
    assert describe("?", 1) == "1 unit"
