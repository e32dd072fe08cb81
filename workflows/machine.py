"""The session machine in motion: every hop is recorded before the state changes, refusals too (contracts §1)."""

from __future__ import annotations

from collections.abc import Callable

from temporalio import workflow
from temporalio.exceptions import ApplicationError

from schemas.capabilities import RECORD_TRANSITION, RecordTransition
from schemas.session import Attested, IllegalTransition, Outcome, Signal, State, TransitionRecord, advance
from workflows.calling import call
from workflows.progress import SESSION_STATE


class Machine:
    """``attested`` is what the guards believe; whoever establishes something writes it there."""

    def __init__(self, show: Callable[[], None]) -> None:
        self.state = State.INTAKE
        self.attested = Attested()
        self.cycle = 0
        self._seq = 0
        self._show = show

    def attest(self, **facts: bool | str) -> None:
        self.attested = self.attested.model_copy(update=facts)

    async def take(
        self, *signals: Signal, stage: str, reason_code: str = "", reason: str = "", outcome: Outcome | None = None
    ) -> None:
        """Take signals one after the other; all hops of one call are recorded together, then the state moves.

        Raises:
            ApplicationError: ILLEGAL_TRANSITION or GUARD_FAILED, after the refusal was recorded. The state stays.
        """
        state, seq = self.state, self._seq
        records: list[TransitionRecord] = []
        for signal in signals:
            hops = advance(
                state, seq, signal, self.attested, stage=stage, cycle=self.cycle, reason_code=reason_code, reason=reason[:2_000],
                outcome=outcome,
            )  # fmt: skip
            if isinstance(hops, IllegalTransition):
                await call(RECORD_TRANSITION, RecordTransition(refused=hops), summary=f"refused: {signal} in {state}")
                raise ApplicationError(f"{signal} is not possible in {state}", type=hops.code, non_retryable=True)
            records.extend(hops)
            state, seq = hops[-1].to_state, hops[-1].state_seq
        names = ", ".join(signals)
        await call(RECORD_TRANSITION, RecordTransition(records=tuple(records)), summary=f"{names}: {self.state} → {state}")
        self.state, self._seq = state, seq
        workflow.upsert_search_attributes([SESSION_STATE.value_set(str(state))])
        self._show()
