"""The program ``scanseg``: a table of commands, each a typed function in a module of its own.

The function's signature is the command line and its docstring is the help text, so there is one
place to change. Only the module of the command that runs is imported.

Exit codes: 0 success, 1 a fault of ours, 2 a user's mistake (one line on stderr), 3 finished but
some inputs failed; 130 after Ctrl-C and 143 after SIGTERM, temporary files removed.
"""

from __future__ import annotations

import difflib
import inspect
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from types import FrameType
from typing import Any, get_type_hints

from scanseg import __version__
from scanseg.contracts import InputError

EXIT_OK, EXIT_FAULT, EXIT_MISTAKE, EXIT_SOME_FAILED = 0, 1, 2, 3
EXIT_INTERRUPTED, EXIT_TERMINATED = 130, 143  # 128 + the number of the signal, as shells have it

Command = Callable[..., int]

COMMANDS: dict[str, tuple[str, str]] = {
    # name: (module that has COMMAND, or COMMANDS with sub-commands, or both: then a first argument
    # that is the name of a sub-command means it, and anything else goes to COMMAND; summary)
    "segment": ("scanseg.cli.segment", "label photos with your words"),
    "evaluate": ("scanseg.cli.evaluate", "a model on a data set: scores, intervals, a report"),
    "score": ("scanseg.cli.score", "score anybody's predictions: both mIoUs, SG-IoU, a report"),
    "data": ("scanseg.cli.data", "prepare and verify the benchmarks' data sets"),
    "hierarchy": ("scanseg.cli.hierarchy", "parents and synonyms of a label list"),
    "similarity": ("scanseg.cli.similarity", "a similarity file for Open-mIoU"),
    "bench": ("scanseg.cli.bench", "time a model stage by stage, one mode against another"),
    "serve": ("scanseg.cli.serve", "a web page and a REST interface on this machine"),
    "batch": ("scanseg.cli.batch", "millions of photos: resumable, many processes, Parquet out"),
    "cache": ("scanseg.cli.cache", "show, prune or clear the text cache"),
    "train": ("scanseg.cli.train", "train SCAN on your photos: experiments in YAML"),
    "finetune-clip": ("scanseg.cli.finetune_clip", "region CLIP: mine pairs, fine-tune, fuse"),
    "ablate": ("scanseg.cli.ablate", "a table of rows over seeds, beside the paper's numbers"),
    "convert": ("scanseg.cli.convert", "official checkpoints to a model folder"),
    "export": ("scanseg.cli.export", "a model as ONNX files that take any words"),
}

_COMMON = """\
  --debug     show the traceback of an error
  -h, --help  show this help"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code and never raises for a user's mistake."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in arguments
    if debug:
        arguments.remove("--debug")
    try:
        with _termination_as_exception():
            return _dispatch(arguments)
    except InputError as error:
        if debug:
            raise
        print(f"scanseg: {error}", file=sys.stderr)
        return EXIT_MISTAKE
    except _Terminated:
        print("scanseg: terminated", file=sys.stderr)
        return EXIT_TERMINATED
    except KeyboardInterrupt:
        print("scanseg: interrupted", file=sys.stderr)
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        # The reader of our standard output went away (scanseg ... | head): not an error of ours.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_OK
    except SystemExit as stop:  # --help of a command has printed what it has to say
        return stop.code if isinstance(stop.code, int) else EXIT_OK
    except Exception as error:
        if debug:
            raise
        if isinstance(error, OSError) and error.filename is not None:
            # a name that no file can have, no rights, no space: not a fault of ours
            told = InputError(f"{error.filename}: {error.strerror or error}")
            print(f"scanseg: {told}", file=sys.stderr)
            return EXIT_MISTAKE
        print(
            f"scanseg: internal error: {type(error).__name__}: {error} "
            "(please report it; --debug shows where)",
            file=sys.stderr,
        )
        return EXIT_FAULT


class _Terminated(KeyboardInterrupt):
    """SIGTERM arrived; a kind of Ctrl-C, so that whatever cleans up after one does so here too."""


@contextmanager
def _termination_as_exception() -> Iterator[None]:
    """Inside the block SIGTERM unwinds the stack once; a second one ends the process at once."""
    ours = threading.current_thread() is threading.main_thread()
    if not ours or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        yield  # somebody else's process, who decides
        return

    def unwind(number: int, frame: FrameType | None) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        raise _Terminated

    signal.signal(signal.SIGTERM, unwind)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _dispatch(arguments: list[str]) -> int:
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(_overview())
        return EXIT_OK if arguments else EXIT_MISTAKE
    if arguments[0] in ("--version", "-V"):
        print(f"scanseg {__version__}")
        return EXIT_OK
    name, rest = arguments[0], arguments[1:]
    if name not in COMMANDS:
        raise InputError(f"no command {name!r}{_nearest(name, COMMANDS)}; see scanseg --help")
    module = import_module(COMMANDS[name][0])
    nested: dict[str, Command] = getattr(module, "COMMANDS", {})
    if hasattr(module, "COMMAND") and not (rest and rest[0] in nested):
        if rest and (hint := _nearest(rest[0], nested)) and not os.path.exists(rest[0]):
            raise InputError(f"{rest[0]} is no file and no command of scanseg {name}{hint}")
        return run(module.COMMAND, f"scanseg {name}", rest)
    if not rest or rest[0] in ("-h", "--help"):
        print(_nested_overview(name, nested))
        return EXIT_OK if rest else EXIT_MISTAKE
    if rest[0] not in nested:
        raise InputError(
            f"scanseg {name} has no {rest[0]!r}{_nearest(rest[0], nested)}; "
            f"see scanseg {name} --help"
        )
    return run(nested[rest[0]], f"scanseg {name} {rest[0]}", rest[1:])


def run(function: Command, program: str, arguments: Sequence[str]) -> int:
    """Parse ``arguments`` by the signature of ``function`` and call it."""
    from jsonargparse import ArgumentError

    from scanseg.cli.argument_order import options_first
    from scanseg.cli.plain_errors import plain_reason

    parser = parser_for(function, program)
    try:
        parsed = parser.parse_args(options_first(parser, arguments))
    except ArgumentError as error:
        positional = {
            a.dest: f"{a.metavar} ({a.help})" for a in parser._actions if not a.option_strings
        }
        reason = plain_reason(str(error), positional)
        options = {o for a in parser._actions for o in a.option_strings}
        wrong = next(
            (a for a in arguments if a.startswith("--") and a.split("=")[0] not in options), ""
        )
        hint = _nearest(wrong.split("=")[0], options) if wrong else ""
        raise InputError(f"{reason}{hint}; see {program} --help") from error
    found = vars(parsed)
    return function(**{k: found[k.rstrip("_")] for k in inspect.signature(function).parameters})


def parser_for(function: Command, program: str) -> Any:
    """A parser whose options are the parameters of ``function``.

    Keyword-only parameters become ``--options`` (booleans become switches), the others become
    positional arguments, a ``list`` taking one or more.
    """
    import docstring_parser
    from jsonargparse import ArgumentParser

    from scanseg.cli.help_text import HelpFormatter, described, metavar
    from scanseg.cli.settings_options import given_settings

    text = docstring_parser.parse(inspect.getdoc(function) or "")
    common = docstring_parser.parse(inspect.getdoc(given_settings) or "")
    texts = {p.arg_name: p.description or "" for p in (*common.params, *text.params)}
    hints = get_type_hints(function)
    parser = ArgumentParser(
        prog=program,
        description="\n\n".join(filter(None, (text.short_description, text.long_description))),
        exit_on_error=False,
        default_meta=False,
        formatter_class=HelpFormatter,
    )
    for parameter in inspect.signature(function).parameters.values():
        name, kind, default = parameter.name, hints[parameter.name], parameter.default
        positional = parameter.kind is not inspect.Parameter.KEYWORD_ONLY
        help_text = described(texts.get(name, ""), None if positional else default)
        option = "--" + name.rstrip("_").replace("_", "-")  # as_ becomes --as
        shown = metavar(kind)
        if positional:
            many = str(kind).startswith("list[")
            parser.add_argument(
                name,
                nargs=("*" if default is not inspect.Parameter.empty else "+") if many else None,
                type=kind.__args__[0] if many else kind,
                help=help_text,
                metavar=name.upper().rstrip("S") if many else name.upper(),
            )
        elif str(kind).startswith("list["):  # --set A B, or --set A --set B
            more = "extend" if isinstance(default, list) else None
            parser.add_argument(
                option, nargs="+", action=more, type=str, default=default, help=help_text
            )
        elif kind is bool and default is False:
            parser.add_argument(option, action="store_true", help=help_text)
        elif default is inspect.Parameter.empty:
            parser.add_argument(option, type=kind, required=True, help=help_text, metavar=shown)
        else:
            parser.add_argument(option, type=kind, default=default, help=help_text, metavar=shown)
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    return parser


def _overview() -> str:
    width = max(map(len, COMMANDS))
    rows = "\n".join(f"  {name:<{width}}  {summary}" for name, (_, summary) in COMMANDS.items())
    return (
        "usage: scanseg COMMAND ...\n\n"
        "Open-vocabulary segmentation: a photo and any words in, a labelled map out.\n\n"
        f"commands (scanseg COMMAND --help tells more):\n{rows}\n\n"
        f"options:\n  --version   show the version\n{_COMMON}\n\n"
        'example:\n  scanseg segment photo.jpg "cat" "sofa" "window"'
    )


def _nested_overview(name: str, nested: dict[str, Command]) -> str:
    width = max(map(len, nested))
    rows = "\n".join(
        f"  {key:<{width}}  {(inspect.getdoc(function) or '').splitlines()[0]}"
        for key, function in nested.items()
    )
    return (
        f"usage: scanseg {name} COMMAND ...\n\n{COMMANDS[name][1]}\n\n"
        f"commands (scanseg {name} COMMAND --help tells more):\n{rows}\n\noptions:\n{_COMMON}"
    )


def _nearest(word: str, choices: Any) -> str:
    close = difflib.get_close_matches(word, list(choices), n=1)
    return f" (did you mean {close[0]!r}?)" if close else ""
