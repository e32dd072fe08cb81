"""The job summary of a compile, in Markdown. Everything foreign in it is inert (threats 6.10). Pure."""

from __future__ import annotations

import shlex

from cli.reports import Report
from schemas.details import escaped, fenced
from schemas.rejection import RejectedCheck
from schemas.stamp import AnyStamp, Stamp2
from schemas.testing import counts_of

_TITLES = {"accepted": "accepted", "rejected": "rejected", "irreproducible": "irreproducible", "infra_error": "no verdict"}
_SHOWN = 20
_TEXT = 600


def summary(report: Report, out: str, trust: str | None) -> str:
    """Args:
    out: where the bundle or the Rejection Report is; empty where neither is.
    trust: trust root that verifies it.
    """
    rows = [("Workflow", report.workflow_id), *((f"{name} gate".capitalize(), verdict) for name, verdict in report.gates.items())]
    if report.tests:
        counts = counts_of(report.tests)
        rows.append(("Tests of the patched tree", ", ".join(f"{count} {name}" for name, count in counts.items())))
    if report.stamp is not None:
        rows += _of_stamp(report.stamp)
    if report.rejection is not None:
        rows += [("Patch", f"sha256:{report.rejection.patch_sha256}"), ("Base commit", report.rejection.base_commit)]
    parts = [
        f"## gen4 compile: {_TITLES[report.verdict]}",
        "\n".join(["| | |", "|---|---|", *(f"| {escaped(name)} | {escaped(value)} |" for name, value in rows)]),
    ]
    if report.refused:
        parts.append("\n".join(_shown(check) for check in report.refused[:_SHOWN]))
    if len(report.refused) > _SHOWN:
        parts.append(f"And {len(report.refused) - _SHOWN} more.")
    if report.lost:
        listed = [test[:_TEXT] for test in report.lost[:_SHOWN]] + ["…"] * (len(report.lost) > _SHOWN)
        parts.append("Tests that passed before:\n\n" + fenced("\n".join(listed)))
    if out and report.verdict == "accepted":
        command = ["gen4", "verify", out, *(("--trust", trust) if trust else ())]
        parts.append("Evidence:\n\n" + fenced(shlex.join(command), "sh"))
    elif out:
        parts.append(f"Rejection Report: {escaped(out)}")
    return "\n\n".join(parts) + "\n"


def _of_stamp(stamp: AnyStamp) -> list[tuple[str, str]]:
    rows = [
        ("Fix", stamp.fix.completeness), ("Base commit", stamp.source.base_commit), ("Result tree", stamp.source.result_tree),
        ("Bundle", stamp.bundle_digest), ("Stamp", stamp.stamp_id), ("Signed by", stamp.signer.identity),
    ]  # fmt: skip
    if isinstance(stamp, Stamp2):
        made = "from the cache" if stamp.compile.cache == "hit" else "made now"
        rows.append(("Runs", f"{stamp.compile.runs} of each tree, {made}"))
        regression = stamp.gates.regression
        measured = [f"{metric.name} {metric.verdict}{' (waived)' * metric.waived}" for metric in regression.metrics]
        rows.append(("Measured", ", ".join(measured)))
        rows += [("Waiver", f"{waiver.id} of {waiver.owner} until {waiver.expires_at}") for waiver in regression.waivers]
    return rows


def _shown(check: RejectedCheck) -> str:
    why = " ".join(part for part in (check.member, check.reason) if part)
    todo = f" → {escaped(check.remedy[:_TEXT])}" if check.remedy else ""
    return f"- **{escaped(check.code)}** ({check.gate}): {escaped(why[:_TEXT])}{todo}"
