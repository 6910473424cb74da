"""YAML files of settings, studies and templates, read strictly: of a name that stands twice, a value would be lost, and
010 or 1:30 would be another number than it seems."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from vpdlab.errors import FAULTS, UserError, in_one_line, shown

ODD = re.compile(r"[-+]?(0[0-7_]+|[0-9_]+(:[0-9]+)+(\.[0-9_]*)?)")
"""Numbers that YAML 1.1 reads in base 8 or base 60."""


def read_yaml(path: Path) -> Any:
    """The value in a YAML file, None for an empty one.

    Raises:
        UserError: it cannot be read, is no YAML, a mapping has a name twice, or a number is written in base 8 or 60;
            names the file, and the line.
    """
    import yaml

    try:
        return yaml.load(path.read_text(encoding="utf-8-sig"), Loader=_loader(path))
    except UserError:
        raise
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or error}") from error
    except (yaml.YAMLError, *FAULTS) as error:
        raise UserError(f"{path}: not a YAML file: {in_one_line(error)}") from error


def _loader(path: Path) -> Any:
    """PyYAML's safe loader, which takes the last of several values and old notations of numbers, made to refuse them,
    and to take names as they are written. What a merge (<<) brings may be replaced: that is its purpose."""
    import yaml

    class Strict(yaml.SafeLoader):
        def construct_scalar(self, node: Any) -> Any:
            number = node.tag in ("tag:yaml.org,2002:int", "tag:yaml.org,2002:float")
            if number and ODD.fullmatch(node.value):
                raise UserError(
                    f"{path} line {node.start_mark.line + 1}: YAML reads {node.value} as a number in base"
                    f" {60 if ':' in node.value else 8}: write it in base 10, or in quotes if it is text"
                )
            return super().construct_scalar(node)

        def construct_mapping(self, node: Any, deep: bool = False) -> Any:
            seen: dict[Any, int] = {}
            for key, _ in node.value if isinstance(node, yaml.MappingNode) else ():
                if not isinstance(key, yaml.ScalarNode):
                    continue
                if key.tag != "tag:yaml.org,2002:merge":
                    key.tag = self.DEFAULT_SCALAR_TAG  # a condition called on is "on", not True
                name, line = (key.tag, key.value), key.start_mark.line + 1
                if seen.setdefault(name, line) != line:
                    raise UserError(
                        f"{path} line {line}: {shown(key.value)} stands in line {seen[name]} already: keep one of them"
                    )
            return super().construct_mapping(node, deep=deep)

    return Strict
