"""Answers in JSON, and errors as one line each: without a traceback, without absolute paths."""

from collections.abc import Iterable
from http import HTTPStatus
from pathlib import Path
from typing import Any

from starlette.responses import Response

from sppnet.errors import (
    InputError,
    NothingUsableError,
    OutputError,
    SppnetError,
    UsageError,
    printable,
    shorten,
)
from sppnet.storage.files import json_text

_STATUS: tuple[tuple[type[SppnetError], int], ...] = (
    (InputError, 422),
    (NothingUsableError, 422),
    (UsageError, 400),
    (OutputError, 500),
)


class NotFoundError(UsageError):
    """There is no such photo, page or report."""

    default_code = "E_NOT_FOUND"


class BadValueError(UsageError):
    """A request says something that cannot be meant."""

    default_code = "E_VALUE"


class PreconditionError(UsageError):
    """An edit does not say which revision it was made on."""

    default_code = "E_PRECONDITION"


def json_response(content: Any, status: int = 200, **headers: str) -> Response:
    r"""Answer in JSON; what is not finite becomes null.

    Example:
        >>> json_response({"recall": float("nan")}).body
        b'{"recall": null}\n'
    """
    return Response(json_text(content, None), status, headers, "application/json")


def problem_response(status: int, code: str, message: str, **more: Any) -> Response:
    """Answer with an error.

    Args:
        status: Of HTTP.
        code: For programs.
        message: For people, one line.
        **more: Beside ``error``, such as both versions of a conflict.
    """
    error = {"code": code, "message": printable(shorten(message))}
    return json_response({"error": error, **more}, status)


def error_response(error: Exception, hidden: Iterable[Path] = (), **more: Any) -> Response:
    """Answer with what went wrong.

    Args:
        error: What a route raised.
        hidden: Folders whose absolute paths are nobody's business.
        **more: Beside ``error``.

    Example:
        >>> error_response(ValueError("boxes must have four corners")).status_code
        400
    """
    if isinstance(error, SppnetError):
        text = error.message
        for folder in hidden:
            text = text.replace(str(folder.absolute()), folder.name).replace(str(folder), "")
        return problem_response(_status_of(error), error.code, text, **more)
    if isinstance(error, ValueError | TypeError):
        return problem_response(400, "E_VALUE", str(error), **more)
    status = HTTPStatus.INTERNAL_SERVER_ERROR
    return problem_response(status, "E_BUG", f"a bug: {type(error).__name__}", **more)


def _status_of(error: SppnetError) -> int:
    own = {"E_NOT_FOUND": 404, "E_PRECONDITION": 428, "E_CONFLICT": 409}
    found = (status for kind, status in _STATUS if isinstance(error, kind))
    return own.get(error.code) or next(found, 500)
