"""RFC 3161 time stamps over a signature, by the authorities of a trusted root.

A response holds parts that nobody signed, where anything could be written. Each must be what it always is, so that no two
responses mean the same: status, versions, certificates, algorithm of the signature, no revocation lists, no unsigned attributes.
"""

from __future__ import annotations

from datetime import datetime

from cryptography.hazmat.primitives.serialization import Encoding
from rfc3161_client import TimeStampResponse, VerifierBuilder, decode_timestamp_response
from sigstore_models.bundle.v1 import TimestampVerificationData

from activities.evidence.sigstore_material import Authority, KeylessRefused, Root, within

MOST = 8
"""A bundle with more time stamps than any signer makes is not read further."""
_GRANTED = bytes.fromhex("3003020100")
_CMS_3, _SIGNER_1 = bytes.fromhex("020103"), bytes.fromhex("020101")
_SEQUENCE, _SET, _OCTETS, _CONTEXT_0 = 0x30, 0x31, 0x04, 0xA0
_SIGNATURES = {
    # Hash: sha256, sha384, sha512 (2.16.840.1.101.3.4.2.x). Signatures with it: ECDSA, RSA, or RSA that names no hash.
    bytes.fromhex(f"06096086480165030402{hash_:02x}"): (
        bytes.fromhex(f"06082a8648ce3d0403{ecdsa:02x}"), bytes.fromhex(f"06092a864886f70d0101{rsa:02x}"),
        bytes.fromhex("06092a864886f70d010101"),
    )
    for hash_, ecdsa, rsa in ((1, 2, 11), (2, 3, 12), (3, 4, 13))
}  # fmt: skip


def stamped_at(data: TimestampVerificationData | None, signature: bytes, root: Root) -> list[datetime]:
    """The time of each stamp in the bundle. All must be valid: one that is not makes the bundle a forgery, not a smaller one."""
    stamps = data.rfc3161_timestamps if data else []
    if len(stamps) > MOST or len({stamp.signed_timestamp for stamp in stamps}) != len(stamps):
        raise KeylessRefused("timestamp_invalid", f"at most {MOST} time stamps, none of them twice", str(len(stamps)))
    return [_time_of(stamp.signed_timestamp, signature, root) for stamp in stamps]


def _time_of(raw: bytes, signature: bytes, root: Root) -> datetime:
    try:
        response = decode_timestamp_response(raw)
        moment = response.tst_info.gen_time
        plain = response.as_bytes() == raw and _is_plain(raw)
    except (ValueError, IndexError) as error:
        raise KeylessRefused("timestamp_invalid", "an RFC 3161 response", str(error)[:100]) from error
    if not plain:
        raise KeylessRefused("timestamp_invalid", "a granted RFC 3161 response with nothing in its unsigned parts", "another")
    if not any(_made_by(authority, response, moment, signature) for authority in root.time_stampers):
        raise KeylessRefused("timestamp_invalid", "a stamp over this signature by an authority of the trusted root", "another")
    return moment


def _made_by(authority: Authority, response: TimeStampResponse, moment: datetime, signature: bytes) -> bool:
    if len(authority.chain) < 2 or not within(authority.valid_for, moment):
        return False
    known = {one.public_bytes(Encoding.DER) for one in authority.chain}
    builder = VerifierBuilder().tsa_certificate(authority.chain[0]).add_root_certificate(authority.chain[-1])
    for between in authority.chain[1:-1]:
        builder = builder.add_intermediate_certificate(between)
    try:
        return response.signed_data.certificates <= known and builder.build().verify_message(response, signature)
    except Exception:  # the library lets through what its parsers raise of hostile certificates
        return False


def _is_plain(raw: bytes) -> bool:
    """Raises ValueError when it is no DER."""
    (_, response), *_ = der_parts(raw)
    status, token = der_parts(response)
    signed_data = _inner(der_parts(token[1])[1])
    version, _, _, *between, signers = der_parts(signed_data)
    (_, signer), *others = der_parts(signers[1])
    fields = der_parts(signer)
    if others or len(fields) != 6 or [tag for tag, _ in between] not in ([], [_CONTEXT_0]):
        return False
    hash_, algorithm = der_parts(fields[2][1])[0], der_parts(fields[4][1])[0]
    return (
        _bytes(status) == _GRANTED and _bytes(version) == _CMS_3 and _bytes(fields[0]) == _SIGNER_1
        and [tag for tag, _ in fields[1:]] == [_SEQUENCE, _SEQUENCE, _CONTEXT_0, _SEQUENCE, _OCTETS]
        and _bytes(algorithm) in _SIGNATURES.get(_bytes(hash_), ())
        and fields[4][1][len(_bytes(algorithm)) :] in (b"", b"\x05\x00")
    )  # fmt: skip


def _inner(context: tuple[int, bytes]) -> bytes:
    (_, content), *_ = der_parts(context[1])
    return content


def der_parts(data: bytes) -> list[tuple[int, bytes]]:
    """Tags and contents of the DER values in a row."""
    found = []
    while data:
        if len(data) < 2:
            raise ValueError("DER ends too early")
        length, start = data[1], 2
        if length >= 0x80:
            start += length & 0x7F
            length = int.from_bytes(data[2:start], "big")
        if start > 6 or len(data) < start + length:
            raise ValueError("DER ends too early")
        found.append((data[0], data[start : start + length]))
        data = data[start + length :]
    return found


def _bytes(value: tuple[int, bytes]) -> bytes:
    """Of a value shorter than 128 bytes."""
    return bytes([value[0], len(value[1]) & 0x7F]) + value[1]
