"""``gen4``: a thin client. It starts workflows, sends signals, reads the store and verifies bundles."""
