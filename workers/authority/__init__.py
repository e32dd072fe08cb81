"""The local Sigstore-compatible authority: CA with certificate log key, transparency log, time stamps and an issuer of tokens.

It speaks the protocols of Fulcio, Rekor v2 and RFC 3161, so that unmodified Sigstore clients sign and verify with it. It is for
development and for tests on one host: one process holds all keys, and nobody else audits its log. What it proves is that its
operator saw something, never that an independent party did.
"""
