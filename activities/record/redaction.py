"""Secrets leave a text before it is hashed or kept. Only formats that are unmistakable, so that code stays readable."""

from __future__ import annotations

import re
from typing import Any

_RULES: dict[str, re.Pattern[str]] = {
    "private_key": re.compile(r"-----BEGIN [A-Z0-9 ]*PRIVATE KEY-----.*?(?:-----END [A-Z0-9 ]*PRIVATE KEY-----|\Z)", re.DOTALL),
    "url_password": re.compile(r"(?<=://)[^\s/:@]{1,256}:[^\s/@]{1,256}(?=@)"),
    "authorization": re.compile(r"(?i)(?<=authorization: )(?:basic|bearer|token) [A-Za-z0-9._~+/=-]{8,}"),
    "jwt": re.compile(r"\beyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{8,}"),
    "github_token": re.compile(r"\b(?:gh[oprsu]_[A-Za-z0-9]{20,}|github_pat_[A-Za-z0-9_]{20,})"),
    "gitlab_token": re.compile(r"\bglpat-[A-Za-z0-9_-]{20,}"),
    "aws_key": re.compile(r"\b(?:AKIA|ASIA)[A-Z0-9]{16}\b"),
    "slack_token": re.compile(r"\bxox[abeoprs]-[A-Za-z0-9-]{10,}"),
    "model_key": re.compile(r"\bsk-[A-Za-z0-9_-]{20,}"),
    "index_token": re.compile(r"\bpypi-[A-Za-z0-9_-]{32,}"),
}


class Redactor:
    """Redacts texts and counts per rule. One redactor per document."""

    def __init__(self) -> None:
        self.counts: dict[str, int] = {}

    def text(self, value: str) -> str:
        for rule, pattern in _RULES.items():
            value, count = pattern.subn(f"[redacted:{rule}]", value)
            if count:
                self.counts[rule] = self.counts.get(rule, 0) + count
        return value

    def json(self, value: Any) -> Any:
        """A JSON value with every string in it redacted, keys included."""
        if isinstance(value, str):
            return self.text(value)
        if isinstance(value, dict):
            return {self.text(key): self.json(item) for key, item in value.items()}
        if isinstance(value, (list, tuple)):
            return [self.json(item) for item in value]
        return value
