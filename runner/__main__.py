"""`python -m runner`, also installed as `pix2pix-runner`: lists the commands, and runs the one that it is given."""

import difflib
import importlib
import importlib.util
import sys
from collections.abc import Sequence

from runner.command import show_error
from runner.errors import Exit
from runner.process.output import lasting_output

# What each command is for. The module of this name has its `main`.
COMMANDS = {
    "tune": "run all trials of an experiment; the same command again goes on where it was",
    "train": "run the one trial of an experiment that sweeps nothing",
    "evaluate": "measure a trained trial on all validation patches",
    "translate": "send pictures of any size through a trained generator",
    "export": "write a trained generator as safetensors, ONNX or for pytorch-CycleGAN-and-pix2pix",
    "reproduce": "train a trial again, elsewhere, and compare it to the bit",
    "report": "write the page that compares the trials of experiments",
    "status": "show how far an experiment is, from another shell or machine",
    "data": "make, examine or download a data set",
    "drill": "break small runs in many ways, and say which faults they survived",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command that the first argument names, with the arguments after it; returns its exit code."""
    command, *arguments = [*(sys.argv[1:] if argv is None else argv), ""]
    if command in COMMANDS:
        code: int = importlib.import_module(_module(command)).main(arguments[:-1])
        return code

    with lasting_output():
        if command in ("", "-h", "--help"):
            print(_help())
            return Exit.FINISHED
        if command == "--version":
            print(f"pix2pix-runner {_version()}")
            return Exit.FINISHED

        close = difflib.get_close_matches(command.removeprefix("runner."), COMMANDS, n=1)
        remedy = f"did you mean `{close[0]}`?" if close else f"the commands are {', '.join(COMMANDS)}"
        show_error(f"there is no command {command!r}: {remedy}")
        return Exit.BAD_INPUT


def _help() -> str:
    """The commands, a line each."""
    width = max(map(len, COMMANDS))
    lines = [f"  {name:{width}}  {purpose}" for name, purpose in COMMANDS.items()]
    return "\n".join(
        [
            "usage: pix2pix-runner COMMAND ...    or    python -m runner.COMMAND ...",
            "",
            "Sweeps of pix2pix trainings on Ray that survive anything and end in a comparison.",
            "",
            *lines,
            "",
            "`pix2pix-runner COMMAND --help` shows a command's options and an example; --version shows the version.",
        ]
    )


def _module(command: str) -> str:
    """The module with a command's `main`: some commands are packages."""
    name = f"runner.{command}"
    spec = importlib.util.find_spec(name)
    return f"{name}.__main__" if spec and spec.submodule_search_locations else name


def _version() -> str:
    """The version that is installed."""
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("pix2pix-runner")
    except PackageNotFoundError:
        return "(of a clone that is not installed)"


if __name__ == "__main__":
    sys.exit(main())
