"""Breadth first."""

from collections import deque


def distance(edges, start, goal):
    """Number of steps from start to goal, None when there is no way."""
    seen = {start}
    queue = deque([(start, 0)])
    while queue:
        node, steps = queue.popleft()
        if node == goal:
            return steps
        for neighbour in edges.get(node, ()):
            if neighbour not in seen:
                queue.append((neighbour, steps + 1))
    return None
