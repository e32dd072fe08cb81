"""Which CPUs a sandbox gets: as many as its limit says, so that what it sees does not depend on the machine."""

from __future__ import annotations

import itertools
import math
import os
import secrets

from schemas.testing import Limits

_turns = itertools.count(secrets.randbelow(1024))


def cpus_for(limits: Limits) -> list[int]:
    """CPUs of this process, in turns; all of them where the limit is above what there is."""
    usable = sorted(os.sched_getaffinity(0))
    first = next(_turns)
    wanted = min(len(usable), max(1, math.ceil(limits.cpus)))
    return sorted(usable[(first + number) % len(usable)] for number in range(wanted))
