"""The YAML of experiment files and of `--set KEY=VALUE`, before any field of it is checked.

The type of a field decides how its value is read. Where the field is a text, whatever is written is that text:
`name: 2024_01_15`, `data.source=@maps`. Elsewhere runner.config.scalars says what is a number.
"""

import codecs
import contextlib
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import yaml
from yaml.reader import ReaderError

from runner.config.messages import describe
from runner.config.scalars import plain_value
from runner.config.schema import TEXT_FIELDS
from runner.errors import ConfigError, StorageError, UserError
from runner.storage.storage import LOOKED_UP, Storage, Unreachable, is_uri

_MAX_BYTES = 500_000  # a sweep of 10,000 values has 200,000
_MAX_VALUES = 50_000
_MAX_DEPTH = 12  # an experiment has 4 levels

# The name of a field in a text: in backquotes whatever it is, or of letters.
_FIELD = re.compile(r"`[^`]+`|[A-Za-z_]\w*(?:\.\w+|\[\d+\])*")


@dataclass
class WrittenExperiment:
    """What an experiment says, not checked yet, and where it says it.

    Attributes:
        origin: how errors name the experiment: by its file.
        places: where each field is written, `FILE, line 3` or `--set KEY=VALUE`, under its dotted name with the indices
            of lists: `sweep.batch_size[2]`.
    """

    origin: str
    values: dict[str, Any]
    places: dict[str, str] = field(default_factory=dict)

    @contextlib.contextmanager
    def errors_name_lines(self) -> Iterator[None]:
        """Around checks of the experiment: errors that begin with a field say where it is written."""
        try:
            yield
        except UserError as error:
            lines = [self._with_place(line) for line in str(error).split("\n")]
            error.args = ("\n".join(lines),)  # the same error, with all else that it carries
            raise

    def _with_place(self, line: str) -> str:
        """The line of an error with the place of the field that it is about, if that is known."""
        text = line.removeprefix(f"{self.origin}: ")
        # The field that the line begins with; in a line about the whole experiment the first one that it names.
        first = _FIELD.match(text)
        named = [first[0]] if first else []
        if text != line:
            named += [found for found in _FIELD.findall(text) if "." in found]
        names = [name.strip("`") for name in named]
        written = [self.places[name] for name in names if name in self.places]
        place = next(filter(None, [*written, *map(self._place_of, names)]), None)
        return f"{place}: {text}" if place else line

    def _place_of(self, name: str) -> str | None:
        """Where a field is written, or the nearest of the fields that it is in."""
        if name.endswith("..."):
            # A long name is shortened in messages.
            return next((place for known, place in self.places.items() if known.startswith(name[:-3])), None)
        while name and name not in self.places:
            name = re.sub(r"(?:^|\.|\[)[^.\[]*$", "", name)
        return self.places[name] if name else None

    def override(self, text: str) -> None:
        """Sets one field from `SECTION.FIELD=VALUE`.

        Raises:
            ConfigError: the text has another form, or what it names has no fields.
        """
        key, equals, value = text.partition("=")
        names = [name.strip() for name in key.split(".")]
        if not equals or not all(names):
            raise ConfigError(f"--set {text}: write it as KEY=VALUE, for example --set training.epochs=2")

        *sections, name = names
        section = self.values
        for depth, part in enumerate(sections):
            inner = section.setdefault(part, {})
            if inner is None:
                # A section that is empty in the file, as in `training:` with nothing after it.
                inner = section[part] = {}
            if not isinstance(inner, dict):
                path = ".".join(sections[: depth + 1])
                raise ConfigError(f"--set {text}: `{path}` is {describe(inner)}, which has no field `{name}`")
            section = inner

        dotted, place = ".".join(names), f"--set {text}"
        # What was written as the old value, or inside of it, is gone.
        within = re.compile(rf"{re.escape(dotted)}(?:[.\[].*)?")
        self.places = {known: at for known, at in self.places.items() if not within.fullmatch(known)}
        for depth in range(1, len(names)):
            self.places.setdefault(".".join(names[:depth]), place)
        section[name] = _parse(value.strip(), lambda mark: place, self.places, dotted)


def read_yaml(path: str) -> WrittenExperiment:
    """The fields of an experiment file, by its path or URI.

    Raises:
        ConfigError: it can't be read, or holds no fields.
        StorageError: the URI is none, or its bucket can't be read.
    """
    try:
        return parse_yaml(_read_object(path) if is_uri(path) else _read_file(path), path)
    except Unreachable as error:
        raise StorageError(f"{path}: it can't be read ({error}). {LOOKED_UP}") from None
    except OSError as error:
        raise ConfigError(
            f"{path}: it can't be read ({error.strerror}). Give the path of an experiment file."
        ) from None


def _read_file(path: str) -> bytes:
    with open(path, "rb") as stream:
        return stream.read(_MAX_BYTES + 1)


def _read_object(uri: str) -> bytes:
    folder, _, name = uri.rstrip("/").rpartition("/")
    return Storage.open(folder).read(name)


def parse_yaml(content: bytes, path: str) -> WrittenExperiment:
    """The fields in the content of an experiment file; raises ConfigError where it holds none.

    Args:
        path: how errors name it.
    """
    text = _decode(content, path)
    written = WrittenExperiment(path, {})
    values = _parse(text, lambda mark: f"{path}, line {mark.line + 1}", written.places, "")
    if not isinstance(values, dict):
        raise ConfigError(f"{path}: it must hold fields such as `name:` and `training:`, but holds {describe(values)}")
    written.values = values
    return written


def _decode(content: bytes, path: str) -> str:
    """A file's text, UTF-8 or, where it begins with that mark, UTF-16."""
    if len(content) > _MAX_BYTES:
        raise ConfigError(
            f"{path}: it has more than {_MAX_BYTES:,} bytes, which no experiment needs. Give the path of an experiment "
            "file."
        )

    is_utf16 = content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    try:
        return content.decode("utf-16" if is_utf16 else "utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise ConfigError(
            f"{path}, line {line}: it is not UTF-8 text. Save the file as UTF-8, or give the path of an experiment "
            "file."
        ) from None


def _parse(text: str, place_of: Callable[[yaml.Mark], str], places: dict[str, str], field: str) -> Any:
    """The value of a field, given as YAML; of the whole experiment where the field is "".

    Args:
        place_of: how errors name a mark of the text.
        places: gets the places of the field and of all in it.
    """
    if field in TEXT_FIELDS:
        places[field] = place_of(yaml.Mark("", 0, 0, 0, None, 0))
        # Only quotes around the whole of it mean something: `--set 'name="a b"'`, and the JSON of the Python interface.
        if not re.fullmatch(r"\"(?:[^\"\\]|\\.)*\"|'(?:[^']|'')*'", text):
            return None if text in ("", "null") else text

    try:
        node = yaml.compose(text, Loader=_Nodes)
        return None if node is None else _Values(place_of, places).read(node, field)
    except yaml.MarkedYAMLError as error:
        raise ConfigError(_explain_syntax(error, text, place_of)) from None
    except ReaderError as error:
        line = text.count("\n", 0, error.position)
        place = place_of(yaml.Mark("", 0, line, 0, None, 0))
        raise ConfigError(
            f"{place}: it is not valid YAML: the character U+{ord(text[error.position]):04X} is not allowed. Give the "
            "path of an experiment file."
        ) from None
    except RecursionError:
        raise ConfigError(f"{place_of(yaml.Mark('', 0, 0, 0, None, 0))}: it is nested too deeply") from None


_PLAIN_WORDS = {
    "flow mapping": "mapping in { }",
    "flow sequence": "list in [ ]",
    "block mapping": "section",
    "block collection": "list",
    "simple key": "field",
    "quoted scalar": "text in quotes",
}


def _explain_syntax(error: yaml.MarkedYAMLError, text: str, place_of: Callable[[yaml.Mark], str]) -> str:
    """Where the text is no YAML, that line itself, what is wrong with it, and what to do."""
    mark, context = error.problem_mark, error.context_mark
    assert mark is not None
    problem = str(error.problem)
    # Of what is not closed PyYAML gives the line where it gave up. The line where that begins says more.
    if context is not None and context.line != mark.line and error.context:
        problem += f" ({' '.join(error.context.split())} of line {context.line + 1})"
    for term, plain in _PLAIN_WORDS.items():
        problem = problem.replace(term, plain)

    # At the end of the text the last line with something in it is shown.
    lines = text.split("\n")
    number = min(mark.line, len(lines) - 1)
    while number and not lines[number].strip():
        number -= 1
    shown = lines[number].rstrip()[:100].replace("\t", "\\t")
    remedy = (
        "Indent with spaces instead of tabs."
        if "'\\t'" in problem
        else "Write `field: value` with a space after the colon, indent with spaces, and put quotes around a text with "
        "special characters."
    )
    place = place_of(yaml.Mark("", 0, number, 0, None, 0))
    return f"{place}: it is not valid YAML: {problem}:\n    {shown}\n{remedy}"


class _Nodes(yaml.SafeLoader):
    """Makes the nodes of a YAML text. What a scalar means is decided later: here each is a text."""

    yaml_implicit_resolvers: dict[str, list[Any]] = {}  # noqa: RUF012 - PyYAML's


class _Values:
    """Makes values of nodes, and notes where they are written."""

    def __init__(self, place_of: Callable[[yaml.Mark], str], places: dict[str, str]) -> None:
        self._place_of, self._places = place_of, places
        self._num_values = 0

    def read(self, node: yaml.Node, field: str, depth: int = 0) -> Any:
        """The value of a node; raises ConfigError for what no experiment file holds.

        Args:
            field: the dotted name that it is the value of.
        """
        self._places.setdefault(field, self._place_of(node.start_mark))
        # An alias costs nothing to write: nine of them, each of a list of the nine before, are a billion values.
        self._num_values += 1
        if self._num_values > _MAX_VALUES or depth > _MAX_DEPTH:
            what = "nested too deeply" if depth > _MAX_DEPTH else f"more than {_MAX_VALUES:,} values"
            raise self._error(node, f"{what}: no experiment needs that; write the values out, without anchors")
        if node.tag not in _TAGS:
            raise self._error(
                node, f"the tag {_shown_tag(node.tag)} has no meaning in an experiment file: leave it out"
            )

        if isinstance(node, yaml.MappingNode):
            return self._fields(node, field, depth)
        if isinstance(node, yaml.SequenceNode):
            return [self.read(item, f"{field}[{index}]", depth + 1) for index, item in enumerate(node.value)]
        assert isinstance(node, yaml.ScalarNode)
        if node.style is not None:
            return node.value  # in quotes, or a block: a text
        if field in TEXT_FIELDS:
            return None if node.value in ("", "null") else node.value
        return plain_value(node.value)

    def _fields(self, node: yaml.MappingNode, field: str, depth: int) -> dict[str, Any]:
        """The fields of a mapping, with those that `<<` merges into it."""
        own: dict[str, tuple[yaml.Node, yaml.Node]] = {}
        merged: list[yaml.Node] = []
        for key, value in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise self._error(key, "the name of a field must be a text")
            if key.value == "<<" and key.style is None:
                merged += value.value if isinstance(value, yaml.SequenceNode) else [value]
                continue
            if key.value in own:
                first = own[key.value][0].start_mark.line + 1
                raise self._error(
                    key, f"the field `{key.value}` is given twice, first in line {first}: keep one of the two"
                )
            own[key.value] = key, value

        # What a field is given itself counts, and of several that are merged the first.
        values: dict[str, Any] = {}
        for other in reversed(merged):
            if not isinstance(other, yaml.MappingNode):
                raise self._error(
                    other, "`<<` merges the fields of another mapping: give it one, for example `<<: *base`"
                )
            values |= self._fields(other, field, depth + 1)
        for name, (key, value) in own.items():
            dotted = f"{field}.{name}" if field else name
            self._places[dotted] = self._place_of(key.start_mark)
            values[name] = self.read(value, dotted, depth + 1)
        return values

    def _error(self, node: yaml.Node, text: str) -> ConfigError:
        return ConfigError(f"{self._place_of(node.start_mark)}: {text}")


_TAGS = tuple(f"tag:yaml.org,2002:{kind}" for kind in ("str", "seq", "map"))


def _shown_tag(tag: str) -> str:
    return tag.replace("tag:yaml.org,2002:", "!!")
