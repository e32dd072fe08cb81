"""How one disk limit is divided among the writable folders, so that their sum never exceeds it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from schemas.testing import Limits

PAGE = 4096


@dataclass(frozen=True)
class DiskShares:
    """Bytes for each folder: half for the tree, a quarter for /tmp, an eighth each for home and shared memory."""

    PROFILE: ClassVar[str] = "work/2 tmp/4 home/8 shm/8"

    work: int
    tmp: int
    home: int
    shm: int

    @staticmethod
    def of(limits: Limits) -> DiskShares:
        total = limits.disk_mb << 20

        def share(divisor: int) -> int:
            return max(PAGE, total // divisor // PAGE * PAGE)

        return DiskShares(share(2), share(4), share(8), share(8))
