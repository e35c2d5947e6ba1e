"""`python -m runner` and `pix2pix-runner`: one door to all commands."""

import re
import tomllib
from importlib.metadata import EntryPoint, version
from pathlib import Path

import pytest

import runner
from runner.__main__ import COMMANDS, main
from tests.support.commands import ROOT

Capture = pytest.CaptureFixture[str]


def test_every_command_is_listed_a_line_each(capsys: Capture) -> None:
    folder = Path(runner.__file__).parent
    modules = [
        path for path in (*folder.glob("*.py"), *folder.glob("*/__main__.py")) if "def main(" in path.read_text()
    ]
    names = {path.parent.name if path.name == "__main__.py" else path.stem for path in modules} - {"runner"}
    names -= {"config"}  # it writes pages of docs/, for who works on this program
    assert main([]) == 0
    listed = re.findall(r"^  (\w+)  +(?=[a-z])", capsys.readouterr().out, re.MULTILINE)
    assert sorted(listed) == sorted(names)
    assert listed == list(COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_gets_all_arguments_after_its_name(command: str, capsys: Capture) -> None:
    with pytest.raises(SystemExit) as caught:
        main([command, "--help"])
    assert caught.value.code == 0
    assert capsys.readouterr().out.startswith(f"usage: python -m runner.{command} ")


def test_a_commands_exit_code_is_passed_on(tmp_path: Path, capsys: Capture) -> None:
    assert main(["train", str(tmp_path / "gone.yaml")]) == 2
    assert "gone.yaml: it can't be read" in capsys.readouterr().err


def test_a_wrong_name_is_answered_with_the_nearest(capsys: Capture) -> None:
    assert main(["runner.tun"]) == 2
    assert capsys.readouterr().err == "error: there is no command 'runner.tun': did you mean `tune`?\n"
    assert main(["--frob"]) == 2
    assert "the commands are tune, train" in capsys.readouterr().err


def test_the_version_is_that_of_the_package(capsys: Capture) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"pix2pix-runner {version('pix2pix-runner')}\n"


def test_the_installed_command_is_the_same() -> None:
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    assert EntryPoint("pix2pix-runner", scripts["pix2pix-runner"], "console_scripts").load() is main
