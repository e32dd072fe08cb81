"""The test command of a request, as a plan: one invocation of a test runner on the tree, never a string for a shell.

    [env NAME=VALUE …] (python | python3 | python3.N) -m pytest ARGUMENTS
    [env NAME=VALUE …] pytest ARGUMENTS
    [env NAME=VALUE …] node --test ARGUMENTS        JavaScript, by Node's own test runner

What would change which tests exist stays the operator's choice (paths, ``-k``, ``-m``, ``--deselect``, ``-o``). What has
no effect here is left out (``-x``, ``-n``): every test runs, in one process. What would leave the tree, run no test or
replace the harness is refused with the reason.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from schemas.request import InvalidRequest
from schemas.testing import TestPlan

DEFAULT_PYTHON_PATH = ("src", ".")
_SHAPE = "[env NAME=VALUE …] python -m pytest ARGUMENTS, pytest ARGUMENTS or node --test ARGUMENTS"
_PYTHON = re.compile(r"python(3(\.\d{1,2})?)?")
_ASSIGNMENT = re.compile(r"([A-Za-z_][A-Za-z0-9_]*)=(.*)", re.DOTALL)
_SHELL = frozenset({"|", "||", "&", "&&", ";", ">", ">>", "<", "2>&1", "2>", "&>"})

_PINNED = frozenset({"PYTHONHASHSEED", "PYTHONDONTWRITEBYTECODE", "SOURCE_DATE_EPOCH"})
_REFUSED_VARIABLES = {
    "NODE_OPTIONS": "write the options into the command",
    "NODE_PATH": "packages come from the package lock",
    "PYTHONHOME": "it replaces the standard library",
    "PYTHONSTARTUP": "it only concerns interactive use",
    "PYTHONINSPECT": "it waits for a person",
    "PYTHONPLATLIBDIR": "it replaces the standard library",
    "PYTEST_ADDOPTS": "write the options into the command",
    "PYTEST_PLUGINS": "plugins come from the environment's requirements",
    "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "plugins come from the environment's requirements",
    "PATH": "programs come from the sandbox's root filesystem",
    "HOME": "the sandbox has its own",
    "IFS": "no shell reads it",
    **dict.fromkeys(_PINNED, "it is pinned so that runs can be compared"),
}

_TAKES_VALUE = {
    *("-k", "-m", "-o", "-W", "-r", "-c", "-p", "-n"),
    *("--maxfail", "--numprocesses", "--maxprocesses", "--dist", "--tx", "--deselect", "--ignore", "--ignore-glob", "--tb"),
    *("--durations", "--durations-min", "--capture", "--color", "--import-mode", "--rootdir", "--confcutdir", "--basetemp"),
    *("--junitxml", "--junit-xml", "--junit-prefix", "--override-ini", "--pythonwarnings", "--config-file", "--timeout"),
    *("--log-level", "--log-format", "--log-date-format", "--log-cli-level", "--log-file", "--verbosity", "--code-highlight"),
    *("--doctest-glob", "--doctest-report", "--asyncio-mode", "--cov-report", "--cov-config", "--randomly-seed"),
    "--show-capture",
}
_NO_EFFECT = {"-x", "--exitfirst", "--maxfail", "-n", "--numprocesses", "--maxprocesses", "--dist", "--tx"}
_PATHS = {
    *("-c", "--config-file", "--rootdir", "--confcutdir", "--basetemp", "--junitxml", "--junit-xml", "--log-file"),
    *("--ignore", "--ignore-glob", "--cov-config"),
}
_NOT_A_RUN = "it runs no test"
_NO_CACHE = "every run starts without the cache of an earlier one"
_FOR_A_PERSON = "it waits for a person"
_REFUSED_OPTIONS = {
    "--pyargs": "it tests installed packages, not the tree; name paths of the tree",
    "--trace": _FOR_A_PERSON,
    "--pdb": _FOR_A_PERSON,
    "--pdbcls": _FOR_A_PERSON,
    "--looponfail": _FOR_A_PERSON,
    "-f": _FOR_A_PERSON,
    "--forked": "tests run in one process; a test that ends it costs only itself",
    "--noconftest": "the tests of the tree would not run as their authors meant",
    "--confcutdir": "conftest files of the tree count as they are",
    "--debug": "it writes into the tree",
    "--pastebin": "there is no network",
    **dict.fromkeys(("--co", "--collect-only", "--collectonly", "--fixtures", "--funcargs", "--fixtures-per-test"), _NOT_A_RUN),
    **dict.fromkeys(("--markers", "--version", "-V", "-h", "--help", "--setup-only", "--setup-plan", "--cache-show"), _NOT_A_RUN),
    **dict.fromkeys(("--lf", "--last-failed", "--ff", "--failed-first", "--nf", "--new-first", "--lfnf"), _NO_CACHE),
    **dict.fromkeys(("--sw", "--stepwise", "--stepwise-skip", "--sw-skip", "--stepwise-reset", "--sw-reset"), _NO_CACHE),
    **dict.fromkeys(("--last-failed-no-failures", "--cache-clear"), _NO_CACHE),
}
_SHORT_WITH_VALUE = "kmoWrcpn"


def parse_test_command(argv: tuple[str, ...]) -> TestPlan:
    """The plan of a command; ``()`` is pytest on the whole tree.

    Raises:
        InvalidRequest: not a pytest command, or an option or variable that cannot be honoured; says which and why.
    """
    _refuse_odd_text(argv)
    if not argv:
        return TestPlan(python_path=DEFAULT_PYTHON_PATH)
    env, rest = _environment(argv)
    if rest[0] == "node":
        return TestPlan(runner="node", node_args=tuple(_node_arguments(rest[1:])), env=env, argv=tuple(argv))
    python_path = _python_path(env.pop("PYTHONPATH", None))
    arguments, as_module = _after_pytest(rest)
    if as_module and "." not in python_path:
        python_path += (".",)  # ``python -m`` puts the working folder on the path, ``pytest`` does not
    return TestPlan(pytest_args=tuple(_pytest_arguments(arguments)), env=env, python_path=python_path, argv=tuple(argv))


def _refuse_odd_text(argv: tuple[str, ...]) -> None:
    for word in argv:
        if "\0" in word or "\n" in word or any("\ud800" <= char <= "\udfff" for char in word):
            raise InvalidRequest(f"test_command: {word!r} holds a character that no argument may hold")
        if word in _SHELL:
            raise InvalidRequest(f"test_command: {word!r} is for a shell, and no shell reads this command; expected {_SHAPE}")


def _environment(argv: tuple[str, ...]) -> tuple[dict[str, str], tuple[str, ...]]:
    if argv[0] != "env":
        return {}, argv
    env: dict[str, str] = {}
    for index, word in enumerate(argv[1:], start=1):
        match = _ASSIGNMENT.fullmatch(word)
        if match is None:
            return env, argv[index:]
        name, value = match.groups()
        reason = _REFUSED_VARIABLES.get(name) or ("it loads foreign code into every program" if name.startswith("LD_") else "")
        if reason:
            raise InvalidRequest(f"test_command: variable {name} cannot be set: {reason}")
        env[name] = value
    raise InvalidRequest(f"test_command: nothing follows env; expected {_SHAPE}")


def _python_path(value: str | None) -> tuple[str, ...]:
    if value is None:
        return DEFAULT_PYTHON_PATH
    folders = []
    for entry in value.split(":"):
        folder = entry.removesuffix("/") or "."
        if entry.startswith("/") or ".." in folder.split("/"):
            raise InvalidRequest(f"test_command: PYTHONPATH entry {entry!r} is not a folder inside the repository")
        folders.append(_plain(folder))
    return tuple(dict.fromkeys(folders))


def _plain(path: str) -> str:
    return "/".join(part for part in path.split("/") if part not in ("", ".")) or "."


def _after_pytest(words: tuple[str, ...]) -> tuple[tuple[str, ...], bool]:
    if words and words[0] in ("pytest", "py.test"):
        return words[1:], False
    if len(words) >= 3 and _PYTHON.fullmatch(words[0]) and words[1] == "-m" and words[2] in ("pytest", "py.test"):
        return words[3:], True
    raise InvalidRequest(f"test_command: starts with {' '.join(words[:3])!r}; expected {_SHAPE}")


_NODE_WITH_VALUE = frozenset({"--test-name-pattern", "--test-skip-pattern", "--import", "--require", "-r"})


_UNREAD_GLOB = re.compile(r"[@!+*?]\(|\\|\{[^}]*\.\.")
"""What else Node reads in a glob, and :func:`schemas.test_paths.is_named` does not."""


def _node_arguments(words: tuple[str, ...]) -> Iterator[str]:
    """Files, globs and the options that choose tests or load what the tests need; all others are ours."""
    if "--test" not in words:
        raise InvalidRequest(f"test_command: node without --test runs a program, not tests; expected {_SHAPE}")
    rest = iter(words)
    for word in rest:
        if word == "--test":
            continue
        name, equals, value = word.partition("=")
        if not word.startswith("-"):
            _check_path(word, "argument")
            if _UNREAD_GLOB.search(word):
                raise InvalidRequest(f"test_command: {word!r}: globs are made of *, ?, **, [] and {{a,b}}; write it with these")
            if word.endswith((".jsx", ".tsx")):
                raise InvalidRequest(f"test_command: {word!r} holds JSX, which Node cannot load; commit what it compiles to")
            yield word
        elif name not in _NODE_WITH_VALUE:
            possible = ", ".join(sorted(_NODE_WITH_VALUE))
            raise InvalidRequest(f"test_command: option {name} is not possible here; possible: {possible}")
        else:
            value = value if equals else next(rest, "")
            if not value:
                raise InvalidRequest(f"test_command: option {name} needs a value")
            if name in ("--import", "--require", "-r"):
                _check_path(value, name)
            yield f"{'--require' if name == '-r' else name}={value}"


def _pytest_arguments(words: tuple[str, ...]) -> Iterator[str]:
    index, options_ended = 0, False
    while index < len(words):
        word = words[index]
        index += 1
        if options_ended and word.startswith("-"):
            raise InvalidRequest(f"test_command: {word!r} after -- is no path of the repository")
        if options_ended or not word.startswith("-") or word == "-":
            _check_path(word, "argument")
            yield word
        elif word == "--":
            options_ended = True  # ours follow the plan's, so the marker itself is left out
        else:
            name, value, attached = _option(word)
            _refuse_option(name)
            takes_next = not attached and name in _TAKES_VALUE
            if takes_next:
                if index == len(words):
                    raise InvalidRequest(f"test_command: option {name} needs a value")
                value = words[index]
                index += 1
            if name in _PATHS and value is not None:
                _check_path(value, name)
            if name in _NO_EFFECT:
                continue
            yield from (word, value or "") if takes_next else (word,)


def _option(word: str) -> tuple[str, str | None, bool]:
    """Name, value if it is part of the word, and whether it is."""
    if word.startswith("--"):
        name, equals, value = word.partition("=")
        return name, value if equals else None, bool(equals)
    if word[1] in _SHORT_WITH_VALUE and len(word) > 2:
        return word[:2], word[2:].removeprefix("="), True
    return word, None, False


def _refuse_option(name: str) -> None:
    if name in _REFUSED_OPTIONS:
        raise InvalidRequest(f"test_command: option {name} is not possible here: {_REFUSED_OPTIONS[name]}")
    if not name.startswith("--") and len(name) > 2:
        for letter in name[1:]:
            if letter in "xfhV" and letter != "x":
                _refuse_option(f"-{letter}")
            if letter in _SHORT_WITH_VALUE:
                raise InvalidRequest(f"test_command: write -{letter} apart from {name}")


def _check_path(value: str, name: str) -> None:
    path = value.partition("::")[0]
    if path.startswith("@"):
        raise InvalidRequest(f"test_command: {value!r}: arguments are not read from a file; write them into the command")
    if path.startswith(("/", "~")) or ".." in path.split("/"):
        raise InvalidRequest(f"test_command: {name} {value!r} is not inside the repository; use a path relative to its root")
