from __future__ import annotations

import subprocess
import sys

import pytest

from scanseg import cli
from scanseg.cli import COMMANDS, main, parser_for
from scanseg.contracts import InputError


def test_overview_lists_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    text = capsys.readouterr().out
    assert all(name in text for name in COMMANDS)
    assert main([]) == 2


def _leaves() -> list[list[str]]:
    from importlib import import_module

    found = []
    for name, (module, _) in COMMANDS.items():
        loaded = import_module(module)
        nested = getattr(loaded, "COMMANDS", None)
        found += [[name]] if hasattr(loaded, "COMMAND") else [[name, key] for key in nested]
    return found


@pytest.mark.parametrize("command", _leaves(), ids=" ".join)
def test_help_of_every_command_is_complete(
    command: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    from importlib import import_module

    assert main([*command, "--help"]) == 0
    assert "usage: scanseg " + " ".join(command) in capsys.readouterr().out
    module = import_module(COMMANDS[command[0]][0])
    function = module.COMMAND if len(command) == 1 else module.COMMANDS[command[1]]
    parser = parser_for(function, "scanseg")
    undescribed = [a.dest for a in parser._actions if not a.help]
    assert undescribed == []
    assert parser.description


def test_nested_overview(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["cache", "--help"]) == 0
    assert "prune" in capsys.readouterr().out
    assert main(["cache"]) == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["segmnt"], "did you mean 'segment'"),
        (["cache", "celar"], "did you mean 'clear'"),
        (["segment", "a.jpg", "cat", "--presett", "tiny"], "did you mean '--preset'"),
        (["segment", "a.jpg", "cat", "--branches", "all"], "branches"),
        (["segment"], "see scanseg segment --help"),
    ],
)
def test_mistakes_are_one_line_and_exit_with_2(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert "Traceback" not in error


def test_debug_shows_the_traceback() -> None:
    with pytest.raises(InputError):
        main(["--debug", "segmnt"])


def test_a_fault_of_ours_exits_with_1(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(_: list[str]) -> int:
        raise RuntimeError("a bug")

    monkeypatch.setattr(cli, "_dispatch", broken)
    assert main(["segment"]) == 1
    assert "internal error: RuntimeError: a bug" in capsys.readouterr().err


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    import scanseg

    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"scanseg {scanseg.__version__}\n"


def test_python_dash_m() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "scanseg", "nonsense"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert "no command 'nonsense'" in done.stderr


def test_a_name_that_no_file_can_have(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["hierarchy", "lint", "a" * 5000]) == 2
    told = capsys.readouterr().err
    assert told.count("\n") == 1
    assert len(told) < 1100
    assert "internal error" not in told


def test_help_of_a_command_returns(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["segment", "--help"]) == 0
    assert "--labels-file" in capsys.readouterr().out
