"""What lies on a shelf."""


class Shelf:
    def __init__(self, capacity):
        self.capacity = capacity
        self.items = []

    @property
    def free(self):
        return self.capacity - len(self.items)

    def put(self, item):
        if self.free < 0:
            raise ValueError("the shelf is full")
        self.items.append(item)
        return self.free
