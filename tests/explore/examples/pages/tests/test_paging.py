from pages.paging import count, page

ITEMS = list(range(7))


def test_page_by_number():
    assert page(ITEMS, 1) == [0, 1, 2]
    assert page(ITEMS, 3) == [6]


def test_default_is_the_first_page():
    assert page(ITEMS) == [0, 1, 2]


def test_count():
    assert count(ITEMS) == 3
