"""The run cache: agreed runs of trees by run key (contracts §10). Raw outcomes are kept, verdicts never."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from sqlalchemy import Connection, Row, and_, select

from activities.record.chain import EventChain
from activities.record.store import TenantStore, now_ms
from activities.record.tables import RUN_CACHE
from activities.record.upserting import insert_or_ignore
from schemas.event import Actor, EventDraft
from schemas.model import BlobRef
from schemas.task import TraceKeys

Kept = Literal["stored", "known", "conflict"]


@dataclass(frozen=True)
class AgreedRuns:
    """Runs of one key with the same outcomes. ``runs``: JCS list of them in the content store; ``measured``: with coverage."""

    run_key: str
    outcomes_sha256: str
    runs: BlobRef
    measured: bool = False


@dataclass(frozen=True)
class CacheEntry:
    agreed: AgreedRuns
    state: Literal["agreed", "irreproducible"]


class RunCache:
    """No lock: two compiles of one key both run, and what they found is compared when the second one remembers it."""

    def __init__(self, store: TenantStore, clock: Callable[[], int] = now_ms) -> None:
        self._store = store
        self._chain = EventChain(store, clock)
        self._clock = clock

    def recall(self, run_keys: Sequence[str]) -> dict[str, CacheEntry]:
        """What is known of these keys."""
        row = RUN_CACHE.c
        query = select(RUN_CACHE).where(row.tenant_id == self._store.tenant_id, row.run_key.in_(run_keys))
        found = self._store.read(lambda connection: connection.execute(query).all())
        return {entry.run_key: _entry_of(entry) for entry in found}

    def remember(self, keys: TraceKeys, actor: Actor, effect_key: str, agreed: AgreedRuns) -> Kept:
        """Keep agreed runs. An entry with other outcomes becomes irreproducible for good, with an event; of equal ones the newest
        runs stay, for what they refer to is the likeliest to be there, unless only the old ones were measured.

        Raises:
            Refused: TENANT_MISMATCH.
        """
        self._store.require(keys.tenant_id)
        return self._store.write(lambda connection: self._remember(connection, keys, actor, effect_key, agreed))

    def _remember(
        self, connection: Connection, keys: TraceKeys, actor: Actor, effect_key: str, agreed: AgreedRuns
    ) -> Kept:
        time_ms = self._clock()
        kept = {
            "runs_sha256": agreed.runs.sha256, "runs_size": agreed.runs.size, "measured": agreed.measured,
            "updated_at_ms": time_ms,
        }  # fmt: skip
        values = {
            **keys.model_dump(), "version": "1", "run_key": agreed.run_key, "outcomes_sha256": agreed.outcomes_sha256,
            "state": "agreed", "created_at_ms": time_ms, **kept,
        }  # fmt: skip
        if insert_or_ignore(connection, RUN_CACHE, values):
            return "stored"
        here = and_(RUN_CACHE.c.tenant_id == keys.tenant_id, RUN_CACHE.c.run_key == agreed.run_key)
        known = _entry_of(connection.execute(select(RUN_CACHE).where(here).with_for_update()).one())
        if known.state == "irreproducible":
            return "conflict"
        if known.agreed.outcomes_sha256 == agreed.outcomes_sha256:
            if agreed.measured or not known.agreed.measured:
                connection.execute(RUN_CACHE.update().where(here).values(**kept))
            return "known"
        connection.execute(RUN_CACHE.update().where(here).values(state="irreproducible", updated_at_ms=time_ms))
        payload = {"run_key": agreed.run_key, "outcomes": [known.agreed.outcomes_sha256, agreed.outcomes_sha256]}
        key = f"{effect_key}/cache.conflict/{agreed.run_key}"
        draft = EventDraft(kind="cache.conflict", idempotency_key=key, payload=payload)
        self._chain.append(keys, actor, draft, connection=connection)
        return "conflict"


def _entry_of(row: Row[tuple[object, ...]]) -> CacheEntry:
    runs = BlobRef(sha256=row.runs_sha256, size=row.runs_size, media_type="application/json")
    return CacheEntry(AgreedRuns(row.run_key, row.outcomes_sha256, runs, row.measured), row.state)
