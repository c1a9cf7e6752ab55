"""YAML and JSON as people mean them, and the line that each field stands in."""

import re
from typing import Any, Final

import yaml

from guideflow.errors import InvalidArgument

Where = tuple[str | int, ...]
_MOST: Final = 1_000_000
"""Values in a spec, each alias counted as what it names."""
_DEEPEST: Final = 100
"""Brackets in brackets."""
_TAGS: Final = {f"tag:yaml.org,2002:{name}" for name in ("null", "bool", "int", "float", "str", "seq", "map", "merge")}
"""What JSON has too: no bytes, sets or dates."""


class _Loader(yaml.SafeLoader):  # type: ignore[misc]
    """YAML 1.2 for plain values: `1e-3` is a number, `no` and `12:30` and dates are text; a key stands once."""

    yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012  (as PyYAML has it)

    def fetch_flow_collection_start(self, TokenClass: Any) -> None:
        """Read a bracket; each of them takes a time that grows with how many are open."""
        if self.flow_level >= _DEEPEST:
            raise yaml.MarkedYAMLError(problem=f"more than {_DEEPEST} brackets are open", problem_mark=self.get_mark())
        super().fetch_flow_collection_start(TokenClass)


_PLAIN = {
    "null": (r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    "bool": (r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    "int": (r"[-+]?[0-9]+", list("-+0123456789")),
    "float": (r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.inf|\.nan", list("-+.0123456789")),
    "merge": ("<<", ["<"]),
}
for _tag, (_pattern, _first) in _PLAIN.items():
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(f"(?:{_pattern})$"), _first)
_Loader.add_constructor("tag:yaml.org,2002:int", lambda loader, node: int(loader.construct_scalar(node)))


class Text:
    """A YAML or JSON text, read: `value`, and errors that name the line of a field.

    Raises:
        InvalidArgument: if it is neither, naming the line.
    """

    def __init__(self, text: str, name: str) -> None:
        self.name, self._seen = name, 0
        try:
            loader = _Loader(
                text.replace("\t", " ") if name.endswith(".json") else text
            )  # YAML does not take them there
            self._root = loader.get_single_node()
            self._refuse_twice(self._root)
            self.value = None if self._root is None else loader.construct_document(self._root)
        except yaml.MarkedYAMLError as error:
            mark = error.problem_mark or error.context_mark
            line = f", line {mark.line + 1}" if mark else ""
            raise InvalidArgument(f"{name}{line}: {error.problem or error.context}.") from error
        except (yaml.YAMLError, RecursionError, ValueError) as error:
            why = " ".join(str(error).split()) or type(error).__name__
            raise InvalidArgument(f"{name} is neither YAML nor JSON: {why}.") from error

    def error(self, where: Where, message: str) -> InvalidArgument:
        """Make the error that says what is wrong with a field, and in which line.

        Steps that the text leaves out, as where one name stands for a list of one, are left out of the field too; the
        line of a field that is not there is that of what lacks it.
        """
        node, line, steps = self._root, 1, list[str]()
        for step in where:
            if isinstance(node, yaml.MappingNode):
                found = next((pair for pair in node.value if pair[0].value == step), None)
                if found is not None:
                    line, node = found[0].start_mark.line + 1, found[1]
                if found is not None or (step == where[-1] and isinstance(step, str)):
                    steps.append(str(step))
            elif isinstance(node, yaml.SequenceNode) and isinstance(step, int) and step < len(node.value):
                node = node.value[step]
                line = node.start_mark.line + 1
                steps.append(str(step + 1))
        return InvalidArgument(f"{self.name}, line {line}, {'.'.join(steps) or 'the whole'}: {message}")

    def _refuse_twice(self, node: Any, above: tuple[int, ...] = ()) -> None:
        self._seen += 1
        if self._seen > _MOST:  # a few aliases of aliases of aliases stand for more than there is memory for
            raise ValueError(f"it stands for more than {_MOST} values")
        if node is not None and node.tag not in _TAGS:
            what = node.tag.replace("tag:yaml.org,2002:", "!!")
            raise yaml.MarkedYAMLError(problem=f"{what} is not read here", problem_mark=node.start_mark)
        if not isinstance(node, yaml.CollectionNode):
            return
        if id(node) in above:
            raise ValueError("an alias stands inside of what it names")
        seen = set[Any]()
        for item in node.value:
            key, inner = item if isinstance(node, yaml.MappingNode) else (None, item)
            if isinstance(key, yaml.CollectionNode):
                raise yaml.MarkedYAMLError(problem="a list or mapping cannot be a name", problem_mark=key.start_mark)
            if key is not None and key.value in seen and key.tag != "tag:yaml.org,2002:merge":
                raise yaml.MarkedYAMLError(problem=f"{key.value!r} stands here twice", problem_mark=key.start_mark)
            if key is not None:
                self._refuse_twice(key, (*above, id(node)))
                seen.add(key.value)
            self._refuse_twice(inner, (*above, id(node)))
