"""The data converter of clients and workers: pydantic's, but what it cannot read where nobody named a type is handed on.

A start form or a signal may carry anything. Where decoding fails, the SDK lets a new workflow hang for ever and drops a signal
without a word; with this converter the workflow's own door sees the payload and refuses it with a reason.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from temporalio.api.common.v1 import Payload
from temporalio.contrib.pydantic import PydanticPayloadConverter, pydantic_data_converter

UNREADABLE = "(a payload that is not JSON)"
"""Stands for such a payload; no model of ours takes a string in place of an object."""


class ForgivingPayloadConverter(PydanticPayloadConverter):
    """Values with a declared type still raise when they do not decode."""

    def from_payloads(self, payloads: Sequence[Payload], type_hints: list[type] | None = None) -> list[Any]:
        hints: list[Any] = [*(type_hints or [])]
        hints += [None] * (len(payloads) - len(hints))
        return [self._decode(payload, hint) for payload, hint in zip(payloads, hints, strict=False)]

    def _decode(self, payload: Payload, hint: Any) -> Any:
        try:
            return super().from_payloads([payload], None if hint is None else [hint])[0]
        except Exception:
            if hint is None or hint is Any:
                return UNREADABLE
            raise


data_converter = dataclasses.replace(pydantic_data_converter, payload_converter_class=ForgivingPayloadConverter)
