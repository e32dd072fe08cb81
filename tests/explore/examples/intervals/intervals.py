"""Closed intervals."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Interval:
    low: int
    high: int

    def overlaps(self, other):
        return self.low <= other.high or other.low <= self.high

    def contains(self, value):
        return self.low <= value <= self.high


def merge(intervals):
    """Overlapping intervals become one; the result is ordered."""
    merged = []
    for interval in sorted(intervals, key=lambda item: item.low):
        if merged and merged[-1].overlaps(interval):
            last = merged.pop()
            interval = Interval(last.low, max(last.high, interval.high))
        merged.append(interval)
    return merged
