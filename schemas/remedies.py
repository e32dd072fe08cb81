"""What would make a refused patch pass, by code: one sentence, shown wherever the code is (evidence §8)."""

from __future__ import annotations

from collections.abc import Iterable

REMEDIES = {
    "NO_TESTS": 'name the tests with test_command, for example ["python", "-m", "pytest", "-q", "tests"]',
    "TESTS_NONE_COLLECTED": "name the tests with test_command",
    "ALL_SKIPPED": "run the tests where they are not skipped, or name others with test_command",
    "COLLECTION_ERROR": "make the named test files importable again",
    "NO_FAILING_TEST": "add a test that shows what is wrong; only a failing test that passes afterwards makes a fix",
    "NO_FIX_FOUND": "this engine knows single edits only: fix it by hand and send the patch to `gen4 compile`",
    "POLICY_DENIED": "leave out what the rules name, or ask whoever owns the policy",
    "NOTHING_FIXED": "send a patch that makes a failing test pass",
    "TARGET_NOT_FAILING": "name failing tests by their ids as pytest prints them",
    "TARGET_NOT_FIXED": "make every named test pass",
    "REG_TEST_LOST": "keep every test passing that passed before",
    "REG_WAIVER_EXPIRED": "mend what the waiver covered, or have its owner grant another",
    "RUNS_DISAGREE": "make the named tests give the same outcome every time, or leave them out with --deselect in test_command",
    "FLAKE_INTRODUCED": "make the named tests independent of what their causes name: order, hash seed, time, network",
    "HARNESS_TAMPERED": "let the tests pass by what the code does: nothing in it may reach the test runner",
    "DET_DIGEST": "make the named tests give the same outcome every time",
    "PATCH_DOES_NOT_APPLY": "make the diff against the commit that it is compiled on, and send the bytes that git diff writes",
    "PATCH_EMPTY": "send a patch that changes a file",
    "PATCH_TOO_LARGE": "split the change",
    "PATCH_PATH": "give the file a name that is UTF-8 and means the same everywhere",
    "CACHE_CONFLICT": "find what the tests depend on besides the tree, and take it out",
    "TEST_TIMEOUT": "make the named tests end within their time limit",
    "TEST_LANGUAGE_UNSUPPORTED": "name test files that Node loads by itself: JavaScript, from 22.18 on TypeScript, never JSX",
    "MEMORY_LIMIT": "find the test that needs so much memory, and leave it out with test_command",
    "OUTPUT_LIMIT": "find the test that writes so much, and leave it out with test_command",
    "RUN_TIMEOUT": "name a part of the suite with test_command, so that it ends within the time limit",
}


def remedy_for(codes: Iterable[str]) -> str:
    """Of the first code that has one."""
    return next((REMEDIES[code] for code in codes if code in REMEDIES), "")
