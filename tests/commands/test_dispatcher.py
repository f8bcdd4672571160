"""The command `cfx_jax` calls each of its commands with unchanged arguments."""

import importlib.util
import runpy
import subprocess
import sys

import pytest

import cfx_jax
from cfx_jax.commands.dispatcher import COMMANDS, main


@pytest.fixture
def call(monkeypatch, capsys):
    """Runs the command in this process; returns what it prints, and what it handed over to."""
    handed = []
    monkeypatch.setattr(
        runpy, "run_module", lambda name, **how: handed.append((name, how, sys.argv[1:]))
    )

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["cfx_jax", *arguments])
        main()
        return capsys.readouterr(), handed

    return run


@pytest.mark.parametrize("name", COMMANDS)
def test_dispatcher_passes_arguments_unchanged(name, call):
    arguments = ["DIR", "--config.data.path=~/a b", "--help"]
    printed, handed = call(name, *arguments)
    module = f"cfx_jax.{COMMANDS[name].module}"
    assert handed == [(module, {"run_name": "__main__", "alter_sys": True}, arguments)]
    assert printed == ("", "")
    spec = importlib.util.find_spec(module)
    if spec.submodule_search_locations:
        spec = importlib.util.find_spec(f"{module}.__main__")
    with open(spec.origin, encoding="utf-8") as file:
        assert '\nif __name__ == "__main__":\n' in file.read()


@pytest.mark.parametrize("arguments", [[], ["-h"], ["--help"]])
def test_dispatcher_help_lists_the_commands(arguments, call):
    printed, handed = call(*arguments)
    assert [line.split()[0] for line in printed.out.splitlines()[2:]] == [*COMMANDS]
    assert handed == []


def test_dispatcher_prints_the_version(call):
    printed, handed = call("--version")
    assert printed.out == f"cfx_jax {cfx_jax.__version__}\n"
    assert handed == []


def test_dispatcher_refuses_an_unknown_command(call, capsys):
    with pytest.raises(SystemExit) as ended:
        call("describe", "--config=demo")
    assert ended.value.code == 2
    assert capsys.readouterr().err == (
        "error: there is no command 'describe'; expected one of explain, run, evaluate, report, "
        "records, weights, train, train-classifier, infill\n"
    )


def test_dispatcher_keeps_the_exit_status_of_the_command(make_run):
    run = make_run()
    (run / "records.zarr/ssr_status/c/1").write_bytes(b"")
    ended = [
        subprocess.run(
            [sys.executable, "-m", *command, "verify", run], capture_output=True, check=False
        )
        for command in (["cfx_jax", "records"], ["cfx_jax.records"])
    ]
    assert ended[0].returncode == ended[1].returncode == 1
    assert ended[0].stdout == ended[1].stdout != b""
