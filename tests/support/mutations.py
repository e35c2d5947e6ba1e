"""Experiment files as people break them, and what is wrong with the answer to one.

A mutation says what the file means now, or that it must be refused. `shortcomings` runs the command on it, and lists
what the answer lacks: a refusal has exit code 2, the file, the line, the field or its value, the rule, the nearest name
where there is one, and at most 25 lines, and leaves nothing behind.

    python -m tests.support.mutations [NUMBER of each file] [SEED]
"""

import codecs
import contextlib
import copy
import io
import random
import re
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import yaml

import runner.tune
from runner.config.loading import load_experiment
from runner.errors import ConfigError

EXPERIMENTS = Path(__file__).parents[2] / "experiments"
MAX_LINES, MAX_LINE_LENGTH = 25, 1000
AS_YAML = "as YAML"  # what the file means, if it is accepted: what a YAML library reads in it


class Mutation(NamedTuple):
    """A broken or changed experiment file.

    Attributes:
        kind: what was done to it.
        meaning: the fields that it holds now; None where it must be refused; AS_YAML where it may be either.
        line: the line that a refusal must name, None where that is not known.
        named: texts of which a refusal must hold each: the field, the value, the nearest name.
    """

    kind: str
    content: bytes
    meaning: Mapping[str, Any] | str | None
    line: int | None = None
    named: tuple[str, ...] = ()


class Leaf(NamedTuple):
    """A field of a file with the places of its name and its value in the text."""

    path: tuple[str, ...]
    key: yaml.Node
    value: yaml.Node

    @property
    def line(self) -> int:
        """The line that its name is on, from 1."""
        return self.key.start_mark.line + 1

    @property
    def dotted(self) -> str:
        """Its name with those of the sections that it is in."""
        return ".".join(self.path)


def mutations(path: Path, seed: int = 0) -> Iterator[Mutation]:
    """Mutations of a file without end; each time in another order for another seed."""
    text = path.read_text(encoding="utf-8")
    chance = random.Random(f"{seed} {path.stem}")
    file = File(text)
    systematic = list(file.systematic(chance))
    chance.shuffle(systematic)
    yield from systematic
    while True:
        yield from file.accidents(chance)


# What a person may write for a value, under the kind of field: what must be refused; what is accepted, and its meaning.
_NO_NUMBERS = (
    "ten",
    "[3]",
    "{a: 1}",
    "true",
    "yes",
    "010",
    "1:30",
    "0x10",
    "0b11",
    "1_0",
    "2024-01-15",
    ".inf",
    ".nan",
    "nan",
    "inf",
    "'4'",
    '"4"',
    "5%",
    "4s",
    "30m",
    "4 epochs",
    "4.0.0",
    "1.5e",
    "--4",
    "４",
    "4٫5",
    "1 000",
    "~x",
    "four",
)
REFUSED: Mapping[str, tuple[str, ...]] = {
    "whole": (*_NO_NUMBERS, "2.5", "4.0", "1e3", "-1", "-0.5", "1e-4", "null", "~", ""),
    "number": (*_NO_NUMBERS, "-1", "-0.5", "1e999", "1e-999", "0100", "00.5", "null", "~", ""),
    "name": (
        "a/b",
        "../up",
        ".hidden",
        "a b",
        "näme",
        "x" * 101,
        "[a]",
        "{a: b}",
        "null",
        "''",
        "patches",
        "PATCHES",
        "“quoted”",
        "a\\b",
        "-a",
        "a?",
    ),
    "source": (
        "nowhere/at/all",
        "[a]",
        "{a: b}",
        "null",
        "''",
        "Synthetic",
        "synthetic/",
        "/dev/null",
        "~nobody-there/maps",
    ),
    "patching": ("tile", "resized", "Tiles", "3", "null", "[tiles]", "true"),
    "list": (
        "3",
        "ten",
        "[]",
        "{}",
        "null",
        "''",
        "[[1]]",
        "[ten]",
        "[-1]",
        "[null]",
        "['4']",
        "[1, 1]",
        "[010]",
        "[1:30]",
        "{a: 1}",
        "{uniform: [1, 2]}",
        "[4s]",
    ),
    "range": (
        "3",
        "{}",
        "[]",
        "null",
        "{log_uniform: [10]}",
        "{log_uniform: [10, 1]}",
        "{log_uniform: [0, 1]}",
        "{log_uniform: [1, ten]}",
        "{log_uniform: 3}",
        "{loguniform: [1, 2]}",
        "{log_uniform: [1, 2], uniform: [1, 2]}",
        "{uniform: [-1, 1]}",
        "{log_uniform: ['1', 2]}",
        "{uniform: [0x1, 0x2]}",
    ),
    "section": ("3", "text", "[a]", "true", "''", "[]", "- epochs"),
}
ACCEPTED: Mapping[str, Mapping[str, Any]] = {
    "whole": {"+4": 4, "1_000": 1000},
    "number": {"1e-1": 0.1, ".5": 0.5, "5.e-1": 0.5, "1.0E+0": 1.0, "1": 1, "+0.25": 0.25},
    "name": {
        "2024_01_15": "2024_01_15",
        "2024-01-15": "2024-01-15",
        "010": "010",
        "yes": "yes",
        "true": "true",
        "1e-4": "1e-4",
        "0x10": "0x10",
        "20240115": "20240115",
        "'a'": "a",
        "1_000": "1_000",
        "off": "off",
    },
    "source": {"'synthetic'": "synthetic", '"synthetic"': "synthetic"},
    "patching": {"'tiles'": "tiles"},
    "list": {},
    "range": {},
    "section": {"": {}, "null": {}, "~": {}, "{}": {}},
}
_LOOKALIKES = {"a": "а", "e": "е", "o": "о", "c": "с", "p": "р", "i": "і", "s": "ѕ", "_": "＿"}


class File:
    """A shipped file, and the ways to break it."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.values: dict[str, Any] = yaml.safe_load(text)
        self.fields = list(_fields(yaml.compose(text), ()))

    def systematic(self, chance: random.Random) -> Iterator[Mutation]:
        """What people do to a certain field or to the whole file."""
        for field in self.fields:
            yield from self._wrong_values(field)
            yield from self._wrong_names(field, chance)
            yield from self._wrong_places(field)
        yield from self._whole_files()

    def accidents(self, chance: random.Random) -> Iterator[Mutation]:
        """A slip of the finger anywhere: a character more, less or another, a line twice, gone or moved."""
        position, text = chance.randrange(len(self.text)), self.text
        character = chance.choice("  \t\n:,#{}[]'\"-&*!|>%@`?=~.0aZ_\\ä\u00a0\u200b\x07")
        yield self._accident("a character more", text[:position] + character + text[position:])
        yield self._accident("a character less", text[:position] + text[position + 1 :])
        yield self._accident("another character", text[:position] + character + text[position + 1 :])

        lines = text.splitlines(keepends=True)
        number, other = chance.randrange(len(lines)), chance.randrange(len(lines))
        without = lines[:number] + lines[number + 1 :]
        yield self._accident("a line less", "".join(without))
        yield self._accident("a line elsewhere", "".join([*without[:other], lines[number], *without[other:]]))
        spaces = " " * chance.choice((1, 2, 3, 4))
        deeper = [spaces + lines[number]] if chance.random() < 0.5 else [lines[number].removeprefix(spaces)]
        yield self._accident("another indentation", "".join(lines[:number] + deeper + lines[number + 1 :]))
        end = chance.randrange(len(text))
        yield self._accident("broken off", text[:end])

    def _accident(self, kind: str, text: str) -> Mutation:
        return Mutation(kind, text.encode(), AS_YAML)

    def _wrong_values(self, field: Leaf) -> Iterator[Mutation]:
        kind = _kind_of(field, self.values)
        if kind is None:
            return
        for written in REFUSED[kind]:
            # In braces a comma ends the value, and a value that begins with a dash is a list only on its own line.
            named = () if kind == "section" and written == "- epochs" else (field.path[-1],)
            # A range alone is right: what is missing is `samples`.
            line = None if kind == "list" and "uniform" in written else field.line
            yield Mutation(f"value of a {kind}: {written}", self._put(field, written), None, line, named)
        for written, value in ACCEPTED[kind].items():
            # These have few values, or an upper limit.
            if field.path[-1] in ("learning_rate", "patch_size", "receptive_field"):
                continue
            yield Mutation(f"value of a {kind}: {written}", self._put(field, written), self._with(field.path, value))

    def _wrong_names(self, field: Leaf, chance: random.Random) -> Iterator[Mutation]:
        name = field.path[-1]
        letter = chance.randrange(len(name))
        wrong = {
            "a letter less": name[:letter] + name[letter + 1 :],
            "a letter twice": name[:letter] + name[letter] + name[letter:],
            "letters exchanged": name[:letter] + name[letter : letter + 2][::-1] + name[letter + 2 :],
            "another letter": name[:letter] + "x" + name[letter + 1 :],
            "capital": name.capitalize(),
            "capitals": name.upper(),
            "dashes": name.replace("_", "-"),
            "no dashes": name.replace("_", ""),
            "spaces": name.replace("_", " "),
            "camel case": "".join(part.capitalize() for part in name.split("_")),
            "plural": name.removesuffix("s") if name.endswith("s") else f"{name}s",
            "zero width": f"{name}\u200b",
            "no-break space": f"\u00a0{name}",
        }
        for kind, other in wrong.items():
            if other and other != name and other not in ("seeds", "seed"):
                named = self._named(field, f"`{'.'.join((*field.path[:-1], other))}`")
                yield Mutation(f"name: {kind}", self._put_name(field, other), None, field.line, named)
        for position, letter_of_name in enumerate(name):
            if letter_of_name in _LOOKALIKES:
                other = _LOOKALIKES[letter_of_name]
                wrong_name = name[:position] + other + name[position + 1 :]
                named = self._named(field, f"U+{ord(other):04X}")
                yield Mutation(
                    "name: a letter that looks alike", self._put_name(field, wrong_name), None, field.line, named
                )
        yield Mutation("name: in quotes", self._put_name(field, f'"{name}"'), self.values)
        yield Mutation("name: a number", self._put_name(field, "7"), None, field.line, ("7",))
        yield Mutation("name: a list", self._put_name(field, "? [a]\n:"), None)

    def _named(self, field: Leaf, wrong: str) -> tuple[str, ...]:
        """What a refusal of a wrong name must hold: that name, and the right one."""
        is_range = field.path[0] == "sweep" and len(field.path) == 3 and field.path[1] != "halving"
        return (field.path[1], "{log_uniform: [a, b]}") if is_range else (wrong, f"`{field.path[-1]}`")

    def _wrong_places(self, field: Leaf) -> Iterator[Mutation]:
        """A field twice, elsewhere, or with something else for its colon."""
        name, end = field.path[-1], field.key.end_mark.index
        value = self.text[field.value.start_mark.index : field.value.end_mark.index]
        if "\n" in value:
            return
        colon = self.text.index(":", end)
        for kind, instead in {
            "no colon": " ",
            "equals": " =",
            "no space": ":",
            "a wide colon": "：",
            "two colons": "::",
        }.items():
            broken = self.text[:colon] + instead + self.text[colon + 1 :].lstrip(" ")
            yield Mutation(f"colon: {kind}", broken.encode(), None, None, ())
        yield Mutation(
            "colon: a tab behind it",
            (self.text[: colon + 1] + "\t" + self.text[colon + 1 :].lstrip(" ")).encode(),
            AS_YAML,
        )

        if len(field.path) == 1 and name != "name":
            return
        line = self.text.split("\n")[field.line - 1]
        own_line = line.strip().startswith(f"{name}:")
        copied = f"{name}: {value}"
        if own_line:
            twice = self._with_line(field.line, line + "\n" + line[: len(line) - len(line.lstrip())] + copied)
            yield Mutation("field twice", twice, None, field.line + 1, (f"`{name}`", "twice"))
        else:
            at = field.key.start_mark.index
            yield Mutation(
                "field twice",
                (self.text[:at] + f"{copied}, " + self.text[at:]).encode(),
                None,
                field.line,
                (f"`{name}`", "twice"),
            )
        if len(field.path) > 1 and field.path[0] != "sweep":
            last = len(self.text.rstrip("\n").split("\n")) + 1
            lost = self.text.rstrip("\n") + f"\n{copied}\n"
            yield Mutation("field in no section", lost.encode(), None, last, (f"`{name}`", f"`{field.dotted}`"))
            dotted = self.text.rstrip("\n") + f"\n{field.dotted}: {value}\n"
            yield Mutation("dotted field", dotted.encode(), None, last, (f"`{field.dotted}`", f"`{name}:`"))

    def _whole_files(self) -> Iterator[Mutation]:
        text, same = self.text, self.values
        crlf = text.replace("\n", "\r\n")
        yield Mutation("CRLF", crlf.encode(), same)
        yield Mutation("CR", text.replace("\n", "\r").encode(), same)
        yield Mutation("BOM", codecs.BOM_UTF8 + text.encode(), same)
        yield Mutation("UTF-16", text.encode("utf-16"), same)
        yield Mutation("UTF-16, CRLF, big end", codecs.BOM_UTF16_BE + crlf.encode("utf-16-be"), same)
        yield Mutation("UTF-16 without BOM", text.encode("utf-16-le"), None)
        yield Mutation("UTF-32", text.encode("utf-32"), None)
        yield Mutation("Latin-1", ("# für den Anfang\n" + text).encode("latin-1"), None, 1)
        yield Mutation("NUL", text.encode() + b"\0", None)
        yield Mutation("zip", b"PK\x03\x04" + bytes(range(256)), None)
        yield Mutation("empty", b"", None)
        yield Mutation("only comments", b"# nothing\n", None)
        yield Mutation("a text", b"hello", None)
        yield Mutation("a list", b"- name: a\n", None)
        yield Mutation("no end of line", text.rstrip("\n").encode(), same)
        yield Mutation("begin of a document", b"---\n" + text.encode(), same)
        yield Mutation("end of a document", text.encode() + b"...\n", same)
        yield Mutation("two documents", text.encode() + b"---\n" + text.encode(), None)
        yield Mutation("twice", text.encode() * 2, None, None, ("twice",))
        yield Mutation("JSON", yaml.safe_dump(same, default_flow_style=True, width=10_000).encode(), same)
        yield Mutation("blocks", yaml.safe_dump(same).encode(), same)
        yield Mutation("comment behind", text.encode() + b"# done\n", same)

        for old in ("synthetic  ", "synthetic}"):
            if old in text:
                eaten = text.replace(old, "synthetic#" + old[9:], 1)
                yield Mutation("a comment eaten", eaten.encode(), None)
        yield Mutation("a comment without #", text.replace("# ", "", 1).encode(), None)

        # Sections gone, commented out or empty.
        for section in [key for key, value in same.items() if isinstance(value, dict)]:
            (field,) = (found for found in self.fields if found.path == (section,))
            start = field.key.start_mark.index
            # PyYAML's end of a block is where the next one begins.
            end = start + len(text[start : field.value.end_mark.index].rstrip())
            without = {key: value for key, value in same.items() if key != section}
            yield Mutation("a section gone", (text[:start] + text[end:].lstrip(" ")).encode(), without)
            commented = "\n".join(f"# {line}" for line in text[start:end].split("\n"))
            yield Mutation("a section commented out", (text[:start] + commented + text[end:]).encode(), without)
        yield Mutation("no name", text.replace("name:", "# name:").encode(), None, None, ("`name`",))

        # Anchors and other parts of YAML.
        more = text.rstrip("\n").encode() + b"\n"
        merged = {**copy.deepcopy(same), "tracking": {"wandb": "off", "artifacts": True}}
        yield Mutation("merge", more + b"tracking:\n  <<: {wandb: off, artifacts: false}\n  artifacts: true\n", merged)
        yield Mutation("merges", more + b"tracking:\n  <<: [{wandb: off}, {wandb: online, artifacts: true}]\n", merged)
        yield Mutation("anchor and alias", more + b"tracking: {wandb: &w off, artifacts: &a true}\n", merged)
        yield Mutation("merge of nothing", more + b"tracking:\n  <<: *gone\n", None)
        yield Mutation("merge of a text", more + b"tracking:\n  <<: off\n", None)
        yield Mutation("recursion", more + b"tracking: &t {wandb: *t}\n", None)
        yield Mutation("recursive list", more + b"tracking: &t [*t]\n", None)
        laughs = "".join(f"l{i}: &l{i} [{', '.join([f'*l{i - 1}'] * 9)}]\n" for i in range(1, 10))
        yield Mutation("billion laughs", more + b"l0: &l0 [lol]\n" + laughs.encode(), None)
        yield Mutation("quadratic", more + b"a: &a " + b"x" * 10_000 + b"\nb: [" + b"*a, " * 10_000 + b"]\n", None)
        yield Mutation("deep", more + b"tracking: " + b"[" * 5000 + b"]" * 5000, None)
        yield Mutation("deep braces", more + b"tracking: " + b"{a: " * 300 + b"}" * 300, None)
        yield Mutation("large", more + b"# padding\n" * 1_000_000, None)
        yield Mutation("many values", more + b"tracking: [" + b"1, " * 100_000 + b"]\n", None)
        yield Mutation("many fields", more + b"".join(b"field_%d: 1\n" % i for i in range(3000)), None)
        yield Mutation("a long line", more + b"tracking: {wandb: " + b"off" * 30_000 + b"}\n", None)
        yield Mutation("a long name", more + b"t" * 900 + b": 3\n", None)
        yield Mutation("Python object", more + b"tracking: !!python/object/apply:os.system ['true']\n", None)
        yield Mutation("Python name", more + b"tracking: !!python/name:os.system\n", None)
        yield Mutation("a tag", more + b"tracking: !vault off\n", None)
        yield Mutation("binary", more + b"tracking: !!binary aGVsbG8=\n", None)
        yield Mutation("set", more + b"tracking: !!set {a, b}\n", None)
        yield Mutation("template", more + b"tracking: {{ wandb }}\n", None)
        yield Mutation("shell", more + b"tracking: {wandb: $WANDB}\n", None, None, ("wandb", "$WANDB"))
        yield Mutation("tabs", re.sub(r"^  ", "\t", more.decode(), flags=re.MULTILINE).encode(), AS_YAML)
        yield Mutation("unclosed brace", more + b"tracking: {wandb: off\n", None)
        yield Mutation("unclosed list", more + b"tracking: [off\n", None)
        yield Mutation("unclosed quote", more + b"tracking: {wandb: 'off}\n", None)
        yield Mutation("a brace too many", more + b"tracking: {wandb: off}}\n", None)
        yield Mutation("parentheses", more + b"tracking: (wandb: off)\n", None)
        yield Mutation("semicolons", more + b"tracking: {wandb: off; artifacts: true}\n", None)
        yield Mutation("conflict of git", b"<<<<<<< HEAD\n" + more + b"=======\n", None)

        # Fields that do not go together, and values that this machine or the data can't have.
        of_tail = {
            "decay alone": (b"training: {decay_start_epoch: 5}\n", "training.decay_start_epoch"),
            "workers": (b"resources: {workers: 3}\n", "3 workers"),
            "half a GPU": (b"resources: {gpus_per_worker: 1.5}\n", "resources.gpus_per_worker"),
            "too many cores": (b"resources: {cpus_per_worker: 100000}\n", "cpus_per_worker"),
            "no weights": (b"model: {initial_weights: nowhere.pth}\n", "model.initial_weights"),
        }
        for kind, (tail, named) in of_tail.items():
            if tail.split(b":")[0].decode() not in same and not (kind == "workers" and "sweep" in same):
                yield Mutation(kind, more + tail, None, None, (named,))

    def _put(self, field: Leaf, written: str) -> bytes:
        """The file with another value for a field."""
        start, end = field.value.start_mark.index, field.value.end_mark.index
        tail = self.text[end:]
        if "\n" in self.text[start:end] and isinstance(field.value, yaml.MappingNode) and not field.value.flow_style:
            # A section in lines of its own: its value goes behind the colon.
            start, tail = self.text.index(":", field.key.end_mark.index) + 1, "\n" + tail
            written = f" {written}"
        return (self.text[:start] + written + tail).encode()

    def _put_name(self, field: Leaf, name: str) -> bytes:
        start, end = field.key.start_mark.index, field.key.end_mark.index
        return (self.text[:start] + name + self.text[end:]).encode()

    def _with_line(self, number: int, line: str) -> bytes:
        lines = self.text.split("\n")
        lines[number - 1] = line
        return "\n".join(lines).encode()

    def _with(self, path: tuple[str, ...], value: Any) -> dict[str, Any]:
        values = copy.deepcopy(self.values)
        section = values
        for name in path[:-1]:
            section = section[name]
        section[path[-1]] = value
        return values


def _fields(node: yaml.Node, path: tuple[str, ...]) -> Iterator[Leaf]:
    for key, value in node.value:
        yield Leaf((*path, key.value), key, value)
        if isinstance(value, yaml.MappingNode):
            yield from _fields(value, (*path, key.value))


def _kind_of(field: Leaf, values: Mapping[str, Any]) -> str | None:
    value: Any = values
    for name in field.path:
        value = value[name]
    if field.dotted in ("name", "data.source", "data.patching"):
        return field.path[-1]
    if field.path[0] == "sweep" and len(field.path) > 1:
        return {list: "list", dict: "range"}.get(type(value), "whole") if len(field.path) == 2 else None
    if isinstance(value, dict):
        return "section" if field.path[0] != "sweep" else None
    return "number" if field.path[-1] in ("lambda_l1", "learning_rate") else "whole"


def shortcomings(mutation: Mutation, folder: Path) -> list[str]:
    """What is wrong with the answer to a mutation; empty where nothing is.

    Args:
        folder: an empty one, to which the file is written.
    """
    path = folder / "experiment.yaml"
    path.write_bytes(mutation.content)
    try:
        experiment = load_experiment(path)
    except ConfigError:
        experiment = None
    except Exception as error:
        return [f"unexpected {type(error).__name__}"]

    # Accepted: with the right meaning?
    if experiment is not None:
        if mutation.meaning is not None:
            return [] if experiment == _meaning_of(mutation) else ["accepted with another meaning"]
        # Data and machine are looked at by the command alone.
    elif isinstance(mutation.meaning, Mapping):
        return ["refused, though its meaning is clear"]

    said, code = _run(path, folder / "results")
    if code == 0:
        return ["accepted"]
    lines = said.splitlines()
    line = re.search(rf"{re.escape(str(path))}, line (\d+)|line (\d+)", said)
    wrong = {
        f"exit code {code}": code != 2,
        "a traceback": "Traceback" in said,
        "too many lines": len(lines) > MAX_LINES,
        "too long a line": any(len(line) > MAX_LINE_LENGTH for line in lines),
        "no file": str(path) not in said,
        "no line": line is None and mutation.kind not in _WITHOUT_LINE and "`name` is missing" not in said,
        "another line": line is not None and mutation.line is not None and f"line {mutation.line}" not in said,
        "something written": sorted(found.name for found in folder.iterdir()) != ["experiment.yaml"],
    }
    if line is None or "not valid YAML" not in said:  # where the text is no YAML, the line itself is shown instead
        wrong |= {f"no {text}": text not in said for text in mutation.named}
    return [what for what, is_wrong in wrong.items() if is_wrong]


# What is wrong with the whole file, or with what is not in it.
_WITHOUT_LINE = (
    "large",
    "empty",
    "only comments",
    "a text",
    "a list",
    "no name",
    "UTF-32",
    "too many cores",
    "a line less",
    "broken off",
)


def _meaning_of(mutation: Mutation) -> Any:
    """The experiment that an accepted file must be; None where a YAML library reads no experiment in it."""
    values = mutation.meaning if isinstance(mutation.meaning, Mapping) else yaml.safe_load(mutation.content)
    try:
        return load_experiment(values)
    except ConfigError:
        return None


def _run(path: Path, storage: Path) -> tuple[str, int]:
    """What a dry run says on stderr, and its exit code."""
    said = io.StringIO()
    with contextlib.redirect_stderr(said), contextlib.redirect_stdout(io.StringIO()):
        code = runner.tune.main([str(path), "--dry-run", "--storage", str(storage)])
    return said.getvalue(), code


def first(path: Path, number: int, seed: int = 0) -> list[Mutation]:
    """So many different mutations of a file."""
    found: dict[bytes, Mutation] = {}
    original = path.read_bytes()
    for mutation in mutations(path, seed):
        if mutation.content != original:
            found.setdefault(mutation.content, mutation)
        if len(found) == number:
            break
    return list(found.values())


def main(number: int, seed: int) -> int:
    """Tries mutations of all files; prints what falls short, and how many do."""
    tried = 0
    counts: Counter[str] = Counter()
    for path in sorted(EXPERIMENTS.glob("*.yaml")):
        short = 0
        for mutation in first(path, number, seed):
            with tempfile.TemporaryDirectory() as folder:
                wrong = shortcomings(mutation, Path(folder))
            tried += 1
            if wrong:
                short += 1
                counts.update(wrong)
                print(f"  {path.stem}: {mutation.kind}: {'; '.join(wrong)}")
        print(f"{path.stem}: {short} of {number} fall short", flush=True)
        counts["all"] += short
    for what, count in counts.most_common(20):
        print(f"{count:6d} {what}")
    print(f"{counts['all']} of {tried} fall short")
    return 0


if __name__ == "__main__":
    sys.exit(main(*(int(argument) for argument in [*sys.argv[1:], *("60", "0")[len(sys.argv) - 1 :]])))
