"""Which powers over the outside world a module takes, read from its syntax tree: processes, network, engines, clients, code.

A power is taken by importing a module that gives it, or by calling a function of a module that everyone may import
(``os.fork``, ``asyncio.create_subprocess_exec``). What hides the name of what it takes (``__import__``, ``getattr`` on a
module, ``sys.modules``, ``eval``) is a power of its own, so that it cannot be used to get round the rest.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from typing import Literal, NamedTuple

Power = Literal["process", "signal", "network", "docker", "git", "model", "temporal client", "activity", "code", "database"]

MODULES: dict[Power, tuple[str, ...]] = {
    "process": ("subprocess", "multiprocessing", "pty", "concurrent.futures.process", "concurrent.futures.ProcessPoolExecutor"),
    "network": (
        "socket", "socketserver", "ssl", "http", "urllib.request", "urllib.response", "ftplib", "imaplib", "poplib", "smtplib",
        "telnetlib", "xmlrpc", "wsgiref", "webbrowser", "requests", "urllib3", "httpx", "httpcore", "aiohttp", "websockets",
        "grpc", "paramiko", "opa_client", "pypi_simple", "jwt.PyJWKClient", "jwt.jwks_client", "boto3",
        "prometheus_client.start_http_server", "prometheus_client.start_wsgi_server", "prometheus_client.exposition",
        "sigstore.sign", "prometheus_client.push_to_gateway", "prometheus_client.pushadd_to_gateway", "prometheus_client.bridge",
    ),
    "docker": ("docker", "podman", "kubernetes"),
    "git": ("activities.record.git", "git", "pygit2", "dulwich"),
    "model": (
        "openai", "anthropic", "litellm", "mistralai", "cohere", "google.generativeai", "google.genai", "vertexai", "groq",
        "ollama", "huggingface_hub", "transformers", "torch", "llama_cpp", "vllm", "pydantic_ai", "langchain", "langchain_core",
    ),
    "temporal client": ("temporalio.client", "temporalio.service", "temporalio.testing", "temporalio.bridge"),
    "activity": ("temporalio.activity", "temporalio.worker"),
    "code": (
        "importlib", "runpy", "ctypes", "cffi", "pickle", "_pickle", "marshal", "shelve", "code", "codeop", "pkgutil", "imp",
        "zipimport",
    ),
    "database": ("sqlite3", "psycopg", "psycopg2", "asyncpg", "sqlalchemy.create_engine", "sqlalchemy.engine", "alembic"),
}  # fmt: skip
HARMLESS = (
    "importlib.metadata", "importlib.resources", "http.HTTPStatus", "temporalio.service.RPCError",
    "temporalio.service.RPCStatusCode", "temporalio.service.__version__", "temporalio.client.WorkflowFailureError",
    "temporalio.client.WorkflowExecutionStatus", "activities.record.git.GitFailed", "alembic.op",
    "temporalio.worker.workflow_sandbox", "prometheus_client.exposition.choose_encoder",
)  # fmt: skip
"""Names inside those modules that give no power: errors, versions, enumerations."""

CALLS: dict[str, Power] = {
    **dict.fromkeys(
        (
            "os.system", "os.popen", "os.fork", "os.forkpty", "os.execv", "os.execve", "os.execvp", "os.execvpe", "os.execl",
            "os.execle", "os.execlp", "os.execlpe", "os.spawnl", "os.spawnle", "os.spawnlp", "os.spawnlpe", "os.spawnv",
            "os.spawnve", "os.spawnvp", "os.spawnvpe", "os.posix_spawn", "os.posix_spawnp", "os.startfile",
            "asyncio.create_subprocess_exec", "asyncio.create_subprocess_shell", "asyncio.subprocess",
            "concurrent.futures.ProcessPoolExecutor",
        ),
        "process",
    ),
    **dict.fromkeys(
        ("os.kill", "os.killpg", "os.pidfd_open", "signal.pidfd_send_signal", "signal.pthread_kill", "signal.raise_signal"),
        "signal",
    ),
    **dict.fromkeys(
        (
            "asyncio.open_connection", "asyncio.open_unix_connection", "asyncio.start_server", "asyncio.start_unix_server",
            "jwt.PyJWKClient",
        ),
        "network",
    ),
    "sqlalchemy.create_engine": "database",
    **dict.fromkeys(("sys.modules", "sys.meta_path", "sys.path_hooks", "builtins.__dict__"), "code"),
    **dict.fromkeys(("eval", "exec", "compile", "__import__", "breakpoint"), "code"),
}  # fmt: skip
"""Names of modules that anyone may import, and what they give. A look is enough: a name can be kept and called later."""


class Use(NamedTuple):
    power: Power
    line: int
    what: str


def uses(source: str) -> set[Use]:
    """Every power that the module takes, with the line and the name by which."""
    tree = ast.parse(source)
    names = dict(_bindings(tree))
    return {use for node in ast.walk(tree) for use in (*_imports(node), *_named(node, names), *_hidden(node, names))}


def _bindings(tree: ast.AST) -> Iterator[tuple[str, str]]:
    """What a local name stands for: ``import os as o`` and ``from os import system as s`` hide nothing."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield (alias.asname, alias.name) if alias.asname else (alias.name.split(".")[0], alias.name.split(".")[0])
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            for alias in node.names:
                yield alias.asname or alias.name, f"{node.module}.{alias.name}"


def _imports(node: ast.AST) -> Iterator[Use]:
    if isinstance(node, ast.Import):
        found = [alias.name for alias in node.names]
    elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
        found = [f"{node.module}.{alias.name}" for alias in node.names]
    else:
        return
    for name in found:
        yield from (Use(power, node.lineno, name) for power in _powers_of_module(name))


def _powers_of_module(name: str) -> Iterator[Power]:
    if not _inside(name, HARMLESS):
        yield from (power for power, modules in MODULES.items() if _inside(name, modules))


def _inside(name: str, modules: tuple[str, ...]) -> bool:
    return any(name == module or name.startswith(f"{module}.") for module in modules)


def _named(node: ast.AST, names: dict[str, str]) -> Iterator[Use]:
    if not isinstance(node, (ast.Attribute, ast.Name)) or not isinstance(node.ctx, ast.Load):
        return
    name = _resolved(node, names)
    if name in CALLS:
        yield Use(CALLS[name], node.lineno, name)
    elif isinstance(node, ast.Attribute):  # import concurrent, then concurrent.futures.process: no import names it whole
        yield from (Use(power, node.lineno, name) for power in _powers_of_module(name) if name in MODULES[power])


def _resolved(node: ast.expr, names: dict[str, str]) -> str:
    if isinstance(node, ast.Attribute):
        return f"{_resolved(node.value, names)}.{node.attr}"
    return names.get(node.id, node.id) if isinstance(node, ast.Name) else "?"


def _hidden(node: ast.AST, names: dict[str, str]) -> Iterator[Use]:
    """``getattr(os, …)``, ``vars(os)``, ``os.__dict__``: whatever name follows, it is not to be seen."""
    modules = {local for local, whole in names.items() if "." not in whole or whole == local}
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in ("getattr", "vars") and node.args:
        first = node.args[0]
        if isinstance(first, ast.Name) and first.id in modules & RISKY:
            yield Use("code", node.lineno, f"{node.func.id}({first.id}, …)")
    if isinstance(node, ast.Attribute) and node.attr == "__dict__" and isinstance(node.value, ast.Name):
        if node.value.id in modules & RISKY:
            yield Use("code", node.lineno, f"{node.value.id}.__dict__")


RISKY = {"os", "asyncio", "signal", "sys", "builtins", "concurrent", "sqlalchemy", "jwt", "temporalio"}
