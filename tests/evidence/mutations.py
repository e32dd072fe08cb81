"""A seeded program that alters a good bundle in more than two thousand ways, and says which check must catch each.

A mutation changes bytes, names, kinds of files, the trust file or the clock. Some are signed again: by nobody, by a stranger, or
by the trusted key itself, over content that another check has to refuse. What the trusted signer may say freely is listed in
``FREE``: a new field is in neither list, and then the corpus fails until somebody decides.
"""

from __future__ import annotations

import base64
import copy
import dataclasses
import json
import os
import random
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec

from activities.evidence.checksums import write_checksums
from activities.evidence.external import external_trajectory
from activities.evidence.signing import Signer
from schemas.canonical import jcs, sha256_hex
from schemas.evidence import (
    CHECKSUMS,
    CONTENT_MEMBERS,
    PATCH,
    POLICY_CHECK,
    PROVENANCE,
    REQUIRED_MEMBERS,
    SBOM,
    SIGSTORE_BUNDLE,
    STAMP,
    SUBJECT_MEMBERS,
    TEST_RESULTS,
    TRAJECTORY,
    timestamp_of,
)
from schemas.trust import Trust
from tests.evidence.workshop import NOW_S, Workshop, make_patch, make_run, reference

Files = dict[str, bytes]
MEMBERS = (*REQUIRED_MEMBERS, SIGSTORE_BUNDLE)
DOCUMENTS = (TEST_RESULTS, POLICY_CHECK, SBOM, STAMP, PROVENANCE, SIGSTORE_BUNDLE)
ENVELOPES = (PROVENANCE, SIGSTORE_BUNDLE)
NOW_MS = NOW_S * 1000 + 5_000

STRICT, SIGNATURE, SUBJECT = "JSON_DUPLICATE_KEY", "SIGNATURE_INVALID", "SUBJECT_MISMATCH"


@dataclass(frozen=True)
class Mutation:
    """One altered bundle. The first check that refuses it has one of ``codes`` and, where that is stable, ``reason``."""

    name: str
    files: Mapping[str, bytes]
    codes: frozenset[str]
    reason: str = ""
    trust: Trust | None = None
    now_ms: int = NOW_MS
    disturb: Callable[[Path], None] | None = None
    """Done to the folder once the files are in it."""


def mutation(name: str, files: Mapping[str, bytes], *codes: str, **more: Any) -> Mutation:
    return Mutation(name, files, frozenset(codes), **more)


# --- bytes of members, signed by nobody -------------------------------------------------------------------------------


def member_bytes(workshop: Workshop, rng: random.Random) -> Iterator[Mutation]:
    good, other = workshop.files, another_bundle(workshop)
    for name in MEMBERS:
        codes = (SIGNATURE, STRICT) if name in ENVELOPES else (SUBJECT, STRICT, "SIZE_LIMIT")
        for how, data in _altered(good[name], rng):
            if data != good[name]:
                yield mutation(f"{name}: {how}", {**good, name: data}, *codes)
        yield mutation(f"{name}: of another bundle", {**good, name: other[name]}, SIGNATURE if name in ENVELOPES else SUBJECT)
        for neighbour in MEMBERS:
            if neighbour != name:
                yield mutation(f"{name}: is {neighbour}", {**good, name: good[neighbour]}, *codes)


def _altered(data: bytes, rng: random.Random) -> Iterator[tuple[str, bytes]]:
    yield from (
        ("empty", b""), ("one LF more", data + b"\n"), ("a space more", data + b" "), ("NUL more", data + b"\0"),
        ("a space before", b" " + data), ("BOM", b"\xef\xbb\xbf" + data), ("last byte gone", data[:-1]),
        ("first byte gone", data[1:]), ("half", data[: len(data) // 2]), ("twice", data * 2), ("zeros", b"\0" * len(data)),
        ("CRLF", data.replace(b"\n", b"\r\n")), ("upper case", data.upper()), ("reversed", data[::-1]),
        ("UTF-16", data.decode().encode("utf-16")),
    )  # fmt: skip
    for _ in range(12):
        at = rng.randrange(len(data))
        yield f"bit {at}", data[:at] + bytes([data[at] ^ 1 << rng.randrange(8)]) + data[at + 1 :]
    for _ in range(4):
        at, byte = rng.randrange(len(data)), bytes([rng.randrange(256)])
        yield f"{byte!r} for {at}", data[:at] + byte + data[at + 1 :]
        yield f"{byte!r} at {at}", data[:at] + byte + data[at:]
        yield f"without {at}", data[:at] + data[at + 1 :]


def mixtures(workshop: Workshop, rng: random.Random) -> Iterator[Mutation]:
    """Every mixture of two good bundles by the same signer."""
    good, other = workshop.files, another_bundle(workshop)
    for chosen in range(1, 2 ** len(MEMBERS) - 1):
        taken = [name for bit, name in enumerate(MEMBERS) if chosen >> bit & 1]
        yield mutation(f"{' '.join(taken)} of another", {**good, **{name: other[name] for name in taken}}, SIGNATURE, SUBJECT)


def another_bundle(workshop: Workshop) -> Files:
    """A good bundle that differs in every file."""
    inputs = workshop.inputs
    diff = inputs.diff.replace(b"a + b", b"b + a")
    patch = make_patch(inputs.source).model_copy(update={"diff": reference(diff), "patch_sha256": sha256_hex(diff)})
    base, patched = ({**outcomes, "tests/test_other.py::test_one": "passed"} for outcomes in _outcomes(inputs))
    made = dataclasses.replace(
        inputs, diff=diff, trajectory=external_trajectory(inputs.source, patch, "5a" * 32), base=make_run(base, "3"),
        base_outcomes=base, patched=make_run(patched, "4"), patched_outcomes=patched, base_packages={"libc6:amd64": "2.36-10"},
        policy=inputs.policy.model_copy(update={"input_sha256": "2d" * 32}),
    )  # fmt: skip
    files = workshop.remade(made)
    assert all(files[name] != workshop.files[name] for name in MEMBERS)
    return files


def _outcomes(inputs: Any) -> tuple[Any, Any]:
    return inputs.base_outcomes, inputs.patched_outcomes


# --- every field ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Edit:
    """``path``: keys and indices; ``place``: the same for people, with ``*`` for an index."""

    path: tuple[Any, ...]
    how: str
    value: Any

    @property
    def place(self) -> str:
        return ".".join("*" if isinstance(part, int) else str(part) for part in self.path)

    def apply(self, document: Any) -> Any:
        changed = copy.deepcopy(document)
        if not self.path:
            return self.value
        inner = changed
        for part in self.path[:-1]:
            inner = inner[part]
        if self.how == "gone":
            del inner[self.path[-1]]
        else:
            inner[self.path[-1]] = self.value
        return changed


def edits(value: Any, path: tuple[Any, ...] = ()) -> Iterator[Edit]:
    """Each leaf gets another value of its own form, and one of another type; each key goes; each object gets one more."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield Edit((*path, key), "gone", None)
            yield from edits(inner, (*path, key))
        yield Edit((*path, "unknown"), "added", 1)
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            yield Edit((*path, index), "gone", None)
            yield from edits(inner, (*path, index))
        if value:
            yield Edit(path, "repeated", [*value, copy.deepcopy(value[0])])
    else:
        yield Edit(path, "other", _other(value))
        yield Edit(path, "retyped", {"x": value})
        yield Edit(path, "null", None)


def _other(value: Any) -> Any:
    if isinstance(value, bool):
        return not value
    if isinstance(value, int | float):
        return value + 1
    if not isinstance(value, str):
        return "x"
    if re.fullmatch(r"(sha256:|stm_)?[0-9a-f]{32,}", value):
        return value[:-1] + ("0" if value[-1] != "0" else "1")
    if re.fullmatch(r"\d{4}-.*Z", value):
        return "2026-09-21T14:13:19Z"
    return value + "x"


def unsigned_fields(workshop: Workshop, rng: random.Random) -> Iterator[Mutation]:
    """Every field of every document, changed by somebody who cannot sign."""
    good = workshop.files
    for name in (TEST_RESULTS, POLICY_CHECK, SBOM, STAMP, TRAJECTORY):
        for edit in edits(json.loads(good[name])):
            data = jcs(edit.apply(json.loads(good[name]))) + (b"\n" if name == TRAJECTORY else b"")
            yield mutation(f"{name} {edit.place} {edit.how}", {**good, name: data}, SUBJECT, SIGNATURE)
    for edit in edits(workshop.statement()):
        payload = base64.b64encode(jcs(edit.apply(workshop.statement()))).decode()
        files = dict(good)
        for name in ENVELOPES:
            envelope = json.loads(good[name])
            (envelope if name == PROVENANCE else envelope["dsseEnvelope"])["payload"] = payload
            files[name] = jcs(envelope)
        yield mutation(f"statement {edit.place} {edit.how}", files, SIGNATURE, reason="bad_signature")
    for name in ENVELOPES:
        for edit in edits(json.loads(good[name])):
            if (data := jcs(edit.apply(json.loads(good[name])))) != good[name]:
                yield mutation(f"{name} {edit.place} {edit.how}", {**good, name: data}, SIGNATURE)


def stranger_fields(workshop: Workshop, rng: random.Random) -> Iterator[Mutation]:
    """The stamp and the statement, changed and signed by a stranger, who names himself or the trusted key."""
    stranger = Signer(ec.generate_private_key(ec.SECP256R1()))
    for edit in edits(workshop.stamp):
        stamp = edit.apply(workshop.stamp)
        files = {**workshop.files, STAMP: jcs(stamp)}
        signed = workshop.signed(files, _statement(workshop, files), signer=stranger)
        yield mutation(f"stranger: {edit.place} {edit.how}", signed, SIGNATURE)
    plain = {name: data for name, data in workshop.files.items() if name != SIGSTORE_BUNDLE}
    for edit in edits(workshop.statement()):
        files = {**plain, PROVENANCE: workshop.signed(plain, jcs(edit.apply(workshop.statement())), signer=stranger)[PROVENANCE]}
        yield mutation(f"stranger: statement {edit.place}", files, SIGNATURE, reason="bad_signature")


CAUGHT: dict[str, dict[str, tuple[str, ...]]] = {
    STAMP: {
        "bundle_digest": ("STAMP_BUNDLE_DIGEST",), "compile.environment_digest": ("UNKNOWN_PARAMETER",),
        "compile.limits": ("UNKNOWN_PARAMETER",), "compile.seeds": ("UNKNOWN_PARAMETER",), "compile.network": ("STAMP_SCHEMA",),
        "compile.cache": ("STAMP_SCHEMA",), "compile.probe": ("STAMP_SCHEMA",), "sandbox.backend": ("STAMP_SCHEMA",),
        "sandbox.enforcement": ("STAMP_SCHEMA",), "sandbox.profile_sha256": ("UNKNOWN_PARAMETER",),
        "engines.gen4": ("UNKNOWN_PARAMETER",), "engines.policy": ("POLICY_DIGEST",), "fix": ("STAMP_SCHEMA", "GATE_NOT_PASSED"),
        "gates.determinism.isolation": ("STAMP_SCHEMA",), "gates.determinism.rerun_bundle_digest": ("GATE_NOT_PASSED",),
        "gates.determinism.verdict": ("STAMP_SCHEMA",), "gates.regression.baseline_commit": ("GATE_NOT_PASSED",),
        "gates.regression.metrics": ("STAMP_SCHEMA", "GATE_NOT_PASSED"), "gates.regression.verdict": ("STAMP_SCHEMA",),
        "gates.trust.checks.*.ok": ("GATE_NOT_PASSED",), "gates.trust.verdict": ("STAMP_SCHEMA",), "members": ("STAMP_MEMBERS",),
        "policy": ("POLICY_DIGEST",), "schema_version": ("STAMP_SCHEMA",), "session_id": ("UNKNOWN_PARAMETER",),
        "signer": ("STAMP_ID", "STAMP_SCHEMA", SIGNATURE), "source.base_commit": ("UNKNOWN_PARAMETER",),
        "source.ref": ("UNKNOWN_PARAMETER",), "source.repo": ("UNKNOWN_PARAMETER",), "source.result_tree": ("TRAJECTORY_PATCH",),
        "task_id": ("UNKNOWN_PARAMETER",), "compile.receipts": ("GATE_NOT_PASSED",),
    },
    TEST_RESULTS: {
        "canonical_sha256": ("GATE_NOT_PASSED",), "fail_to_pass": ("GATE_NOT_PASSED",), "pass_to_pass": ("GATE_NOT_PASSED",),
        "targets": ("GATE_NOT_PASSED",), "suites.*.counts": ("GATE_NOT_PASSED",), "suites.*.name": ("GATE_NOT_PASSED",),
        "suites.*.outcomes": ("GATE_NOT_PASSED",), "schema_version": ("GATE_NOT_PASSED",),
    },
    POLICY_CHECK: {
        "decision": ("POLICY_DIGEST",), "engine": ("POLICY_DIGEST",), "policy_digest": ("POLICY_DIGEST",),
        "policy_id": ("POLICY_DIGEST",), "required_checks": ("POLICY_DIGEST",), "results.*": ("POLICY_DIGEST",),
        "sbom_sha256": ("POLICY_DIGEST",),
    },
    SBOM: {"": ("POLICY_DIGEST",)},
    TRAJECTORY: {
        "prev_hash": ("TRAJECTORY_CHAIN",), "seq": ("TRAJECTORY_CHAIN",), "role": ("TRAJECTORY_CHAIN",),
        "recorder": ("TRAJECTORY_CHAIN",), "tool_output": ("TRAJECTORY_CHAIN",), "tool_output_sha256": ("TRAJECTORY_CHAIN",),
        "tool_call.args": ("TRAJECTORY_PATCH",),
    },
    "statement": {
        "_type": ("PREDICATE_TYPE",), "predicateType": ("PREDICATE_TYPE",), "subject": ("PREDICATE_TYPE", SUBJECT),
        "predicate.buildDefinition": ("UNKNOWN_PARAMETER",), "predicate.runDetails.builder.id": ("SIGNER_UNTRUSTED",),
        "predicate.runDetails": ("UNKNOWN_PARAMETER",),
    },
}  # fmt: skip
"""What the trusted key cannot say without being contradicted: the longest prefix of a place counts."""

FREE: dict[str, tuple[str, ...]] = {
    STAMP: (
        "candidate_id", "capability_id", "version", "tenant_id", "trace_id", "stamp_id", "created_at", "source.base_tree",
        "compile.commands_sha256", "compile.env_sha256", "compile.frozen_clock", "compile.platform", "compile.receipts.*",
        "compile.run_keys", "compile.runs", "compile.sentinels", "engines.explorer", "engines.git", "engines.python",
        "engines.sandbox", "gates.determinism.reused", "gates.determinism.runs", "gates.regression.metrics.*.waived",
        "gates.regression.report_sha256", "gates.trust.checks", "sandbox.enforcement",
    ),
    TEST_RESULTS: ("commands", "suites.*.runner", "suites.*.version"),
    POLICY_CHECK: ("input_sha256", "results.*.message"),
    SBOM: (),
    TRAJECTORY: (
        "agent_id", "redactions", "snapshot_hash", "step_id", "thought", "timestamp", "tool_call", "tool_call.name",
        "tool_output_bytes", "truncated",
    ),
    "statement": ("predicate.buildDefinition.internalParameters.unknown",),
}  # fmt: skip
"""What only the signer can know: a verifier takes his word, or asks for the repository."""

OPTIONAL = frozenset({"recorder", "redactions", "truncated", "tool_call.args.patch_sha256", "tool_call.args.result_tree"})
"""Fields of a step that may be absent."""


def trusted_fields(workshop: Workshop, rng: random.Random) -> Iterator[Mutation]:
    """Every field, changed and properly signed by the trusted key, with all digests made to agree."""
    schema = {STAMP: ("STAMP_SCHEMA",), TEST_RESULTS: ("GATE_NOT_PASSED",), POLICY_CHECK: ("POLICY_DIGEST",)}
    for name in (STAMP, TEST_RESULTS, POLICY_CHECK, SBOM, TRAJECTORY):
        document = json.loads(workshop.files[name])
        for edit in edits(document):
            codes = _caught(name, edit)
            data = jcs(edit.apply(document)) + (b"\n" if name == TRAJECTORY else b"")
            if edit.how in ("retyped", "null", "added") or (edit.how == "gone" and isinstance(edit.path[-1], str)):
                codes = (*codes, *schema.get(name, ("TRAJECTORY_CHAIN", "TRAJECTORY_PATCH")))
            elif not codes:
                continue
            if data != workshop.files[name] and not _harmless(name, edit):
                yield mutation(f"trusted: {name} {edit.place} {edit.how}", resealed(workshop, {name: data}), *codes)
    for edit in edits(workshop.statement()):
        if codes := _caught("statement", edit):
            files = workshop.signed(workshop.files, jcs(edit.apply(workshop.statement())))
            yield mutation(f"trusted: statement {edit.place} {edit.how}", files, *codes, "PREDICATE_TYPE", "SIGNER_UNTRUSTED")


def _harmless(name: str, edit: Edit) -> bool:
    """A reader of steps ignores what it does not know; some fields may be left out, and a passed rule may be named twice."""
    if name == TRAJECTORY:
        return edit.how == "added" or edit.place in OPTIONAL or (edit.place, edit.how) == ("tool_call", "null")
    if name == STAMP:
        return edit.place.startswith("sandbox.enforcement.") and edit.how == "gone"
    return name == POLICY_CHECK and (edit.place, edit.how) in (("results.*.message", "gone"), ("results", "repeated"))


def _caught(name: str, edit: Edit) -> tuple[str, ...]:
    """Codes for an edit. Raises LookupError for a place that nobody decided about."""
    caught = max((place for place in CAUGHT[name] if _within(edit.place, place)), key=len, default=None)
    free = max((place for place in FREE[name] if _within(edit.place, place)), key=len, default=None)
    if caught is None and free is None and edit.how == "other":
        raise LookupError(f"{name} {edit.place}: say in CAUGHT which check refuses another value, or list it in FREE")
    if caught is None or (free is not None and len(free) > len(caught)):
        return ()
    return CAUGHT[name][caught]


def _within(place: str, prefix: str) -> bool:
    return not prefix or place == prefix or place.startswith(prefix + ".")


def _statement(workshop: Workshop, files: Mapping[str, bytes]) -> bytes:
    body = workshop.statement()
    body["subject"] = [{"name": name, "digest": {"sha256": sha256_hex(files[name])}} for name in SUBJECT_MEMBERS]
    return jcs(body)


def resealed(workshop: Workshop, changes: Mapping[str, bytes]) -> Files:
    """The bundle with these members, in which every digest agrees, signed by the trusted key."""
    files = {**workshop.files, **changes}
    if not changes.keys() <= {STAMP, *ENVELOPES}:
        files[CHECKSUMS] = changes.get(CHECKSUMS) or write_checksums({name: files[name] for name in CONTENT_MEMBERS})
        stamp = workshop.stamp
        stamp["members"] = {name: {"sha256": sha256_hex(files[name]), "size": len(files[name])} for name in CONTENT_MEMBERS}
        digest = "sha256:" + sha256_hex(files[CHECKSUMS])
        stamp["bundle_digest"] = stamp["gates"]["determinism"]["rerun_bundle_digest"] = digest
        files[STAMP] = jcs(stamp)
    return workshop.signed(files, _statement(workshop, files))


# --- JSON that parsers read differently -------------------------------------------------------------------------------


def json_tricks(workshop: Workshop, rng: random.Random) -> Iterator[Mutation]:
    """In every document; signed by nobody, and by the trusted key where it signs the document itself."""
    for name in DOCUMENTS:
        for trick, data in _tricked(workshop.files[name]):
            yield mutation(f"{name}: {trick}", {**workshop.files, name: data}, STRICT)
            if name not in ENVELOPES:
                yield mutation(f"trusted: {name}: {trick}", resealed(workshop, {name: data}), STRICT)
    line = workshop.files[TRAJECTORY].removesuffix(b"\n")
    for trick, data in _tricked(line):
        yield mutation(f"trusted: {TRAJECTORY}: {trick}", resealed(workshop, {TRAJECTORY: line + b"\n" + data + b"\n"}), STRICT)
    for trick, data in _tricked(jcs(workshop.statement())):
        yield mutation(f"trusted: statement: {trick}", workshop.signed(workshop.files, data), SIGNATURE, reason="envelope_shape")


def _tricked(data: bytes) -> Iterator[tuple[str, bytes]]:
    """``data`` is one JSON object."""
    body, first = data[:-1], next(iter(json.loads(data)))
    key = json.dumps(first).encode()
    escaped = b'"\\u%04x%s' % (ord(first[0]), key[2:])
    inserted = (
        ("duplicate", key + b":1"), ("duplicate, escaped", escaped + b":1"), ("nested duplicate", b'"x":{"a":1,"a":2}'),
        ("duplicate in a list", b'"x":[{"a":1,"\\u0061":2}]'), ("NaN", b'"x":NaN'), ("Infinity", b'"x":Infinity'),
        ("-Infinity", b'"x":-Infinity'), ("1e999", b'"x":1e999'), ("-1e999", b'"x":-1e999'),
        ("2**53 + 1", b'"x":9007199254740993'), ("many digits", b'"x":' + b"9" * 5000),
        ("lone surrogate", b'"x":"\\ud800"'), ("low surrogate", b'"x":"\\udc00"'),
        ("surrogate in a key", b'"\\udfff":1'), ("deep list", b'"x":' + b"[" * 70 + b"]" * 70),
        ("deep object", b'"x":' + b'{"a":' * 70 + b"1" + b"}" * 70), ("bad UTF-8", b'"x":"\xff"'),
        ("overlong", b'"x":"\xc0\x80"'), ("CESU-8", b'"x":"\xed\xa0\x80"'), ("control character", b'"x":"\x01"'),
        ("leading zero", b'"x":01'), ("hex", b'"x":0x1'), ("plus", b'"x":+1'), ("bare dot", b'"x":1.'),
        ("comment", b'"x":1/*c*/'), ("single quotes", b"'x':1"), ("bare key", b"x:1"), ("undefined", b'"x":undefined'),
        ("trailing comma", b'"x":1,'), ("bad escape", b'"x":"\\x41"'), ("raw newline", b'"x":"\n"'),
    )  # fmt: skip
    for trick, text in inserted:
        yield trick, body + b"," + text + b"}"
    yield from (
        ("BOM", b"\xef\xbb\xbf" + data), ("trailing object", data + b"{}"), ("trailing NUL", data + b"\0"),
        ("trailing comma", data + b","), ("leading garbage", b"x" + data), ("unterminated", body), ("empty", b""),
        ("UTF-16", data.decode().encode("utf-16")), ("UTF-32", data.decode().encode("utf-32")),
        ("two documents", data + b" " + data), ("prefix", b")]}'" + data),
    )  # fmt: skip


_SHAPES = (
    b"[]", b"{}", b"null", b"true", b"0", b'""', b'"x"', b"[{}]", b'[["a"]]', b'{"":{}}', b'{"schema_version":[]}',
    b'{"schema_version":"stamp/1"}', b'{"signer":[],"created_at":0}', b'{"predicate":[],"subject":{}}', b'{"_type":null}',
    b"1e300",
)  # fmt: skip


def other_shapes(workshop: Workshop, rng: random.Random) -> Iterator[Mutation]:
    """Strict JSON that is something else altogether, signed by the trusted key: refused, and nothing breaks."""
    for data in _SHAPES:
        shown = data.decode()
        yield mutation(f"stamp is {shown}", resealed(workshop, {STAMP: data}), "SIGNER_UNTRUSTED", "STAMP_SCHEMA")
        yield mutation(f"test results are {shown}", resealed(workshop, {TEST_RESULTS: data}), "GATE_NOT_PASSED")
        yield mutation(f"policy check is {shown}", resealed(workshop, {POLICY_CHECK: data}), "POLICY_DIGEST")
        yield mutation(f"SBOM is {shown}", resealed(workshop, {SBOM: data}), "POLICY_DIGEST")
        yield mutation(f"a step is {shown}", resealed(workshop, {TRAJECTORY: data + b"\n"}), "TRAJECTORY_CHAIN", reason="step")
        yield mutation(f"statement is {shown}", workshop.signed(workshop.files, data), "SIGNER_UNTRUSTED", reason="builder")
        for name in ENVELOPES:
            yield mutation(f"{name} is {shown}", {**workshop.files, name: data}, SIGNATURE)
    yield mutation("the patch is empty", resealed(workshop, {PATCH: b""}), "TRAJECTORY_PATCH", reason="patch_sha256")
    yield mutation("no step", resealed(workshop, {TRAJECTORY: b""}), STRICT, reason="trailing")


# --- envelopes, checksums ---------------------------------------------------------------------------------------------


def envelope_tricks(workshop: Workshop, rng: random.Random) -> Iterator[Mutation]:
    good = workshop.files
    plain = {name: data for name, data in good.items() if name != SIGSTORE_BUNDLE}
    envelope: dict[str, Any] = json.loads(good[PROVENANCE])
    bundle: dict[str, Any] = json.loads(good[SIGSTORE_BUNDLE])
    payload, sig = envelope["payload"], envelope["signatures"][0]["sig"]
    raw = base64.b64decode(sig)

    def signatures(*values: Any) -> dict[str, Any]:
        return {**envelope, "signatures": list(values)}

    shapes: dict[str, Any] = {
        "two signatures": signatures(*envelope["signatures"] * 2), "no signature": signatures(),
        "a key id": signatures({"keyid": "k", "sig": sig}), "no key id": signatures({"sig": sig}),
        "a certificate": signatures({"keyid": "", "sig": sig, "cert": "x"}),
        "signatures are one": {**envelope, "signatures": sig},
        "an unknown field": {**envelope, "x": 1}, "only the payload": {"payload": payload}, "a list": [envelope], "text": payload,
        "null": None, "number": 1, "payload as object": {**envelope, "payload": {}},
        "payload with LF": {**envelope, "payload": payload + "\n"}, "payload with space": {**envelope, "payload": " " + payload},
        "payload without padding": {**envelope, "payload": payload.rstrip("=") + "A"},
        "empty payload": {**envelope, "payload": ""},
        "payload for the web": {**envelope, "payload": payload[:-4] + "-_-_"},
        "payload type in capitals": {**envelope, "payloadType": "application/vnd.IN-TOTO+json"},
        "payload type with space": {**envelope, "payloadType": envelope["payloadType"] + " "},
        "empty payload type": {**envelope, "payloadType": ""},
    }  # fmt: skip
    forged = {
        "empty": b"", "zeros": b"\0" * 70, "cut": raw[:-1], "longer": raw + b"\0", "raw r and s": raw[4:36] + raw[-32:],
        "BER length": b"\x30\x81" + raw[1:], "r = s = 0": bytes.fromhex("3006020100020100"),
        "r = s = 1": bytes.fromhex("3006020101020101"),
    }  # fmt: skip
    shapes |= {f"signature: {name}": signatures({"keyid": "", "sig": _b64(data)}) for name, data in forged.items()}
    for name, value in shapes.items():
        yield mutation(f"plain envelope: {name}", {**plain, PROVENANCE: jcs(value)}, SIGNATURE, STRICT)
        yield mutation(f"one envelope: {name}", {**good, PROVENANCE: jcs(value)}, SIGNATURE, STRICT)
    unsorted = dict(reversed(envelope.items()))
    for spelling, text in (("indented", json.dumps(envelope, indent=1)), ("unsorted", json.dumps(unsorted))):
        yield mutation(f"envelope {spelling}", {**good, PROVENANCE: text.encode()}, SIGNATURE, reason="envelope_shape")
    material, inner = bundle["verificationMaterial"], bundle["dsseEnvelope"]
    bundles: dict[str, Any] = {
        "media type v0.1": {**bundle, "mediaType": "application/vnd.dev.sigstore.bundle+json;version=0.1"},
        "media type v0.2": {**bundle, "mediaType": "application/vnd.dev.sigstore.bundle+json;version=0.2"},
        "empty media type": {**bundle, "mediaType": ""}, "no material": {**bundle, "verificationMaterial": {}},
        "another hint": {**bundle, "verificationMaterial": {**material, "publicKey": {"hint": "AAAA"}}},
        "the key itself": {**bundle, "verificationMaterial": {**material, "publicKey": {"rawBytes": "AAAA"}}},
        "a certificate beside": {**bundle, "verificationMaterial": {**material, "certificate": {"rawBytes": "AAAA"}}},
        "a certificate instead": {**bundle, "verificationMaterial": {"certificate": {"rawBytes": "AAAA"}, "tlogEntries": []}},
        "a log entry": {**bundle, "verificationMaterial": {**material, "tlogEntries": [{}]}},
        "an empty time stamp": {**bundle, "verificationMaterial": {**material, "timestampVerificationData": {}}},
        "no time stamp": {**bundle, "verificationMaterial": {**material, "timestampVerificationData": {"rfc3161Timestamps": []}}},
        "a forged time stamp": {
            **bundle, "verificationMaterial": {
                **material, "timestampVerificationData": {"rfc3161Timestamps": [{"signedTimestamp": "AAAA"}]},
            },
        },
        "a message signature": {**bundle, "messageSignature": {"signature": sig}},
        "two signatures": {**bundle, "dsseEnvelope": {**inner, "signatures": inner["signatures"] * 2}},
        "another payload": {**bundle, "dsseEnvelope": {**inner, "payload": _b64(b"{}")}},
        "another type": {**bundle, "dsseEnvelope": {**inner, "payloadType": "x"}}, "another signature": {
            **bundle, "dsseEnvelope": {**inner, "signatures": [{"keyid": "", "sig": _b64(raw[:-1] + b"\0")}]},
        },
    }  # fmt: skip
    for name, value in bundles.items():
        yield mutation(f"sigstore bundle: {name}", {**good, SIGSTORE_BUNDLE: jcs(value)}, SIGNATURE, "SIGNER_UNTRUSTED")
    yield mutation("sigstore bundle indented", {**good, SIGSTORE_BUNDLE: json.dumps(bundle, indent=1).encode()}, SIGNATURE)
    for kind in ("application/json", "application/vnd.gen4.trust+json", "application/vnd.gen4.run-receipt+json", ""):
        yield mutation(f"signed as {kind}", workshop.signed(good, jcs(workshop.statement()), kind), "PAYLOAD_TYPE")


def _b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def checksum_tricks(workshop: Workshop, rng: random.Random) -> Iterator[Mutation]:
    """In a file that the trusted key signed as it is."""
    good = workshop.files[CHECKSUMS]
    lines = good.splitlines(keepends=True)
    wrong = {
        "comment": b"# c\n" + good, "binary mark": good.replace(b"  ", b" *"), "one space": good.replace(b"  ", b" "),
        "tab": good.replace(b"  ", b"\t"), "capitals": good[:64].upper() + good[64:], "no final LF": good[:-1],
        "CRLF": good.replace(b"\n", b"\r\n"), "blank line": good + b"\n", "escaped": b"\\" + good, "BOM": b"\xef\xbb\xbf" + good,
        "a line twice": good + lines[0], "itself": good + b"0" * 64 + b"  checksums.sha256\n", "a line gone": b"".join(lines[1:]),
        "a path": good.replace(b"diff.patch", b"./diff.patch"), "up": good.replace(b"diff.patch", b"../diff.patch"),
        "unsorted": b"".join(reversed(lines)), "first two swapped": b"".join([lines[1], lines[0], *lines[2:]]),
        "another digest": b"0" * 64 + good[64:], "short digest": good[1:], "sha512": good[:64] + good, "only LF": b"\n",
        "NUL": good + b"\0",
        "digests swapped": lines[1][:64] + lines[0][64:] + lines[0][:64] + lines[1][64:] + b"".join(lines[2:]),
    }  # fmt: skip
    for name, data in wrong.items():
        codes = ("CHECKSUM_FORMAT", "CHECKSUM_ORDER", "CHECKSUM_MISMATCH")
        yield mutation(f"checksums: {name}", resealed(workshop, {CHECKSUMS: data}), *codes)


# --- the folder -------------------------------------------------------------------------------------------------------


def folder_tricks(workshop: Workshop, rng: random.Random) -> Iterator[Mutation]:
    good = workshop.files
    for name in REQUIRED_MEMBERS:
        yield mutation(f"without {name}", {key: data for key, data in good.items() if key != name}, "MEMBER_MISSING")
    for name in MEMBERS:
        for how, disturb in _KINDS.items():
            yield mutation(f"{name} is a {how}", good, "MEMBER_NOT_REGULAR", disturb=_at(disturb, name))
        for variant in (name.upper(), name.capitalize(), name.replace("s", "\u017f", 1)):
            if variant != name:
                yield mutation(f"{variant} beside {name}", {**good, variant: good[name]}, "MEMBER_EXTRA")
        for before, after in _AROUND:
            yield mutation(f"{before!r}{name}{after!r} beside", {**good, before + name + after: b"x"}, "MEMBER_EXTRA")
    for extra in (".DS_Store", "..data", "...", "a\\b", "e\u0301", "\xe9", "\x7f", "\x1b[2J", "-rf", "*", "$(id)", "x" * 255):
        yield mutation(f"{extra!r} beside", {**good, extra: b""}, "MEMBER_EXTRA")
    yield mutation("a folder beside", good, "MEMBER_EXTRA", disturb=lambda folder: (folder / "attestations").mkdir())
    yield mutation("bytes that are no text beside", good, "MEMBER_EXTRA", disturb=_undecodable)
    yield mutation("an empty folder", {}, "MEMBER_MISSING")


_AROUND = ((".", ""), ("", "."), ("", " "), (" ", ""), ("", "~"), ("", "\n"), ("", ".bak"), ("", "\u200b"), ("\u202e", ""))


def _undecodable(folder: Path) -> None:
    (folder / b"\xff\xfe".decode("utf-8", "surrogateescape")).touch()


def _symlink(path: Path) -> None:
    aside = path.parent.with_name(path.parent.name + "-aside")
    aside.unlink(missing_ok=True)
    aside.write_bytes(path.read_bytes())
    path.unlink()
    path.symlink_to(aside)


def _dangling(path: Path) -> None:
    path.unlink()
    path.symlink_to("nowhere")


def _endless(path: Path) -> None:
    path.unlink()
    path.symlink_to("/dev/zero")


def _neighbour(path: Path) -> None:
    path.unlink()
    path.symlink_to(STAMP if path.name != STAMP else PATCH)


def _hard_link(path: Path) -> None:
    aside = path.parent.with_name(path.parent.name + "-aside")
    aside.unlink(missing_ok=True)
    aside.hardlink_to(path)


def _folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def _fifo(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


_KINDS: dict[str, Callable[[Path], None]] = {
    "symbolic link": _symlink, "dangling link": _dangling, "link to /dev/zero": _endless, "link to its neighbour": _neighbour,
    "hard link": _hard_link, "folder": _folder, "fifo": _fifo,
}  # fmt: skip


def _at(disturb: Callable[[Path], None], name: str) -> Callable[[Path], None]:
    return lambda folder: disturb(folder / name)


# --- whom the verifier believes, and when -----------------------------------------------------------------------------


def trust_tricks(workshop: Workshop, rng: random.Random) -> Iterator[Mutation]:
    good, trust, listed = workshop.files, workshop.trust, workshop.trust.signers[0]
    stranger = Signer(ec.generate_private_key(ec.SECP256R1()))

    def about(name: str, code: str, reason: str = "", **changes: Any) -> Mutation:
        altered = trust.model_copy(update={"signers": (listed.model_copy(update=changes),)})
        return mutation(f"trust: {name}", good, code, reason=reason, trust=altered)

    untrusted, before, after = "SIGNER_UNTRUSTED", timestamp_of(NOW_S - 600), timestamp_of(NOW_S + 600)
    pem = listed.public_key or ""
    kept = "sha256:" + sha256_hex(good[STAMP])
    yield from (
        about("another key", SIGNATURE, "hint_unknown", hint=stranger.hint, public_key=stranger.public_pem),
        about("another key under our hint", SIGNATURE, "algorithm", public_key=stranger.public_pem),
        about("our key under another hint", SIGNATURE, "hint_unknown", hint=stranger.hint),
        about("no key", SIGNATURE, "algorithm", public_key=None), about("no hint", SIGNATURE, "hint_unknown", hint=None),
        about("no PEM", SIGNATURE, "algorithm", public_key="x"),
        about("not keyless", SIGNATURE, "hint_unknown", profile="keyless"),
        about("a private key", SIGNATURE, "algorithm", public_key=pem.replace("PUBLIC", "PRIVATE")),
        about("revoked before", untrusted, "revoked", revoked_at=before),
        about("revoked after", untrusted, "revoked", revoked_at=after),
        about("revoked, another kept", untrusted, "revoked", revoked_at=before, kept=("sha256:" + "0" * 64,)),
        about("revoked, members kept", untrusted, "revoked", revoked_at=before, kept=("sha256:" + sha256_hex(good[CHECKSUMS]),)),
        about("kept but expired", untrusted, "expired", revoked_at=before, kept=(kept,), valid_until=before),
        about("expired", untrusted, "expired", valid_until=timestamp_of(NOW_S)),
        about("not yet", untrusted, "not_yet_valid", valid_from=after),
        about("no builder", untrusted, "builder", builder_ids=()),
        about("another builder", untrusted, "builder", builder_ids=("urn:gen4:builder/separated",)),
        about("a builder's prefix", untrusted, "builder", builder_ids=("urn:gen4:builder/",)),
        about("a time stamp wanted", SIGNATURE, "timestamp_missing", require="timestamp"),
        about("a log wanted", SIGNATURE, "tlog_missing", require="log"),
        about("another name", "STAMP_ID", "signer", identity="other"),
    )  # fmt: skip
    for name, code, changes in (
        ("nobody", SIGNATURE, {"signers": ()}), ("twice", untrusted, {"signers": (listed, listed)}),
        ("separated", untrusted, {"assurance": "separated"}), ("no policy", "POLICY_DIGEST", {"policy_digests": ()}),
        ("another policy", "POLICY_DIGEST", {"policy_digests": ("sha256:" + "0" * 64,)}),
        ("only keyless", SIGNATURE, {"signers": (listed.model_copy(update={"profile": "keyless", "issuer": "https://i"}),)}),
    ):  # fmt: skip
        yield mutation(f"trust: {name}", good, code, trust=trust.model_copy(update=changes))


def time_tricks(workshop: Workshop, rng: random.Random) -> Iterator[Mutation]:
    for seconds in (301, 3_600, 86_400 * 400, NOW_S):
        name, now_ms = f"verified {seconds} s before it was made", (NOW_S - seconds) * 1000
        yield mutation(name, workshop.files, "STAMP_SCHEMA", reason="created_at", now_ms=now_ms)
    for created, codes in (
        ("2026-09-21T13:13:19Z", ("SIGNER_UNTRUSTED",)), ("1970-01-01T00:00:00Z", ("SIGNER_UNTRUSTED",)),
        ("9999-12-31T23:59:59Z", ("STAMP_SCHEMA",)), ("2026-09-21T14:18:30Z", ("STAMP_SCHEMA",)),
        ("2026-02-29T00:00:00Z", ("SIGNER_UNTRUSTED", "STAMP_SCHEMA")), ("2026-09-21T24:00:00Z", ("STAMP_SCHEMA",)),
        ("2026-09-21T14:13:60Z", ("STAMP_SCHEMA",)), ("2026-09-21 14:13:20Z", ("STAMP_SCHEMA",)),
        ("2026-09-21T14:13:20+00:00", ("STAMP_SCHEMA",)), ("2026-09-21T14:13:20.0Z", ("STAMP_SCHEMA",)), ("", ("STAMP_SCHEMA",)),
        ("\u0662026-09-21T14:13:20Z", ("STAMP_SCHEMA",)),
    ):  # fmt: skip
        files = resealed(workshop, {STAMP: jcs({**workshop.stamp, "created_at": created})})
        yield mutation(f"made at {created!r}", files, *codes)
    for expires in (NOW_S - 86_400, NOW_S - 1, NOW_S):
        stamp = workshop.stamp
        stamp["gates"]["regression"]["waivers"] = [
            {"id": "w", "metric": "size", "subject": "*", "owner": "mo", "expires_at": timestamp_of(expires)}
        ]
        files = resealed(workshop, {STAMP: jcs(stamp)})
        yield mutation(f"a waiver until {expires}", files, "GATE_NOT_PASSED", reason="waiver_expired")


GROUPS: tuple[Callable[[Workshop, random.Random], Iterator[Mutation]], ...] = (
    member_bytes, mixtures, unsigned_fields, stranger_fields, trusted_fields, json_tricks, other_shapes, envelope_tricks,
    checksum_tricks, folder_tricks, trust_tricks, time_tricks,
)  # fmt: skip
