"""``--waivers FILE``: regressions that somebody answers for, as a strict JSON list."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from pydantic import TypeAdapter, ValidationError

from schemas.canonical import StrictJsonError, strict_json
from schemas.error import InputError
from schemas.regression import Waiver, Waivers

WaiversOption = Annotated[
    Path | None, typer.Option("--waivers", help="JSON list of waivers: id, metric, subject, owner, reason, expires_at.")
]
_LIMIT = 1024 * 1024
_WAIVERS: TypeAdapter[tuple[Waiver, ...]] = TypeAdapter(Waivers)
_REMEDY = 'write [{"id": …, "metric": …, "subject": …, "owner": …, "reason": …, "expires_at": "2030-01-31T00:00:00Z"}]'


def read_waivers(path: Path | None) -> tuple[Waiver, ...]:
    """Raises InputError WAIVERS_NOT_FOUND, WAIVERS_INVALID."""
    if path is None:
        return ()
    try:
        with path.open("rb") as file:
            data = file.read(_LIMIT + 1)
    except OSError as error:
        raise InputError("WAIVERS_NOT_FOUND", f"cannot read {path}: {error.strerror}", "name a file with a JSON list") from error
    try:
        if len(data) > _LIMIT:
            raise ValueError(f"it has more than {_LIMIT} bytes")
        strict_json(data)
        return _WAIVERS.validate_json(data)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "document"
        raise InputError("WAIVERS_INVALID", f"{path}: {where}: {first['msg']}", _REMEDY) from error
    except (StrictJsonError, ValueError) as error:
        raise InputError("WAIVERS_INVALID", f"{path}: {error}", _REMEDY) from error
