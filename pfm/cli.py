"""`pfm`: a table of command -> "module:attribute", loaded when named, so that `pfm --help` answers at once."""

import contextlib
import errno
import importlib
import os
import sys
from collections.abc import Sequence
from typing import Any

import click

from pfm import __version__
from pfm.commands.options import CONTEXT_SETTINGS
from pfm.errors import PfmError
from pfm.storage import CANNOT_WRITE

COMMANDS = {
    "train": ("pfm.commands.train:train", "Train a classifier whose classes can be removed."),
    "learn": ("pfm.commands.learn:learn", "Add samples and classes to an exact readout."),
    "backbones": ("pfm.commands.backbones:backbones", "Which backbones there are, and what each is good at."),
    "eval": ("pfm.commands.evaluate:evaluate", "Accuracy in every inference mode, and after forgetting k classes."),
    "predict": ("pfm_export.commands.predict:predict", "Classify files with a checkpoint or a bundle."),
    "show": ("pfm_export.commands.show:show", "What a checkpoint, bundle, ledger or run folder is."),
    "serve": ("pfm_export.commands.serve:serve", "Serve bundles over HTTP; forget without a restart."),
    "suspend": ("pfm_export.commands.suspend:suspend", "Leave classes out of a bundle's answers; can be undone."),
    "restore": ("pfm_export.commands.restore:restore", "Undo `pfm suspend`."),
    "forget": ("pfm_export.commands.forget:forget", "Erase classes from checkpoints, bundles and run folders."),
    "scrub": ("pfm_export.commands.scrub:scrub", "Erase classes from a copy, and retune its shared weights."),
    "verify": (
        "pfm_export.commands.verify:verify",
        "Check the certificate of an erasure, and look into the artifacts.",
    ),
    "audit": ("pfm_export.commands.audit:audit_command", "Attack what was forgotten, and judge."),
    "export": ("pfm_export.commands.export:export", "Export to ONNX."),
    "bench": ("pfm_bench.commands.bench:bench", "Latency of a bundle; speed of training and the rest."),
    "demo": ("pfm_bench.commands.demo:demo", "The whole story on real data, in two minutes."),
}

OURS = ("pfm", "pfm_export", "pfm_bench")


class LazyGroup(click.Group):
    """Knows its commands by name and one line of help; imports one only when it is used."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module, _, attribute = COMMANDS[cmd_name][0].partition(":")
        return getattr(importlib.import_module(module), attribute)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in COMMANDS.items()])


@click.group(cls=LazyGroup, context_settings=CONTEXT_SETTINGS)
@click.version_option(__version__, prog_name="pfm")
def pfm() -> None:
    """Pre-forgettable models: train, forget, export and measure classifiers whose classes can be removed."""


def run(command: click.Command, arguments: Sequence[str] | None = None, *, name: str = "pfm") -> int:
    """Run a command; what the user can put right is one line on standard error and exit code 2."""
    _use_utf8()
    stdout = sys.stdout
    try:
        result: Any = command.main(arguments, prog_name=name, standalone_mode=False)
        sys.stdout.flush()  # where it fails here, it does not fail at exit
    except click.exceptions.NoArgsIsHelpError as error:  # `pfm` alone: its message is the help
        error.show()
        return 2
    except click.UsageError as error:
        hint = f" (see '{error.ctx.command_path} --help')" if error.ctx else ""
        return _fail(f"{error.format_message()}{hint}", 2)
    except PfmError as error:
        return _fail(str(error), error.exit_code)
    except click.ClickException as error:
        return _fail(error.format_message(), 2)
    except (KeyboardInterrupt, click.Abort):
        return _fail("interrupted; files written so far are whole", 130)
    except SystemExit:
        if sys.stdout is stdout:
            raise
        sys.stdout = stdout  # click took it away when the pipe broke
        return _leave_pipe()
    except BrokenPipeError:
        return _leave_pipe()
    except ModuleNotFoundError as error:  # where only what serving needs was installed
        package = (error.name or "").partition(".")[0]
        if package in ("", *OURS):
            raise
        return _fail(f"this needs {package}, which is not installed; `pip install pfm` brings it", 2)
    except OSError as error:
        if _can_print():  # it came from elsewhere
            if error.errno not in CANNOT_WRITE:
                raise
            place = error.filename or "a file"
            if error.errno in (errno.EACCES, errno.EPERM):  # who may not write may not be able to read either
                return _fail(f"may not open {place}: {error.strerror}; get the right to, or choose another place", 2)
            return _fail(f"cannot write {place}: {error.strerror}; free some space, or choose another place", 2)
        _mute()
        return _fail(f"standard output cannot be written: {error.strerror}", 2)
    return result if isinstance(result, int) else 0


def _leave_pipe() -> int:
    """`pfm … | head`: who reads has seen enough."""
    _mute()
    return 0


def _can_print() -> bool:
    """Whether standard output takes another line."""
    try:
        print(flush=True)
    except OSError:
        return False
    return True


def _mute() -> None:
    """Let standard output take anything from now on, so that Python can close it without a word."""
    with contextlib.suppress(OSError, AttributeError, ValueError):  # a stream of a notebook or test has no descriptor
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.__stdout__.fileno())  # type: ignore[union-attr]  # None raises, and is suppressed
        os.close(nowhere)


def _fail(message: str, code: int) -> int:
    with contextlib.suppress(OSError):  # standard error may be full as well; the code says enough
        print(f"pfm: {printable(' '.join(message.split()))}", file=sys.stderr)
    return code


def printable(text: str) -> str:
    """The text with what a terminal would obey in place of showing it written out: names may be anybody's."""
    return "".join(letter if letter.isprintable() else letter.encode("unicode_escape").decode() for letter in text)


def _use_utf8() -> None:
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(encoding="utf-8", errors="replace")  # type: ignore[union-attr]


def main() -> None:
    sys.exit(run(pfm))


if __name__ == "__main__":
    main()
