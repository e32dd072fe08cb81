"""Histories as they are kept: whole and readable by a replayer, but for secrets. Payloads stay encoded as they were."""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Iterator
from typing import Any

from activities.record.redaction import Redactor

_PLAIN = base64.b64encode(b"json/plain").decode()
CHILD_STARTED = "childWorkflowExecutionStartedEventAttributes"


def redacted(history: dict[str, Any]) -> dict[str, Any]:
    """Args: ``history``: as the server gives it in JSON, where payloads are base64; plain ones are read, others left alone."""
    cleaned: dict[str, Any] = _clean(history)
    return cleaned


def children_of(history: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """(workflow id, run id) of each child that was started."""
    for event in history.get("events", []):
        if started := event.get(CHILD_STARTED):
            execution = started["workflowExecution"]
            yield str(execution["workflowId"]), str(execution["runId"])


def _clean(value: Any) -> Any:
    if isinstance(value, list):
        return [_clean(item) for item in value]
    if isinstance(value, str):
        return Redactor().text(value)
    if not isinstance(value, dict):
        return value
    if isinstance(value.get("metadata"), dict) and value["metadata"].get("encoding") == _PLAIN and "data" in value:
        return {**value, "data": _clean_data(value["data"])}
    return {key: _clean(item) for key, item in value.items()}


def _clean_data(data: str) -> str:
    """A payload without secrets is kept byte by byte."""
    try:
        content = json.loads(base64.b64decode(data, validate=True))
    except (binascii.Error, ValueError):
        return data
    redactor = Redactor()
    cleaned = redactor.json(content)
    return base64.b64encode(json.dumps(cleaned).encode()).decode() if redactor.counts else data
