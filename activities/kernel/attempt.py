"""One attempt of one activity, as the SDK names it; where its keys come from (contracts §0, two keys)."""

from __future__ import annotations

from dataclasses import dataclass

from activities.kernel.acting import Acting
from activities.kernel.admission import Call
from activities.kernel.identity import keys_of
from schemas.event import Actor


@dataclass(frozen=True)
class Attempt:
    """``workflow_id`` and ``run_id`` are empty for an activity that no workflow started; ``own_run_id`` is then its own."""

    activity_type: str
    workflow_type: str | None
    namespace: str
    workflow_id: str
    run_id: str
    activity_id: str
    number: int
    is_local: bool = False
    own_run_id: str = ""

    @property
    def effect_key(self) -> str:
        # The run id belongs to it: activity ids count from one again in a continued run.
        return f"{self.workflow_id}/{self._run}/{self.activity_id}"

    @property
    def attempt_key(self) -> str:
        return f"{self._run}/{self.activity_id}/{self.number}"

    @property
    def _run(self) -> str:
        return self.run_id or self.own_run_id

    def acting(self, call: Call, tenant_id: str) -> Acting:
        """Who acts, from what the checks have found so far."""
        row = call.row
        principal = call.standing.identity.principal if call.standing else None
        unknown_kind = "human" if row else "engine"
        return Acting(
            keys=keys_of(row, tenant_id),
            actor=Actor(
                principal_id=row.principal_id if row else "unknown", kind=principal.kind if principal else unknown_kind
            ),
            phase=row.phase if row else "control",
            workflow_id=self.workflow_id,
            run_id=self._run,
            effect_key=self.effect_key,
            attempt_key=self.attempt_key,
            attempt=self.number,
            capability_id=call.capability.id if call.capability else "",
            role=row.role if row else "operator",
            generation=row.generation if row else 1,
        )
