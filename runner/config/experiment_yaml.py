"""The YAML of experiment files and of `--set KEY=VALUE`, before any field of it is checked."""

import re
from pathlib import Path
from typing import Any

import yaml

from runner.config.messages import describe
from runner.errors import ConfigError


def read_yaml(path: Path) -> dict[str, Any]:
    """The fields of an experiment file; raises ConfigError where it can't be read or holds no fields."""
    try:
        values = yaml.load(path.read_text(encoding="utf-8"), Loader=_ExperimentLoader)
    except OSError as error:
        raise ConfigError(
            f"{path}: it can't be read ({error.strerror}). Give the path of an experiment file."
        ) from None
    except UnicodeDecodeError:
        raise ConfigError(f"{path}: it is not UTF-8 text. Give the path of an experiment file.") from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise ConfigError(f"{path}: it is not valid YAML: {_on_one_line(error)}") from None

    if not isinstance(values, dict):
        raise ConfigError(f"{path}: it must hold fields such as `name:` and `training:`, but holds {describe(values)}")
    return values


def apply_override(values: dict[str, Any], override: str) -> None:
    """Sets one field of an experiment's values from `SECTION.FIELD=VALUE`, whose value is YAML.

    Raises:
        ConfigError: the text has another form, or what it names has no fields.
    """
    key, equals, text = override.partition("=")
    if not equals or not all(key.split(".")):
        raise ConfigError(f"--set {override}: write it as KEY=VALUE, for example --set training.epochs=2")
    try:
        value = yaml.load(text, Loader=_ExperimentLoader)
    except (yaml.YAMLError, ValueError) as error:
        raise ConfigError(f"--set {override}: the value is not valid YAML: {_on_one_line(error)}") from None

    *sections, field = key.split(".")
    section = values
    for depth, name in enumerate(sections):
        inner = section.setdefault(name, {})
        if inner is None:
            # A section that is empty in the file, as in `training:` with nothing after it.
            inner = section[name] = {}
        if not isinstance(inner, dict):
            path = ".".join(sections[: depth + 1])
            raise ConfigError(f"--set {override}: `{path}` is {describe(inner)}, which has no field `{field}`")
        section = inner
    section[field] = value


class _ExperimentLoader(yaml.SafeLoader):
    """Safe YAML that refuses a field given twice.

    Only true and false are booleans, so that `wandb: off` is a text; 2e-4 is a number, which YAML 1.1 takes for a text.
    """

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        # PyYAML keeps the last of two equal fields without an error. It counts lines from 0.
        seen = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            line = key_node.start_mark.line + 1
            if not isinstance(key, str):
                raise ValueError(f"line {line}: the field {key!r} must be a text")
            if key in seen:
                raise ValueError(f"line {line}: the field `{key}` is given twice")
            seen.add(key)

        return super().construct_mapping(node, deep=deep)


_BOOLEAN_TAG, _FLOAT_TAG = "tag:yaml.org,2002:bool", "tag:yaml.org,2002:float"
# A copy without yes, no, on and off: the resolvers of SafeLoader itself serve every other YAML file, too.
_ExperimentLoader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != _BOOLEAN_TAG]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_ExperimentLoader.add_implicit_resolver(_BOOLEAN_TAG, re.compile(r"^(?:true|True|false|False)$"), list("tTfF"))
_ExperimentLoader.add_implicit_resolver(
    _FLOAT_TAG,
    re.compile(r"^[-+]?(?:\d+\.?\d*|\.\d+)[eE][-+]?\d+$"),
    list("-+0123456789."),
)


def _on_one_line(error: Exception) -> str:
    return " ".join(str(error).split())
