import pytest
from stock.orders import shortage
from stock.shelf import Shelf


def test_free_room_shrinks():
    shelf = Shelf(2)
    assert shelf.put("nut") == 1
    assert shelf.put("bolt") == 0


def test_full_shelf_refuses():
    shelf = Shelf(1)
    shelf.put("nut")
    with pytest.raises(ValueError, match="full"):
        shelf.put("bolt")


def test_shortage():
    assert shortage({"nut": 3, "bolt": 1}, {"nut": 1, "bolt": 4}) == {"nut": 2}
