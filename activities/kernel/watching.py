"""The watch over running sandboxes: what an operator stops, ends within two seconds, also where it runs already.

    poll (every 0.5 s)   one read of the store: switches, leases and tenant of what runs here ─▶ kill what is covered
    guard (every 0.25 s) the store has not answered for 2 s ─▶ kill everything: nobody could stop it any more (threats 7.6)
    tell (every 0.5 s)   record what was killed, when the store is back if need be; nobody waits for this

A worker whose thread was merely late asks late; only a question that stays open, or fails, counts as silence.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass, field

from sqlalchemy import Connection

from activities.kernel.acting import Acting
from activities.kernel.sandbox.running import Cause, Entry, Running
from activities.record.chain import EventChain
from activities.record.directory import Directory
from activities.record.kill_switches import KillSwitches
from activities.record.leases import Leases
from activities.record.store import TenantStore
from schemas.error import Gen4Error
from schemas.event import Actor, EventDraft
from schemas.kill_switch import KillSwitch

ENGINE = Actor(principal_id="gen4", kind="engine")
POLL_S = 0.5
GUARD_S = 0.25
LOST_AFTER_S = 2.0
JOIN_S = 5.0

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Stops:
    """What the store says at one moment about the sessions that were asked for."""

    switches: tuple[KillSwitch, ...] = ()
    revoked: dict[str, str] = field(default_factory=dict)
    """Reason by session, where the newest lease is revoked."""
    tenant_status: str = "active"

    def judge(self, who: Acting | None) -> Cause | None:
        """Why a sandbox of ``who`` must not go on. One that no activity started is stopped by the widest switches only."""
        keys = who.keys if who is not None else None
        tenant_id, session_id = (keys.tenant_id, keys.session_id) if keys else ("", "")
        for switch in self.switches:
            wide = switch.active and switch.scope in ("everything", "tenant")
            if wide if who is None else switch.covers(tenant_id, session_id, who.capability_id):
                target = f"{switch.scope} {switch.target}".strip()
                return Cause("KILL_SWITCH", f"the switch for {target} is on: {switch.reason}")
        if self.tenant_status != "active":
            return Cause("TENANT_INACTIVE", f"the tenant is {self.tenant_status}")
        if session_id in self.revoked:
            return Cause("LEASE_REVOKED", f"the session's lease was revoked: {self.revoked[session_id] or 'no reason given'}")
        return None


class StoreView:
    """Reads :class:`Stops` from a tenant's store, and writes what was killed there."""

    def __init__(self, store: TenantStore, chain: EventChain | None = None) -> None:
        self._store = store
        self._switches = KillSwitches(store)
        self._leases = Leases(store)
        self._directory = Directory(store)
        self._chain = chain or EventChain(store)

    def look(self, sessions: Collection[str]) -> Stops:
        """Raises InfrastructureError where the store cannot be read."""
        return self._store.read(lambda connection: self._stops(connection, sessions))

    def tell(self, entry: Entry) -> None:
        """Event ``sandbox.killed`` in the session's chain; once, however often it is told."""
        if entry.who is None or entry.cause is None:
            return
        draft = EventDraft(
            kind="sandbox.killed",
            task_id=entry.who.keys.task_id,
            capability_id=entry.who.capability_id or None,
            idempotency_key=f"{entry.who.attempt_key}/sandbox.killed/{entry.number}",
            payload={
                "code": entry.cause.code, "message": entry.cause.message[:1_000], "workflow_id": entry.who.workflow_id,
                "run_id": entry.who.run_id, "effect_key": entry.who.effect_key, "attempt": entry.who.attempt,
            },
        )  # fmt: skip
        self._chain.append(entry.who.keys, ENGINE, draft)

    def _stops(self, connection: Connection, sessions: Collection[str]) -> Stops:
        newest = {session_id: self._leases.newest(connection, session_id) for session_id in sorted(sessions)}
        tenant = self._directory.tenant(connection)
        return Stops(
            switches=tuple(self._switches.active_in(connection)),
            revoked={
                session_id: lease.revoked_reason or ""
                for session_id, lease in newest.items()
                if lease is not None and lease.revoked_at_ms is not None
            },
            tenant_status=tenant.status if tenant is not None else "active",
        )


class Watch:
    """Three daemon threads over one registry. ``with Watch(…):`` while sandboxes may run.

    Args:
        look: what is stopped, of the sessions that run here; see :meth:`StoreView.look`.
        tell: writes down that a sandbox was killed; see :meth:`StoreView.tell`.
    """

    def __init__(
        self,
        running: Running,
        look: Callable[[Collection[str]], Stops],
        tell: Callable[[Entry], None],
        *,
        poll_s: float = POLL_S,
        lost_after_s: float = LOST_AFTER_S,
    ) -> None:
        self._running, self._look, self._tell = running, look, tell
        self._lost_after_s = lost_after_s
        self._ended = threading.Event()
        self._asked_at: float | None = None
        """Since when the store owes an answer; None: it has answered."""
        self._untold: list[Entry] = []
        self._telling = threading.Lock()
        self._threads = [
            threading.Thread(target=self._every, args=(poll_s, self._poll), name="gen4-watch", daemon=True),
            threading.Thread(target=self._every, args=(GUARD_S, self._guard), name="gen4-watch-guard", daemon=True),
            threading.Thread(target=self._every, args=(poll_s, self._tell_all), name="gen4-watch-tell", daemon=True),
        ]

    def __enter__(self) -> Watch:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        for thread in self._threads:
            thread.join(JOIN_S)

    def _every(self, seconds: float, step: Callable[[], None]) -> None:
        while not self._ended.wait(seconds):
            try:
                step()
            except Exception:  # the watch must outlive whatever it meets
                log.exception("the watch over sandboxes failed; it goes on")

    def _poll(self) -> None:
        if not self._running.entries():
            self._asked_at = None  # an idle worker asks nothing
            return
        if self._asked_at is None:
            self._asked_at = time.monotonic()
        try:
            stops = self._look(self._running.sessions())
        except Gen4Error as error:
            log.warning("the store does not answer the watch: %s", error.code)
            return
        self._asked_at = None
        self._note(self._running.kill(stops.judge))

    def _guard(self) -> None:
        asked_at = self._asked_at
        if asked_at is None or time.monotonic() - asked_at < self._lost_after_s:
            return
        cause = Cause("STORE_LOST", f"the store has not answered for {self._lost_after_s:g} s")
        self._note(self._running.kill(lambda who: cause))

    def _note(self, killed: list[Entry]) -> None:
        for entry in killed:
            log.warning("sandbox %d killed: %s", entry.number, entry.cause.code if entry.cause else "")
        with self._telling:
            self._untold += killed

    def _tell_all(self) -> None:
        """Tell of each end in turn; one leaves the list only when it was told, whatever went wrong before."""
        while self._untold:
            entry = self._untold[0]
            try:
                self._tell(entry)
            except Gen4Error as error:
                log.warning("sandbox.killed could not be recorded: %s", error.code)
                return
            with self._telling:
                self._untold.pop(0)
