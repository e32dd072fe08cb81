"""A museum of bad evidence: one defect each, named after it, with the code and reason that it must give."""

from __future__ import annotations

import dataclasses
import json
import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from activities.evidence import sigstore_bundle
from activities.evidence.content import LINE_LIMIT
from activities.evidence.signing import Signer
from activities.evidence.trusting import load_trust
from activities.evidence.verification import CODES, verify_bundle
from activities.kernel import dsse
from schemas.canonical import jcs, sha256_hex
from schemas.error import InputError, Refused
from schemas.evidence import (
    CHECKSUMS,
    PATCH,
    POLICY_CHECK,
    PROVENANCE,
    REQUIRED_MEMBERS,
    SBOM,
    SIGSTORE_BUNDLE,
    SIZE_LIMITS,
    STAMP,
    SUBJECT_MEMBERS,
    TEST_RESULTS,
    TRAJECTORY,
    VALUE_LIMIT,
    timestamp_of,
)
from schemas.gates import Check, GateReport
from schemas.statement import Envelope
from schemas.testing import Outcomes
from schemas.trust import Trust
from schemas.verdict import judge
from tests.evidence.workshop import BASE, NOW_S, PATCHED, Workshop, make_run, make_trust, trusted

NOW_MS = NOW_S * 1000 + 5_000
MUSEUM = Path(__file__).parent / "museum"
Files = dict[str, bytes]
Place = Callable[[Files], Path]


def verify(folder: Path, trust: Trust, **more: Any) -> GateReport:
    return verify_bundle(folder, trust, now_ms=NOW_MS, **more)


def first_failure(report: GateReport) -> Check:
    assert report.verdict == "fail"
    assert [check.code for check in report.checks] == list(CODES)
    return next(check for check in report.checks if check.checked and not check.ok)


def refused(workshop: Workshop, place: Place, files: Files, trust: Trust | None = None) -> tuple[str, str]:
    check = first_failure(verify(place(files), trust or workshop.trust))
    assert check.remedy, "every failed check says what to do"
    return check.code, check.reason


# --- good bundles -----------------------------------------------------------------------------------------------------


def test_a_good_bundle_passes_every_check_but_the_one_without_input(workshop: Workshop, place: Place) -> None:
    report = verify(place(workshop.files), workshop.trust)
    assert (report.verdict, report.codes) == ("pass", ())
    assert [check.code for check in report.checks if not check.checked] == ["PATCH_TREE"]


def test_a_bundle_without_the_optional_envelope_passes(workshop: Workshop, place: Place) -> None:
    files = {name: workshop.files[name] for name in REQUIRED_MEMBERS}
    assert verify(place(files), workshop.trust).verdict == "pass"


def test_a_bundle_of_the_first_release_passes_and_no_change_of_it_does(place: Place) -> None:
    trust = load_trust(MUSEUM / "trust-1.json")
    files = {path.name: path.read_bytes() for path in (MUSEUM / "stamp-1").iterdir()}
    assert verify(place(files), trust).verdict == "pass"
    for name, data in files.items():
        for at in (0, len(data) // 2, len(data) - 1):
            changed = data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]
            assert verify(place({**files, name: changed}), trust).verdict == "fail", (name, at)


def test_the_order_of_subjects_means_nothing(workshop: Workshop, place: Place) -> None:
    files = workshop.variant(statement=lambda body: body["subject"].reverse())
    assert verify(place(files), workshop.trust).verdict == "pass"


def test_expected_parameters_of_the_task_are_accepted(workshop: Workshop, place: Place) -> None:
    expected = {"task_id": "task-1", "repository": "https://forge.example/team/calc.git", "ref": "refs/heads/main"}
    assert verify(place(workshop.files), workshop.trust, expected_parameters=expected).verdict == "pass"


def test_credentials_of_a_repository_url_never_enter_a_bundle(workshop: Workshop) -> None:
    for data in workshop.files.values():
        assert b"secret" not in data
    assert "secret" not in json.dumps(workshop.statement())


# --- the folder -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", REQUIRED_MEMBERS)
def test_a_missing_member(workshop: Workshop, place: Place, name: str) -> None:
    files = {key: data for key, data in workshop.files.items() if key != name}
    assert refused(workshop, place, files) == ("MEMBER_MISSING", "missing")


@pytest.mark.parametrize("name", REQUIRED_MEMBERS)
def test_a_renamed_member_is_missing_and_extra(workshop: Workshop, place: Place, name: str) -> None:
    files = {("x" + key if key == name else key): data for key, data in workshop.files.items()}
    report = verify(place(files), workshop.trust)
    assert report.codes[:2] == ("MEMBER_MISSING", "MEMBER_EXTRA")


@pytest.mark.parametrize("name", ["note.txt", ".hidden", "diff.patch~", "Ｄiff.patch", "a\x1b[2Jb", "e\u0301", "stamp.json "])
def test_an_extra_file(workshop: Workshop, place: Place, name: str) -> None:
    report = verify(place({**workshop.files, name: b""}), workshop.trust)
    check = first_failure(report)
    assert check.code == "MEMBER_EXTRA"
    assert check.member.isascii() and check.member.isprintable()


def test_an_extra_folder(workshop: Workshop, place: Place) -> None:
    folder = place(workshop.files)
    (folder / ".git").mkdir()
    assert first_failure(verify(folder, workshop.trust)).code == "MEMBER_EXTRA"


def test_a_name_that_differs_only_in_case(workshop: Workshop, place: Place) -> None:
    report = verify(place({**workshop.files, "Stamp.json": b"{}"}), workshop.trust)
    assert report.codes[:2] == ("MEMBER_EXTRA", "MEMBER_NOT_REGULAR")
    assert next(check for check in report.checks if check.code == "MEMBER_NOT_REGULAR").reason == "casefold"


@pytest.mark.parametrize("name", [*REQUIRED_MEMBERS, SIGSTORE_BUNDLE])
@pytest.mark.parametrize("kind", ["symlink", "links", "folder", "fifo", "socket"])
def test_a_member_that_is_no_regular_file(
    workshop: Workshop, place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, kind: str
) -> None:
    folder = place(workshop.files)
    aside = tmp_path / "aside"
    (folder / name).rename(aside)
    match kind:
        case "symlink":
            (folder / name).symlink_to(aside)
        case "links":
            os.link(aside, folder / name)
        case "folder":
            (folder / name).mkdir()
        case "fifo":
            os.mkfifo(folder / name)
        case "socket":
            monkeypatch.chdir(folder)  # the path of a socket must be short
            with socket.socket(socket.AF_UNIX) as listener:
                listener.bind(name)
    check = first_failure(verify(folder, workshop.trust))
    assert (check.code, check.reason, check.member) == ("MEMBER_NOT_REGULAR", kind, name)


@pytest.mark.parametrize("name", [*REQUIRED_MEMBERS, SIGSTORE_BUNDLE])
def test_a_member_over_its_limit_is_not_read(workshop: Workshop, place: Place, name: str) -> None:
    folder = place(workshop.files)
    os.truncate(folder / name, SIZE_LIMITS[name] + 1)
    check = first_failure(verify(folder, workshop.trust))
    assert (check.code, check.member, check.actual) == ("SIZE_LIMIT", name, str(SIZE_LIMITS[name] + 1))


def test_a_folder_that_is_not_there_is_a_mistake_of_the_caller(workshop: Workshop, tmp_path: Path) -> None:
    with pytest.raises(InputError) as caught:
        verify(tmp_path / "nowhere", workshop.trust)
    assert caught.value.code == "BUNDLE_NOT_FOUND"


# --- JSON that two parsers read differently ---------------------------------------------------------------------------

_BAD_JSON: dict[str, Callable[[bytes], bytes]] = {
    "duplicate": lambda data: data[:-1] + b"," + data[1:] if data != b"{}" else b'{"a":1,"a":1}',
    "constant": lambda data: data[:-1] + b',"x":NaN}',
    "number": lambda data: data[:-1] + b',"x":1e999}',
    "surrogate": lambda data: data[:-1] + b',"x":"\\ud800"}',
    "bom": lambda data: b"\xef\xbb\xbf" + data,
    "trailing": lambda data: data + b"{}",
    "depth": lambda data: data[:-1] + b',"x":' + b"[" * 70 + b"]" * 70 + b"}",
    "utf8": lambda data: data[:-1] + b',"x":"\xff"}',
    "syntax": lambda data: data[:-1],
}


@pytest.mark.parametrize("name", [TEST_RESULTS, POLICY_CHECK, SBOM, STAMP, PROVENANCE, SIGSTORE_BUNDLE])
@pytest.mark.parametrize("reason", _BAD_JSON)
def test_json_that_is_not_strict(workshop: Workshop, place: Place, name: str, reason: str) -> None:
    files = {**workshop.files, name: _BAD_JSON[reason](workshop.files[name])}
    check = first_failure(verify(place(files), workshop.trust))
    assert (check.code, check.reason, check.member) == ("JSON_DUPLICATE_KEY", reason, name)


@pytest.mark.parametrize("reason", _BAD_JSON)
def test_a_trajectory_line_that_is_not_strict(workshop: Workshop, place: Place, reason: str) -> None:
    line = workshop.files[TRAJECTORY].rstrip(b"\n")
    files = {**workshop.files, TRAJECTORY: line + b"\n" + _BAD_JSON[reason](line) + b"\n"}
    assert refused(workshop, place, files) == ("JSON_DUPLICATE_KEY", reason)


def test_a_signed_payload_with_a_repeated_key(workshop: Workshop, place: Place) -> None:
    payload = jcs(workshop.statement())[:-1] + b',"predicateType":"x"}'
    assert refused(workshop, place, workshop.signed(workshop.files, payload)) == ("SIGNATURE_INVALID", "envelope_shape")


# --- envelope and signer ----------------------------------------------------------------------------------------------


def _envelope(workshop: Workshop) -> dict[str, Any]:
    value: dict[str, Any] = json.loads(workshop.files[PROVENANCE])
    return value


def _with_envelope(workshop: Workshop, envelope: dict[str, Any]) -> Files:
    return {**{name: workshop.files[name] for name in REQUIRED_MEMBERS}, PROVENANCE: jcs(envelope)}


def test_a_foreign_signature_in_the_envelope(workshop: Workshop, place: Place) -> None:
    other = dsse.sign(ec.generate_private_key(ec.SECP256R1()), "application/vnd.in-toto+json", b"{}")
    envelope = {**_envelope(workshop), "signatures": [{"keyid": "", "sig": other.signatures[0].sig}]}
    assert refused(workshop, place, _with_envelope(workshop, envelope)) == ("SIGNATURE_INVALID", "bad_signature")


@pytest.mark.parametrize("count", [0, 2])
def test_not_exactly_one_signature(workshop: Workshop, place: Place, count: int) -> None:
    envelope = _envelope(workshop)
    envelope["signatures"] = envelope["signatures"] * count
    assert refused(workshop, place, _with_envelope(workshop, envelope)) == ("SIGNATURE_INVALID", "signature_count")


def _other_key_id(envelope: dict[str, Any]) -> None:
    envelope["signatures"][0]["keyid"] = "k"


def _unknown_field(envelope: dict[str, Any]) -> None:
    envelope["x"] = 1


def _loose_base64(envelope: dict[str, Any]) -> None:
    envelope["payload"] += "\n"


def _no_payload(envelope: dict[str, Any]) -> None:
    del envelope["payload"]


@pytest.mark.parametrize("change", [_other_key_id, _unknown_field, _loose_base64, _no_payload])
def test_an_envelope_of_another_shape(workshop: Workshop, place: Place, change: Callable[[dict[str, Any]], None]) -> None:
    envelope = _envelope(workshop)
    change(envelope)
    assert refused(workshop, place, _with_envelope(workshop, envelope)) == ("SIGNATURE_INVALID", "envelope_shape")


def test_an_envelope_spelled_differently(workshop: Workshop, place: Place) -> None:
    files = {**workshop.files, PROVENANCE: json.dumps(_envelope(workshop), indent=1).encode()}
    assert refused(workshop, place, files) == ("SIGNATURE_INVALID", "envelope_shape")


def test_a_payload_type_changed_after_signing(workshop: Workshop, place: Place) -> None:
    envelope = {**_envelope(workshop), "payloadType": "application/json"}
    assert refused(workshop, place, _with_envelope(workshop, envelope)) == ("SIGNATURE_INVALID", "bad_signature")


def test_the_envelope_of_another_bundle(workshop: Workshop, place: Place) -> None:
    other = workshop.variant(stamp=lambda stamp: stamp.update(candidate_id="other"))
    files = {**workshop.files, PROVENANCE: other[PROVENANCE], SIGSTORE_BUNDLE: other[SIGSTORE_BUNDLE]}
    assert refused(workshop, place, files) == ("SUBJECT_MISMATCH", "digest")


def test_two_envelopes_that_differ(workshop: Workshop, place: Place) -> None:
    again = workshop.variant()
    files = {**workshop.files, SIGSTORE_BUNDLE: again[SIGSTORE_BUNDLE]}
    assert refused(workshop, place, files) == ("SIGNATURE_INVALID", "envelope_mismatch")


def test_a_sigstore_bundle_with_another_hint(workshop: Workshop, place: Place) -> None:
    envelope = Envelope.model_validate(_envelope(workshop))
    files = {**workshop.files, SIGSTORE_BUNDLE: sigstore_bundle.encode(sigstore_bundle.wrap(envelope, "AAAA"))}
    assert refused(workshop, place, files) == ("SIGNATURE_INVALID", "hint_unknown")


def test_a_sigstore_bundle_of_another_shape(workshop: Workshop, place: Place) -> None:
    value = json.loads(workshop.files[SIGSTORE_BUNDLE])
    value["verificationMaterial"]["tlogEntries"] = [{}]
    files = {**workshop.files, SIGSTORE_BUNDLE: jcs(value)}
    assert refused(workshop, place, files) == ("SIGNATURE_INVALID", "envelope_shape")


def _stranger() -> Signer:
    return Signer(ec.generate_private_key(ec.SECP256R1()))


@pytest.mark.parametrize("names_own_key", [True, False])
def test_everything_signed_again_by_a_stranger(workshop: Workshop, place: Place, names_own_key: bool) -> None:
    stranger = _stranger()

    def own(stamp: dict[str, Any]) -> None:
        if names_own_key:
            stamp["signer"]["key_or_issuer"] = stranger.hint

    files = workshop.variant(stamp=own, signer=stranger)
    report = verify(place(files), workshop.trust)
    assert report.codes[:2] == ("SIGNATURE_INVALID", "SIGNER_UNTRUSTED")
    plain = {name: files[name] for name in REQUIRED_MEMBERS}
    reason = "hint_unknown" if names_own_key else "bad_signature"
    assert refused(workshop, place, plain) == ("SIGNATURE_INVALID", reason)


def test_a_second_trust_file_refuses_the_bundle(workshop: Workshop, place: Place) -> None:
    """Threats 1.3: a signature means something only to those who trust its key."""
    other = workshop.trust.model_copy(update={"signers": (trusted(_stranger(), NOW_S - 60),)})
    assert refused(workshop, place, workshop.files, other) == ("SIGNATURE_INVALID", "hint_unknown")


def test_nothing_listed_means_nothing_trusted(workshop: Workshop, place: Place) -> None:
    empty = make_trust(policies=())
    assert refused(workshop, place, workshop.files, empty) == ("SIGNATURE_INVALID", "hint_unknown")


def _trusting(workshop: Workshop, **changes: Any) -> Trust:
    return workshop.trust.model_copy(update={"signers": (workshop.trust.signers[0].model_copy(update=changes),)})


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"revoked_at": timestamp_of(NOW_S + 10_000)}, "revoked"),
        ({"revoked_at": timestamp_of(NOW_S - 10_000)}, "revoked"),
        ({"valid_until": timestamp_of(NOW_S)}, "expired"),
        ({"valid_from": timestamp_of(NOW_S + 60)}, "not_yet_valid"),
        ({"builder_ids": ()}, "builder"),
        ({"builder_ids": ("urn:gen4:builder/isolated",)}, "builder"),
    ],
)
def test_a_key_that_may_not_sign_this(workshop: Workshop, place: Place, changes: dict[str, Any], reason: str) -> None:
    assert refused(workshop, place, workshop.files, _trusting(workshop, **changes)) == ("SIGNER_UNTRUSTED", reason)


@pytest.mark.parametrize(
    "changes",
    [
        {"valid_until": timestamp_of(NOW_S + 60)},
        {"revoked_at": timestamp_of(NOW_S - 60), "kept": ("KEPT",)},
        {"revoked_at": timestamp_of(NOW_S + 60), "kept": ("KEPT",), "valid_until": timestamp_of(NOW_S + 60)},
    ],
    ids=["rotated", "revoked but kept", "rotated, revoked, kept"],
)
def test_bundles_outlive_the_rotation_of_their_key_and_kept_ones_its_revocation(
    workshop: Workshop, place: Place, changes: dict[str, Any]
) -> None:
    changes = {**changes, "kept": tuple(workshop.stamp_digest for _ in changes.get("kept", ()))}
    report = verify_bundle(place(workshop.files), _trusting(workshop, **changes), now_ms=NOW_MS + 10**12)
    assert report.verdict == "pass"


def test_a_trust_root_of_separated_roles_refuses_an_embedded_builder(workshop: Workshop, place: Place) -> None:
    separated = workshop.trust.model_copy(update={"assurance": "separated"})
    assert refused(workshop, place, workshop.files, separated) == ("SIGNER_UNTRUSTED", "assurance")


def test_a_key_listed_twice_is_ambiguous(workshop: Workshop, place: Place) -> None:
    twice = workshop.trust.model_copy(update={"signers": workshop.trust.signers * 2})
    assert refused(workshop, place, workshop.files, twice) == ("SIGNER_UNTRUSTED", "ambiguous")


def test_a_listed_key_that_is_not_the_one_of_its_hint(workshop: Workshop, place: Place) -> None:
    trust = _trusting(workshop, public_key=_stranger().public_pem)
    assert refused(workshop, place, workshop.files, trust) == ("SIGNATURE_INVALID", "algorithm")


# --- statement --------------------------------------------------------------------------------------------------------


def test_a_signed_payload_of_another_type(workshop: Workshop, place: Place) -> None:
    files = workshop.variant(payload_type="application/json")
    assert refused(workshop, place, files) == ("PAYLOAD_TYPE", "payload_type")


@pytest.mark.parametrize(
    ("key", "value"), [("predicateType", "https://slsa.dev/provenance/v0.2"), ("_type", "https://in-toto.io/Statement/v0.1")]
)
def test_another_statement_or_predicate_type(workshop: Workshop, place: Place, key: str, value: str) -> None:
    assert refused(workshop, place, workshop.variant(statement=lambda body: body.update({key: value}))) == (
        "PREDICATE_TYPE",
        "type",
    )


def test_a_payload_that_is_no_statement(workshop: Workshop, place: Place) -> None:
    body = {"predicate": {"runDetails": {"builder": {"id": "urn:gen4:builder/embedded"}}}}
    assert refused(workshop, place, workshop.signed(workshop.files, jcs(body))) == ("PREDICATE_TYPE", "statement")


def test_a_predicate_with_an_unknown_field(workshop: Workshop, place: Place) -> None:
    files = workshop.variant(statement=lambda body: body["predicate"]["buildDefinition"].update(extra=1))
    assert refused(workshop, place, files) == ("PREDICATE_TYPE", "predicate")


def _drop_subject(body: dict[str, Any]) -> None:
    body["subject"].pop()


def _repeat_subject(body: dict[str, Any]) -> None:
    body["subject"].append(body["subject"][0])


def _foreign_subject(body: dict[str, Any]) -> None:
    body["subject"].append({"name": "../etc/passwd", "digest": {"sha256": "0" * 64}})


def _many_subjects(body: dict[str, Any]) -> None:
    body["subject"] = body["subject"] * 10


def _swapped_subjects(body: dict[str, Any]) -> None:
    first, second = body["subject"][:2]
    first["digest"], second["digest"] = second["digest"], first["digest"]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (_drop_subject, "names"), (_repeat_subject, "duplicate"), (_foreign_subject, "names"), (_many_subjects, "count"),
        (_swapped_subjects, "digest"),
    ],
)  # fmt: skip
def test_a_subject_that_is_not_the_members(
    workshop: Workshop, place: Place, change: Callable[[dict[str, Any]], None], reason: str
) -> None:
    assert refused(workshop, place, workshop.variant(statement=change)) == ("SUBJECT_MISMATCH", reason)


@pytest.mark.parametrize("digest", ["A" * 64, "a" * 63, "a" * 65, ""])
def test_a_subject_digest_of_another_form(workshop: Workshop, place: Place, digest: str) -> None:
    files = workshop.variant(statement=lambda body: body["subject"][0].update(digest={"sha256": digest}))
    assert refused(workshop, place, files) == ("PREDICATE_TYPE", "statement")


def _build(body: dict[str, Any]) -> dict[str, Any]:
    definition: dict[str, Any] = body["predicate"]["buildDefinition"]
    return definition


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda body: _build(body).update(buildType="urn:other"), "build_type"),
        (lambda body: _build(body)["externalParameters"].update(extra="1"), "names"),
        (lambda body: _build(body)["externalParameters"].pop("ref"), "names"),
        (lambda body: _build(body)["externalParameters"].update(ref="refs/heads/other"), "value"),
        (lambda body: _build(body)["externalParameters"].update(task_id="other"), "value"),
        (lambda body: _build(body)["externalParameters"].update(profile="isolated"), "value"),
        (lambda body: _build(body)["resolvedDependencies"][0]["digest"].update(gitCommit="0" * 40), "dependencies"),
        (lambda body: _build(body)["resolvedDependencies"].pop(), "dependencies"),
    ],
)
def test_parameters_that_are_not_those_of_the_stamp(
    workshop: Workshop, place: Place, change: Callable[[dict[str, Any]], None], reason: str
) -> None:
    assert refused(workshop, place, workshop.variant(statement=change)) == ("UNKNOWN_PARAMETER", reason)


@pytest.mark.parametrize("name", ["task_id", "repository", "ref", "profile", "unknown"])
def test_a_good_bundle_of_another_task(workshop: Workshop, place: Place, name: str) -> None:
    report = verify(place(workshop.files), workshop.trust, expected_parameters={name: "other"})
    assert first_failure(report).code == "UNKNOWN_PARAMETER"


# --- checksums --------------------------------------------------------------------------------------------------------


def _lines(workshop: Workshop) -> list[bytes]:
    return workshop.files[CHECKSUMS].splitlines(keepends=True)


_CHECKSUM_DEFECTS: dict[str, tuple[Callable[[list[bytes]], bytes], str]] = {
    "no final LF": (lambda lines: b"".join(lines)[:-1], "CHECKSUM_FORMAT"),
    "CRLF": (lambda lines: b"".join(lines).replace(b"\n", b"\r\n"), "CHECKSUM_FORMAT"),
    "comment": (lambda lines: b"# note\n" + b"".join(lines), "CHECKSUM_FORMAT"),
    "binary mark": (lambda lines: b"".join(lines).replace(b"  ", b" *"), "CHECKSUM_FORMAT"),
    "one space": (lambda lines: b"".join(lines).replace(b"  ", b" "), "CHECKSUM_FORMAT"),
    "upper case": (lambda lines: lines[0][:64].upper() + lines[0][64:] + b"".join(lines[1:]), "CHECKSUM_FORMAT"),
    "escape": (lambda lines: b"\\" + b"".join(lines), "CHECKSUM_FORMAT"),
    "path": (lambda lines: b"".join(lines).replace(b"diff.patch", b"./diff.patch"), "CHECKSUM_FORMAT"),
    "empty line": (lambda lines: b"".join(lines) + b"\n", "CHECKSUM_FORMAT"),
    "repeated line": (lambda lines: b"".join([*lines, lines[0]]), "CHECKSUM_FORMAT"),
    "missing line": (lambda lines: b"".join(lines[1:]), "CHECKSUM_FORMAT"),
    "self entry": (lambda lines: b"0" * 64 + b"  checksums.sha256\n" + b"".join(lines), "CHECKSUM_FORMAT"),
    "empty": (lambda lines: b"", "CHECKSUM_FORMAT"),
    "reversed": (lambda lines: b"".join(reversed(lines)), "CHECKSUM_ORDER"),
    "swapped": (lambda lines: b"".join([lines[1], lines[0], *lines[2:]]), "CHECKSUM_ORDER"),
    "another digest": (lambda lines: b"0" * 64 + lines[0][64:] + b"".join(lines[1:]), "CHECKSUM_MISMATCH"),
}  # fmt: skip


@pytest.mark.parametrize("defect", _CHECKSUM_DEFECTS)
def test_signed_checksums_with_a_defect(workshop: Workshop, place: Place, defect: str) -> None:
    change, code = _CHECKSUM_DEFECTS[defect]
    files = workshop.variant(members={CHECKSUMS: change(_lines(workshop))})
    assert refused(workshop, place, files)[0] == code


# --- stamp ------------------------------------------------------------------------------------------------------------


def _set(path: str, value: Any) -> Callable[[dict[str, Any]], None]:
    def change(stamp: dict[str, Any]) -> None:
        *folders, last = path.split(".")
        for folder in folders:
            stamp = stamp[folder]
        stamp[last] = value

    return change


def _with_metric(name: str, verdict: str, waived: bool) -> Callable[[dict[str, Any]], None]:
    return lambda stamp: stamp["gates"]["regression"]["metrics"].append({"name": name, "verdict": verdict, "waived": waived})


def _waiver(id: str, metric: str, expires_s: int, subject: str = "*") -> dict[str, str]:
    return {"id": id, "metric": metric, "subject": subject, "owner": "mo", "expires_at": timestamp_of(expires_s)}


_STAMP_DEFECTS: list[tuple[Callable[[dict[str, Any]], Any], str, str]] = [
    (_set("schema_version", "stamp/1"), "STAMP_SCHEMA", "schema"),
    (_set("schema_version", "stamp/3"), "STAMP_SCHEMA", "schema"),
    (_set("unknown", 1), "STAMP_SCHEMA", "schema"),
    (_set("supersedes", None), "STAMP_SCHEMA", "schema"),
    (_set("compile.cache", "stale"), "STAMP_SCHEMA", "schema"),
    (_set("compile.probe", "skipped"), "STAMP_SCHEMA", "schema"),
    (_set("gates.regression.waived", True), "STAMP_SCHEMA", "schema"),
    (_set("compile.network", "host"), "STAMP_SCHEMA", "schema"),
    (_set("created_at", "2026-02-30T00:00:00Z"), "STAMP_SCHEMA", "schema"),
    (_set("created_at", "2026-02-03 00:00:00"), "STAMP_SCHEMA", "schema"),
    (_set("created_at", timestamp_of(NOW_S + 100_000)), "STAMP_SCHEMA", "created_at"),
    (_set("created_at", timestamp_of(NOW_S - 100_000)), "SIGNER_UNTRUSTED", "not_yet_valid"),
    (lambda stamp: stamp.pop("candidate_id"), "STAMP_SCHEMA", "schema"),
    (_set("stamp_id", "stm_" + "A" * 32), "STAMP_ID", "format"),
    (_set("stamp_id", "stm_" + "a" * 31), "STAMP_ID", "format"),
    (_set("stamp_id", "stm_" + "a" * 32 + "\n"), "STAMP_ID", "format"),
    (_set("signer.identity", "somebody else"), "STAMP_ID", "signer"),
    (_set("bundle_digest", "sha256:" + "0" * 64), "STAMP_BUNDLE_DIGEST", "digest"),
    (lambda stamp: stamp["members"].pop(SBOM), "STAMP_MEMBERS", "names"),
    (_set("members.extra", {"sha256": "0" * 64, "size": 1}), "STAMP_MEMBERS", "names"),
    (lambda stamp: stamp["members"][SBOM].update(size=1), "STAMP_MEMBERS", "digest"),
    (lambda stamp: stamp["members"][SBOM].update(sha256="0" * 64), "STAMP_MEMBERS", "digest"),
    (_set("policy.policy_digest", "sha256:" + "0" * 64), "POLICY_DIGEST", "stamp"),
    (_set("engines.policy", "opa 0.1"), "POLICY_DIGEST", "stamp"),
    (_set("source.ref", "refs/heads/other"), "UNKNOWN_PARAMETER", "value"),
    (_set("source.repo", "other"), "UNKNOWN_PARAMETER", "value"),
    (_set("task_id", "other"), "UNKNOWN_PARAMETER", "value"),
    (_set("compile.environment_digest", "sha256:" + "0" * 64), "UNKNOWN_PARAMETER", "dependencies"),
    (_set("gates.regression.verdict", "fail"), "GATE_NOT_PASSED", "regression"),
    (_set("gates.determinism.verdict", "inconclusive"), "GATE_NOT_PASSED", "determinism"),
    (_set("gates.trust.verdict", "fail"), "GATE_NOT_PASSED", "trust"),
    (lambda stamp: stamp["gates"]["trust"]["checks"][0].update(ok=False), "GATE_NOT_PASSED", "trust"),
    (_set("gates.regression.baseline_commit", "0" * 40), "GATE_NOT_PASSED", "baseline"),
    (_set("gates.regression.metrics", []), "GATE_NOT_PASSED", "metrics"),
    (_set("gates.determinism.runs", 1), "GATE_NOT_PASSED", "runs"),
    (_set("gates.determinism.rerun_bundle_digest", "sha256:" + "0" * 64), "GATE_NOT_PASSED", "rerun"),
    (_set("compile.sentinels", 0), "GATE_NOT_PASSED", "sentinels"),
    (_set("compile.receipts", []), "GATE_NOT_PASSED", "receipts"),
    (lambda stamp: stamp["compile"]["receipts"].reverse(), "GATE_NOT_PASSED", "receipts"),
    (_set("compile.receipts", ["0" * 64, "0" * 64]), "GATE_NOT_PASSED", "receipts"),
    (_set("gates.regression.metrics", [{"name": "coverage", "verdict": "pass", "waived": False}]), "GATE_NOT_PASSED", "metrics"),
    (_with_metric("coverage", "fail", False), "GATE_NOT_PASSED", "metrics"),
    (_with_metric("coverage", "inconclusive", True), "GATE_NOT_PASSED", "metrics"),
    (_with_metric("tests", "pass", False), "GATE_NOT_PASSED", "metrics"),
    (_with_metric("coverage", "fail", True), "GATE_NOT_PASSED", "waivers"),
    (_set("gates.regression.waivers", [_waiver("w", "coverage", NOW_S)]), "GATE_NOT_PASSED", "waiver_expired"),
    (_set("gates.regression.waivers", [_waiver("w", "coverage", NOW_S + 9)] * 2), "GATE_NOT_PASSED", "waivers"),
    (_set("fix.completeness", "partial"), "GATE_NOT_PASSED", "verdict"),
    (_set("fix.targets_sha256", "0" * 64), "GATE_NOT_PASSED", "verdict"),
]  # fmt: skip


@pytest.mark.parametrize(("change", "code", "reason"), _STAMP_DEFECTS)
def test_a_signed_stamp_with_a_defect(
    workshop: Workshop, place: Place, change: Callable[[dict[str, Any]], Any], code: str, reason: str
) -> None:
    assert refused(workshop, place, workshop.variant(stamp=change)) == (code, reason)


@pytest.mark.parametrize("change", [_set("candidate_id", "other"), _set("fix.completeness", "partial"), _set("compile.runs", 9)])
def test_a_stamp_changed_and_signed_by_a_stranger(
    workshop: Workshop, place: Place, change: Callable[[dict[str, Any]], None]
) -> None:
    assert refused(workshop, place, workshop.variant(stamp=change, signer=_stranger()))[0] == "SIGNATURE_INVALID"


# --- policy and verdict -----------------------------------------------------------------------------------------------


def _with_policy(workshop: Workshop, **changes: Any) -> Files:
    policy = workshop.inputs.policy.model_copy(update=changes)
    return workshop.remade(dataclasses.replace(workshop.inputs, policy=policy))


def test_a_policy_that_the_trust_root_does_not_list(workshop: Workshop, place: Place) -> None:
    assert refused(workshop, place, _with_policy(workshop, policy_digest="sha256:" + "0" * 64)) == ("POLICY_DIGEST", "not_listed")


@pytest.mark.parametrize(
    "changes",
    [
        {"decision": "deny"},
        {"required_checks": ("patch.paths",)},
        {"required_checks": ("patch.paths", "patch.links", "patch.size")},
        {"required_checks": (), "results": ()},
    ],
)
def test_a_policy_check_that_did_not_allow(workshop: Workshop, place: Place, changes: dict[str, Any]) -> None:
    assert refused(workshop, place, _with_policy(workshop, **changes)) == ("POLICY_DIGEST", "not_allowed")


def test_a_policy_rule_that_was_denied(workshop: Workshop, place: Place) -> None:
    first, second = workshop.inputs.policy.results
    denied = (first, second.model_copy(update={"outcome": "deny"}))
    assert refused(workshop, place, _with_policy(workshop, results=denied)) == ("POLICY_DIGEST", "not_allowed")


def _with_outcomes(workshop: Workshop, base: Outcomes, patched: Outcomes) -> Files:
    inputs = dataclasses.replace(
        workshop.inputs, base=make_run(base, "1"), base_outcomes=base, patched=make_run(patched, "2"), patched_outcomes=patched,
        judgement=judge(base, patched),
    )  # fmt: skip
    return workshop.remade(inputs)


@pytest.mark.parametrize(
    ("base", "patched"),
    [
        (PATCHED, PATCHED),
        (BASE, BASE),
        (BASE, {**PATCHED, "tests/test_calc.py::test_zero": "skipped"}),
        (BASE, {"tests/test_calc.py::test_add": "passed"}),
        ({}, {}),
    ],
)
def test_a_stamp_cannot_claim_what_the_outcomes_do_not_show(
    workshop: Workshop, place: Place, base: Outcomes, patched: Outcomes
) -> None:
    assert refused(workshop, place, _with_outcomes(workshop, base, patched)) == ("GATE_NOT_PASSED", "verdict")


_LOST: Outcomes = {**PATCHED, "tests/test_calc.py::test_zero": "failed"}


@pytest.mark.parametrize(
    ("waiver", "reason"),
    [
        (_waiver("w", "tests", NOW_S + 60, "tests/test_calc.py::test_zero"), None),
        (_waiver("w", "tests", NOW_S, "tests/test_calc.py::test_zero"), "waiver_expired"),
        (_waiver("w", "tests", NOW_S + 60, "tests/test_calc.py::test_other"), "verdict"),
        (_waiver("w", "coverage", NOW_S + 60, "tests/test_calc.py::test_zero"), "waivers"),
    ],
)
def test_a_lost_test_counts_unless_a_waiver_covers_exactly_it(
    workshop: Workshop, place: Place, waiver: dict[str, str], reason: str | None
) -> None:
    inputs = dataclasses.replace(
        workshop.inputs, patched=make_run(_LOST, "2"), patched_outcomes=_LOST, judgement=judge(BASE, _LOST)
    )

    def waive(stamp: dict[str, Any]) -> None:
        stamp["gates"]["regression"].update(
            metrics=[{"name": "tests", "verdict": "fail", "waived": True}], waivers=[waiver]
        )

    files = workshop.remade(inputs, stamp=waive)
    if reason is None:
        assert verify(place(files), workshop.trust).verdict == "pass"
    else:
        assert refused(workshop, place, files) == ("GATE_NOT_PASSED", reason)


def test_a_partial_fix_is_one_and_says_so(workshop: Workshop, place: Place) -> None:
    base: Outcomes = {**BASE, "tests/test_calc.py::test_other": "failed"}
    patched: Outcomes = {**PATCHED, "tests/test_calc.py::test_other": "failed"}
    files = _with_outcomes(workshop, base, patched)
    assert json.loads(files[STAMP])["fix"]["completeness"] == "partial"
    assert verify(place(files), workshop.trust).verdict == "pass"


# --- the patch and the repository -------------------------------------------------------------------------------------


SNAPSHOT = "5a" * 32


class TreeOf:
    """An object store that knows one answer."""

    def __init__(self, result: str | Refused, snapshot: str | Refused = SNAPSHOT) -> None:
        self._result, self._snapshot = result, snapshot

    def apply(self, base_tree: str, diff: bytes) -> str:
        return _answer(self._result)

    def snapshot_hash(self, tree: str) -> str:
        return _answer(self._snapshot)


def _answer(value: str | Refused) -> str:
    if isinstance(value, Refused):
        raise value
    return value


def test_with_the_repository_the_patch_is_checked(workshop: Workshop, place: Place) -> None:
    folder, tree = place(workshop.files), workshop.stamp["source"]["result_tree"]
    good = verify(folder, workshop.trust, objects=TreeOf(tree))
    assert good.verdict == "pass" and all(check.checked for check in good.checks)
    other = first_failure(verify(folder, workshop.trust, objects=TreeOf("0" * 40)))
    assert (other.code, other.reason) == ("PATCH_TREE", "tree")
    broken = first_failure(verify(folder, workshop.trust, objects=TreeOf(Refused("PATCH_DOES_NOT_APPLY", "no"))))
    assert (broken.code, broken.reason) == ("PATCH_TREE", "PATCH_DOES_NOT_APPLY")
    elsewhere = first_failure(verify(folder, workshop.trust, objects=TreeOf(tree, "0" * 64)))
    assert (elsewhere.code, elsewhere.reason) == ("TRAJECTORY_PATCH", "snapshot")
    unknown = verify(folder, workshop.trust, objects=TreeOf(tree, Refused("OBJECT_MISSING", "no")))
    assert (unknown.verdict, unknown.codes) == ("fail", ()), "not checked is not passed"


# --- the trajectory (threats 5.4) -------------------------------------------------------------------------------------


def _steps(workshop: Workshop, count: int = 3) -> list[dict[str, Any]]:
    """A chain that ends with the step of the good bundle."""
    last: dict[str, Any] = json.loads(workshop.files[TRAJECTORY])
    return _chained([*({**last, "tool_call": None, "thought": str(number)} for number in range(count - 1)), last])


def _chained(steps: list[dict[str, Any]]) -> list[dict[str, Any]]:
    previous = "0" * 64
    for number, step in enumerate(steps, start=1):
        step["seq"], step["prev_hash"] = number, previous
        previous = sha256_hex(jcs(step))
    return steps


def _recorded(workshop: Workshop, steps: list[dict[str, Any]]) -> Files:
    trajectory = b"".join(jcs(step) + b"\n" for step in steps)
    return workshop.remade(dataclasses.replace(workshop.inputs, trajectory=trajectory))


def _drop_step(steps: list[dict[str, Any]]) -> None:
    del steps[1]


def _swap_steps(steps: list[dict[str, Any]]) -> None:
    steps[0], steps[1] = steps[1], steps[0]


def _edit_thought(steps: list[dict[str, Any]]) -> None:
    steps[0]["thought"] = "other"


def _edit_output(steps: list[dict[str, Any]]) -> None:
    steps[2]["tool_output"] = "all tests pass"


def _no_step(steps: list[dict[str, Any]]) -> None:
    del steps[2]["snapshot_hash"]


def _other_recorder(steps: list[dict[str, Any]]) -> None:
    steps[2]["recorder"] = "nobody"


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (_drop_step, "seq"), (_swap_steps, "seq"), (_edit_thought, "link"), (_edit_output, "output"), (_no_step, "step"),
        (_other_recorder, "step"),
    ],
)  # fmt: skip
def test_a_broken_chain_of_steps(
    workshop: Workshop, place: Place, change: Callable[[list[dict[str, Any]]], None], reason: str
) -> None:
    steps = _steps(workshop)
    assert verify(place(_recorded(workshop, steps)), workshop.trust).verdict == "pass"
    change(steps)
    assert refused(workshop, place, _recorded(workshop, steps)) == ("TRAJECTORY_CHAIN", reason)


@pytest.mark.parametrize(
    ("name", "value"), [("patch_sha256", "0" * 64), ("result_tree", "0" * 40), ("tree", "0" * 40), ("patch_sha256", None)]
)
def test_a_trajectory_of_another_patch(workshop: Workshop, place: Place, name: str, value: str | None) -> None:
    steps = _steps(workshop)
    steps[-1]["tool_call"]["args"][name] = value
    assert refused(workshop, place, _recorded(workshop, _chained(steps))) == ("TRAJECTORY_PATCH", name)


def test_a_last_step_without_a_patch_needs_the_repository(workshop: Workshop, place: Place) -> None:
    steps = _steps(workshop)
    steps[-1]["tool_call"] = None
    folder = place(_recorded(workshop, _chained(steps)))
    report = verify(folder, workshop.trust)
    assert report.verdict == "pass"
    assert [check.code for check in report.checks if not check.checked] == ["PATCH_TREE", "TRAJECTORY_PATCH"]
    assert verify(folder, workshop.trust, objects=TreeOf(workshop.stamp["source"]["result_tree"])).verdict == "pass"


# --- limits of time and of lines --------------------------------------------------------------------------------------


def test_a_verification_that_takes_too_long_is_refused(workshop: Workshop, place: Place) -> None:
    ticks = iter(range(1_000))
    report = verify(place(workshop.files), workshop.trust, limit_s=9.0, clock=lambda: float(next(ticks)))
    assert (first_failure(report).code, first_failure(report).reason) == ("SIZE_LIMIT", "time")
    assert not all(check.checked for check in report.checks)


@pytest.mark.parametrize("values", [b"[],", b"{},", b"0,"])
def test_a_file_of_very_many_values_is_not_parsed(workshop: Workshop, place: Place, values: bytes) -> None:
    data = b"[" + values * (VALUE_LIMIT + 1) + b"0]"
    assert refused(workshop, place, {**workshop.files, TEST_RESULTS: data}) == ("SIZE_LIMIT", "values")


@pytest.mark.parametrize("line", [b'"' + b"x" * LINE_LIMIT + b'"\n', b"[" + b"[]," * VALUE_LIMIT + b"0]\n"], ids=["long", "full"])
def test_a_line_that_no_step_needs_is_not_parsed(workshop: Workshop, place: Place, line: bytes) -> None:
    assert refused(workshop, place, {**workshop.files, TRAJECTORY: line}) == ("SIZE_LIMIT", "line")


# --- trust comes from the caller alone (threats 1.1) ------------------------------------------------------------------


def test_trust_is_never_found_beside_the_bundle(workshop: Workshop, place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    stranger = _stranger()
    own_trust = jcs(workshop.trust.model_copy(update={"signers": (trusted(stranger, NOW_S - 60),)}))
    files = workshop.variant(stamp=_set("signer.key_or_issuer", stranger.hint), signer=stranger)
    folder = place(files)
    for beside in (folder.parent / "trust.json", folder.parent / ".gen4" / "keys" / "trust.json"):
        beside.parent.mkdir(parents=True, exist_ok=True)
        beside.write_bytes(own_trust)
    monkeypatch.chdir(folder.parent)
    assert first_failure(verify(folder, workshop.trust)).reason == "hint_unknown"
    assert refused(workshop, place, {**files, "trust.json": own_trust}) == ("MEMBER_EXTRA", "extra")


# --- any change at all ------------------------------------------------------------------------------------------------

_SUBJECT_CODES = {name: {"SUBJECT_MISMATCH", "JSON_DUPLICATE_KEY"} for name in SUBJECT_MEMBERS}
_EXPECTED_CODES = {
    **_SUBJECT_CODES, PROVENANCE: {"JSON_DUPLICATE_KEY", "SIGNATURE_INVALID"},
    SIGSTORE_BUNDLE: {"JSON_DUPLICATE_KEY", "SIGNATURE_INVALID"},
}  # fmt: skip


@pytest.mark.parametrize("name", [*REQUIRED_MEMBERS, SIGSTORE_BUNDLE])
@pytest.mark.parametrize("change", ["append", "truncate", "empty"])
def test_a_member_that_grew_or_shrank(workshop: Workshop, place: Place, name: str, change: str) -> None:
    data = workshop.files[name]
    changed = {"append": data + b"\n", "truncate": data[:-1], "empty": b""}[change]
    assert refused(workshop, place, {**workshop.files, name: changed})[0] in _EXPECTED_CODES[name]


@pytest.mark.parametrize(("one", "other"), [(PATCH, TRAJECTORY), (TEST_RESULTS, POLICY_CHECK), (SBOM, STAMP)])
def test_two_members_swapped(workshop: Workshop, place: Place, one: str, other: str) -> None:
    files = {**workshop.files, one: workshop.files[other], other: workshop.files[one]}
    assert refused(workshop, place, files)[0] in ("SUBJECT_MISMATCH", "JSON_DUPLICATE_KEY")


def test_text_of_a_forger_cannot_steer_a_terminal(workshop: Workshop, place: Place) -> None:
    nasty = "\x1b[2J\u202e\u200b\n[red]" + "x" * 10_000
    for change in (_set("stamp_id", nasty), _set("signer.key_or_issuer", nasty), _set(f"members.{'a' * 9}\x07", 1)):
        check = first_failure(verify(place(workshop.variant(stamp=change)), workshop.trust))
        assert all(text.isascii() and text.isprintable() and len(text) <= 400 for text in (check.expected, check.actual))


def test_a_report_never_calls_an_unchecked_step_passed(workshop: Workshop, place: Place) -> None:
    report = verify(place({PATCH: b"x"}), workshop.trust)
    assert report.verdict == "fail"
    assert all(not check.ok for check in report.checks if not check.checked)
