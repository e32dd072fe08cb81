"""RFC 3161 time stamps over a signature, by the authorities of a trusted root."""

from __future__ import annotations

from datetime import datetime

from rfc3161_client import TimeStampResponse, VerificationError, VerifierBuilder, decode_timestamp_response
from sigstore_models.bundle.v1 import VerificationMaterial

from activities.evidence.sigstore_material import Authority, KeylessRefused, Root, within

MOST = 8
"""A bundle with more time stamps than any signer makes is not read further."""


def stamped_at(material: VerificationMaterial, signature: bytes, root: Root) -> list[datetime]:
    """The time of each stamp in the bundle. All must be valid: one that is not makes the bundle a forgery, not a smaller one."""
    data = material.timestamp_verification_data
    stamps = data.rfc3161_timestamps if data else []
    if len(stamps) > MOST:
        raise KeylessRefused("timestamp_invalid", f"at most {MOST} time stamps", str(len(stamps)))
    return [_time_of(stamp.signed_timestamp, signature, root) for stamp in stamps]


def _time_of(raw: bytes, signature: bytes, root: Root) -> datetime:
    try:
        response = decode_timestamp_response(raw)
        moment = response.tst_info.gen_time
    except ValueError as error:
        raise KeylessRefused("timestamp_invalid", "an RFC 3161 response", str(error)[:100]) from error
    if response.as_bytes() != raw:
        raise KeylessRefused("timestamp_invalid", "an RFC 3161 response in DER", "other bytes around it")
    if not any(_made_by(authority, response, moment, signature) for authority in root.time_stampers):
        raise KeylessRefused("timestamp_invalid", "a stamp over this signature by an authority of the trusted root", "another")
    return moment


def _made_by(authority: Authority, response: TimeStampResponse, moment: datetime, signature: bytes) -> bool:
    if len(authority.chain) < 2 or not within(authority.valid_for, moment):
        return False
    builder = VerifierBuilder().tsa_certificate(authority.chain[0]).add_root_certificate(authority.chain[-1])
    for between in authority.chain[1:-1]:
        builder = builder.add_intermediate_certificate(between)
    try:
        return builder.build().verify_message(response, signature)
    except (VerificationError, ValueError):
        return False
