"""Entry point of ``gen4``: the command table, and exit codes that scripts can trust.

Exit codes: 0 done or accepted, 1 rejected or refused, 2 usage, 3 infrastructure.
"""

from __future__ import annotations

import os
import sys
import traceback
from importlib import import_module

import typer
from typer.exceptions import TyperException

from cli import ci, output
from schemas.error import Gen4Error, InfrastructureError, InputError

WORDS: dict[str, tuple[str, ...]] = {
    "fabric": ("up", "down", "status"),
    "doctor": ("doctor",),
    "remediate": ("remediate", "session"),
    "compiling": ("compile",),
    "ga": ("ga",),
    "verify": ("verify",),
    "approvals": ("approve", "reject", "approvals"),
    "events": ("events", "sessions", "trajectory"),
    "store": ("store",),
    "identity": ("whoami", "tenant", "principal", "role", "lease"),
    "keys": ("keys",),
    "kill": ("kill",),
    "breakers": ("breakers",),
    "ledger": ("ledger",),
    "checkpoints": ("checkpoints",),
    "authority": ("authority",),
}
"""What each module registers. Only the one that is asked for is imported: all of them take most of a second."""


def table(arguments: list[str]) -> typer.Typer:
    """The command that ``arguments`` begin with; all of them where that is none."""
    app = typer.Typer(
        name="gen4", no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, rich_markup_mode="markdown",
        context_settings={"help_option_names": ["-h", "--help"]},
        help="Repairs software autonomously, and proves what it did. Start with `gen4 doctor`, then `gen4 remediate --help`.",
    )  # fmt: skip
    app.callback()(_gen4)
    asked = [module for module, words in WORDS.items() if arguments and arguments[0] in words]
    for module in asked or WORDS:
        import_module(f"cli.{module}").register(app)
    return app


def _gen4() -> None:
    """With a callback, a table of one command still wants its name."""


INTERRUPTED = 130


def run(arguments: list[str]) -> int:
    """Run one command and give its exit code; never raises."""
    try:
        code = typer.main.get_command(table(arguments)).main(arguments, prog_name="gen4", standalone_mode=False)
        if code == INTERRUPTED:  # typer turns Ctrl-C into this code and says nothing
            output.say("interrupted; what was started goes on, see `gen4 status`" if "remediate" in arguments else "interrupted")
        return code if isinstance(code, int) else 0
    except typer.Exit as stop:
        return int(stop.exit_code)
    except typer.Abort:
        output.say("interrupted")
        return INTERRUPTED
    except TyperException as error:
        return _usage(error, arguments)
    except KeyboardInterrupt:
        output.say("interrupted")
        return INTERRUPTED
    except Gen4Error as error:
        output.explain(error, "--json" in arguments)
        return error.exit_code
    except OSError as error:
        return _failed("SYSTEM_FAILED", str(error), arguments)
    except Exception as error:  # of whatever else, too, nobody may read a verdict out of the exit code
        if _of_the_server(error):  # it cannot do it now, for instance because its disk is full
            return _failed("TEMPORAL_FAILED", f"the Temporal server answers: {error}", arguments)
        for text in traceback.format_exc().splitlines():
            output.say(text)
        return _failed("UNEXPECTED", f"{type(error).__name__}: {error}", arguments)


def _of_the_server(error: Exception) -> bool:
    sdk = sys.modules.get("temporalio.service")  # whoever raised it has imported it
    return sdk is not None and isinstance(error, sdk.RPCError)


def _usage(error: TyperException, arguments: list[str]) -> int:
    """What the option parser refuses, in the form of every other error."""
    if "--json" in arguments:
        output.explain(InputError("USAGE", error.format_message(), "see `gen4 --help`"), as_json=True)
    else:
        output.say(f"{error.format_message()} (see `gen4 --help`)")
    return 2


def _failed(code: str, message: str, arguments: list[str]) -> int:
    error = InfrastructureError(code, message, "free memory and disk, look at `gen4 status` and `gen4 doctor`, then try again")
    output.explain(error, "--json" in arguments)
    return error.exit_code


def main() -> None:
    """The SDK's native threads can crash a short-lived interpreter at exit, so we leave without teardown."""
    with ci.commands_stopped(os.environ):
        code = run(sys.argv[1:])
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


if __name__ == "__main__":
    main()
