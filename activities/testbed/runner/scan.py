"""Mode ``scan``: bandit and detect-secrets look at files. Nothing of them is run, and what they say about themselves
(``# nosec``, allowlist comments, configuration files) does not count: a patch must not be able to switch off its own scan.
"""

from __future__ import annotations

import os
import sys
from importlib import import_module
from importlib.metadata import version
from typing import Any

from .host import Host

_FILTERS = [
    "common.is_invalid_file", "heuristic.is_sequential_string", "heuristic.is_potential_uuid", "heuristic.is_likely_id_string",
    "heuristic.is_templated_secret", "heuristic.is_prefixed_with_dollar_sign", "heuristic.is_indirect_reference",
    "heuristic.is_not_alphanumeric_string",
]  # fmt: skip


def run(job: dict[str, Any], host: Host) -> dict[str, Any]:
    """``job``: work, environment (the scanners), ``python`` and ``texts``: names of files in ``work``.

    Sends a line for each finding: tool, rule, severity, file, line, message. No text of a file is among them.
    """
    os.chdir(job["work"])
    sys.path.insert(0, job["environment"])
    return {"bandit": _bandit(job["python"], host), "detect-secrets": _secrets(job["texts"], host)}


def _bandit(files: list[str], host: Host) -> dict[str, Any]:
    config, manager = import_module("bandit.core.config"), import_module("bandit.core.manager")
    scan = manager.BanditManager(config.BanditConfig(), "file", ignore_nosec=True)
    scan.files_list = [os.path.join(".", name) for name in files]
    scan.run_tests()
    for issue in scan.get_issue_list():
        # Not issue.text: it quotes the password that it found.
        host.send(
            "finding", tool="bandit", rule=issue.test_id, severity=issue.severity.lower(), file=os.path.basename(issue.fname),
            line=issue.lineno, message=issue.test,
        )  # fmt: skip
    return {"version": version("bandit"), "skipped": [os.path.basename(name) for name, _ in scan.skipped]}


def _secrets(files: list[str], host: Host) -> dict[str, Any]:
    plugins, scan = import_module("detect_secrets.core.plugins.util"), import_module("detect_secrets.core.scan")
    detectors = sorted(detector.__name__ for detector in plugins.get_mapping_from_secret_type_to_class().values())
    settings = {
        "filters_used": [{"path": f"detect_secrets.filters.{name}"} for name in _FILTERS],
        "plugins_used": [{"name": name} for name in detectors],
    }
    skipped = []
    with import_module("detect_secrets.settings").transient_settings(settings):
        for name in files:
            try:
                found = list(scan.scan_file(name))
            except Exception:  # noqa: BLE001  one file that a detector cannot read must not hide the others
                skipped.append(name)
                continue
            for secret in found:
                host.send(
                    "finding", tool="detect-secrets", rule=secret.type, severity="", file=name, line=secret.line_number,
                    message="",
                )  # fmt: skip
    return {"version": version("detect-secrets"), "skipped": skipped}
