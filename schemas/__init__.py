"""Contracts: pydantic models and pure total functions over them. No I/O; imports nothing of ours."""
