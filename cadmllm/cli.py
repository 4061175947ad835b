"""Builds the Typer app, and is the one place that turns an error into text or JSON and an exit code."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from cadmllm import __version__
from cadmllm.commands import _options, config, convert, data, doctor, eval, export, infer, plan, report, train
from cadmllm.console import Console
from cadmllm.errors import CadmllmError, Exit

if TYPE_CHECKING:
    import typer.core

COMMANDS = (doctor, data, plan, train, report, infer, eval, export, convert, config)


def build() -> typer.core.TyperGroup:
    """The program's commands. Each module of `commands` registers its own; nothing heavy is imported."""
    app = typer.Typer(
        name="cadmllm",
        help="Text, images and point clouds in, an editable parametric CAD program out, proven by a CAD kernel.",
        epilog=_options.EPILOG,
        rich_markup_mode=None,  # plain text, as in a pipe or a log; boxes cost an import of rich
        add_completion=False,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120},
    )

    @app.callback(invoke_without_command=True)
    def program(
        ctx: typer.Context,
        version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False,
    ) -> None:
        if version:
            ctx.obj.console.print(f"cadmllm {__version__}")
            ctx.obj.console.json({"version": __version__})
            raise typer.Exit

    for module in COMMANDS:
        module.register(app)
    root = typer.main.get_command(app)
    assert isinstance(root, typer.core.TyperGroup)
    _add_epilog(root)
    return root


def _add_epilog(group: typer.core.TyperGroup) -> None:
    for command in group.commands.values():
        command.epilog = command.epilog or _options.EPILOG
        if isinstance(command, typer.core.TyperGroup):
            _add_epilog(command)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command line and returns its exit code (`errors.Exit`); nothing is ever raised.

    Args:
        argv: without the program's name; `sys.argv[1:]` when None.
    """
    args = list(sys.argv[1:] if argv is None else argv)
    console = Console(json=_options.wants_json(args))
    try:
        code = _run(args, console)
        sys.stdout.flush()
        return code
    except BrokenPipeError:
        # the reader (`| head`) has seen enough; the interpreter would complain again when it flushes at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return Exit.PIPE


def _run(args: list[str], console: Console) -> int:
    shared = _options.Shared()
    try:
        root = build()
        rest, shared = _options.split(root, args)
        result = root.main(rest, prog_name="cadmllm", standalone_mode=False, obj=shared)
        return result if isinstance(result, int) else Exit.DONE
    except CadmllmError as error:
        console.error(error)
        return error.exit_code
    except typer.TyperException as error:  # what Typer says about the command line
        console.error(_usage(error, args))
        return Exit.USAGE
    except (KeyboardInterrupt, typer.Abort):
        console.note("interrupted")
        return Exit.INTERRUPTED
    except BrokenPipeError:
        raise
    except SystemExit as stop:
        if isinstance(stop.__context__, BrokenPipeError):  # Typer makes an exit code of it
            raise stop.__context__ from None
        return stop.code if isinstance(stop.code, int) else Exit.DONE
    except ImportError as error:
        return _not_imported(error, shared, args)
    except OSError as error:
        if error.errno in _DISK:
            console.error(_disk_error(error))
            return Exit.USER
        console.error(_internal(error, args))
        return Exit.INTERNAL
    except Exception as error:  # the process boundary: whatever was not foreseen becomes E901, never a raw traceback
        from cadmllm.doctor import first

        if first.culprit(error):  # a broken package may raise anything while it is imported
            return _not_imported(error, shared, args)
        console.error(_internal(error, args))
        return Exit.INTERNAL


def _not_imported(error: Exception, shared: _options.Shared, args: list[str]) -> int:
    """A package cannot be imported. Typer reads options with pydantic, and doctor must answer without both."""
    from cadmllm.doctor import first

    return first.answer(args, error) if shared.command == "doctor" else first.refuse(args, error)


_DISK = {
    errno.ENOSPC: ("E821", "free some space there (df -h), or choose another place"),
    errno.EDQUOT: ("E821", "free some of your quota there, or choose another place"),
    errno.EACCES: ("E822", "choose a folder that you may write to"),
    errno.EPERM: ("E822", "choose a folder that you may write to"),
    errno.EROFS: ("E822", "choose a folder that can be written to"),
}


def _disk_error(error: OSError) -> CadmllmError:
    code, remedy = _DISK[error.errno or 0]
    return CadmllmError(code, f"{error.filename or 'a file'}: {error.strerror}", remedy)


def _usage(error: typer.TyperException, args: Sequence[str]) -> CadmllmError:
    words = [word for word in args if not word.startswith("-")]
    place = build()
    path = "cadmllm"
    for word in words:
        if not isinstance(place, typer.core.TyperGroup) or word not in place.commands:
            break
        place = place.commands[word]
        path += f" {word}"
    return CadmllmError("E106", f"{path}: {error.format_message().rstrip('.')}", f"{path} --help", exit_code=Exit.USAGE)


def _internal(error: BaseException, args: Sequence[str]) -> CadmllmError:
    """E901 with the traceback in a file, whose path is said."""
    import platform
    import tempfile
    import traceback

    first = f"{type(error).__name__}: {error}".splitlines()[0]
    try:
        with tempfile.NamedTemporaryFile("w", prefix="cadmllm-", suffix=".log", delete=False, encoding="utf-8") as log:
            log.write(f"cadmllm {__version__}, Python {platform.python_version()}, {platform.platform()}\n{args}\n\n")
            log.writelines(traceback.format_exception(error))
        where = f"the traceback is in {log.name}: please report it with that file"
    except OSError as problem:
        where = f"the traceback could not be kept ({problem.strerror}); please report the command line"
    return CadmllmError("E901", first, where)
