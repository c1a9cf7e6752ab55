"""The reference is complete and true: every public name, every hook with its signature, every command and option."""

import ast
import importlib
import inspect
import re
import sys
import textwrap
from functools import cache
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

import pytest

from guideflow import registry
from guideflow.registry import hooks

ROOT = Path(__file__).parent.parent
API = ROOT / "docs" / "api"
DIRECTIVE = re.compile(r"^::: (\S+)(?:\n    options:\n((?:      .*\n)+))?", re.MULTILINE)
MODULES = ["callbacks", "errors", "evaluation", "images", "losses", "metrics", "provenance", "registry", "solvers"]
MODULES = [f"guideflow.{name}" for name in (*MODULES, "sweep", "testing", "types")]
PACKAGES = ["avatars", "clip", "diffusers", "identity", "measurement", "segmentation", "style", "subject"]
PACKAGES = [f"guideflow_{name}" for name in PACKAGES]
OFFERS = [
    offer for kind in registry.HOOKS for offer in registry.offers(kind) if offer.plugin.distribution == "guideflow"
]


@pytest.fixture(scope="module")
def reference() -> Any:
    sys.path.insert(0, str(ROOT / "tools"))
    try:
        yield importlib.import_module("reference")
    finally:
        sys.path.remove(str(ROOT / "tools"))


@cache
def directives() -> dict[str, str]:
    """What the pages name to be described, with the options they give."""
    return {name: more for page in API.glob("*.md") for name, more in DIRECTIVE.findall(page.read_text())}


@cache
def found(name: str) -> Any:
    return resolve_name(name)


def documented(thing: object, name: str) -> bool:
    """Whether a page describes the thing by itself, or all of its module."""
    for directive, options in directives().items():
        if directive.rpartition(".")[2] == getattr(thing, "__name__", name) and found(directive) is thing:
            return True
        if getattr(thing, "__module__", None) == directive:
            members, filters = re.search(r"members: \[(.*)\]", options), re.search(r'filters: \["(.*)"\]', options)
            if members is None or name in re.findall(r"\w+", members[1]):
                if filters is None or re.search(filters[1], name):
                    return True
    return False


def public(module: str) -> dict[str, Any]:
    """Public names of a module with what they are, modules left out."""
    loaded = importlib.import_module(module)
    names = getattr(loaded, "__all__", None) or [
        name
        for name, thing in vars(loaded).items()
        if not name.startswith("_") and (getattr(thing, "__module__", None) or "").startswith(module)
    ]
    return {name: thing for name in names if not inspect.ismodule(thing := getattr(loaded, name))}


@pytest.mark.parametrize("module", ["guideflow", *MODULES, *PACKAGES])
def test_every_public_name_is_in_the_reference(module: str) -> None:
    things = {
        name: thing for name, thing in public(module).items() if inspect.isroutine(thing) or inspect.isclass(thing)
    }
    hooks = {"guideflow_samplers", "guideflow_losses", "guideflow_metrics"}  # what a plugin implements, nobody calls
    assert not [name for name, thing in things.items() if name not in hooks and not documented(thing, name)], module


@pytest.mark.parametrize("name", sorted(directives()))
def test_what_a_page_describes_is_there_and_says_what_it_is(name: str) -> None:
    assert inspect.getdoc(found(name)), f"{name} has no docstring"


@pytest.mark.parametrize("offer", OFFERS, ids=lambda offer: f"{offer.kind} {offer.name}")
def test_what_entry_points_offer_is_in_the_reference(offer: Any, reference: Any) -> None:
    options = (API / "options.md").read_text()
    kinds = registry.HOOKS[offer.kind].removeprefix("guideflow_")
    assert f"<!-- generated: {kinds} -->" in options
    section = generated(reference, kinds)[offer.name]
    assert section[1:].startswith(f"{offer.entry.summary[1:]}.")
    table = dict(re.findall(r"^\| `(\w+)` \| .* \| ([^|]*) \|$", section, re.MULTILINE))
    rest = dict(re.findall(r"`(\w+)(?:=([^`]*))?`", section.partition("most take](#sampler): ")[2]))
    common = generated(reference, kinds).get("", "")
    parameters = inspect.signature(offer.entry.resolve()).parameters
    assert parameters.keys() == table.keys() | rest.keys()
    for option in registry.options(offer.entry.resolve()) or ():
        assert option.about, f"{offer.name} does not say what {option.name} means"
        if option.name in rest:
            assert rest[option.name] == (option.default or "") and f"| `{option.name}` |" in common
        else:
            assert " ".join(re.findall(r"\w+", option.about)) in " ".join(re.findall(r"\w+", section))


@cache
def generated(reference: Any, kinds: str) -> dict[str, str]:
    """The sections of a kind by name; "" for what most take."""
    parts = re.split(r"^### (?:`(.*)`|What most.*) \{ #.* \}\n", reference.plugins(kinds), flags=re.MULTILINE)
    return {name or "": section.strip() for name, section in zip(parts[1::2], parts[2::2], strict=True)}


def test_what_is_not_written_by_hand_is_markup(reference: Any) -> None:
    table = reference._table(("a", "b"), [("x < y | z", "`x < y | z`")])
    assert table[-1] == "| x &lt; y &#124; z | `x < y | z` |"


@pytest.mark.parametrize("name", sorted(registry.HOOKS.values()))
def test_every_hook_of_a_plugin_is_a_heading_with_its_signature(name: str) -> None:
    assert inspect.signature(getattr(hooks, name)).return_annotation == "Factories"
    assert f"\n### `{name}() -> {hooks.Factories}`\n" in (API / "plugins.md").read_text()


HOOKS = (API / "hooks.md").read_text()
CLASSES = re.findall(r"^### `([\w.]+)`$", HOOKS, re.MULTILINE)
OURS = {  # what a class does itself, and nobody is to write again
    "guideflow.Loss": {"named", "scheduled"},
    "guideflow.losses.detections.DetectionLoss": {"__call__", "missing", "forget", "describe"},
    "guideflow.AffineSampler": {"num_steps", "stochastic", "end_levels", "step", "prepare"},
    "guideflow.ControlSolver": {"init", "step"},
    "guideflow.Wrapper": {"remember", "move"},
    "guideflow.solvers.LookaheadSolver": {"init", "step", "outlook"},
    "guideflow.metrics.base.LossMetric": {"__call__"},
}


def methods(name: str) -> dict[str, str]:
    """Every public method of a class, and what may be given to its making where it has none, as one writes them."""
    kind = found(name)
    written: Any = ast.parse(textwrap.dedent(inspect.getsource(kind))).body[0]
    found_ = {}
    for node in written.body:
        if isinstance(node, ast.FunctionDef) and (node.name == "__call__" or not node.name.startswith("_")):
            asked: Any = inspect.getattr_static(kind, node.name)
            asked = asked.fget if isinstance(asked, property) else asked
            assert [*inspect.signature(asked).parameters] == [
                one.arg for one in (*node.args.args, *node.args.kwonlyargs)
            ]
            taken = re.sub(r"(?<=[\w\]])=(?=\w)", " = ", ast.unparse(node.args)).removeprefix("self").removeprefix(", ")
            found_[node.name] = f"{node.name}({taken}) -> {ast.unparse(node.returns)}"  # type: ignore[arg-type]
    if not found_:
        found_ = {node.target.id: ast.unparse(node) for node in written.body if isinstance(node, ast.AnnAssign)}
    return found_


def test_every_class_that_others_derive_from_is_among_the_hooks() -> None:
    derived = {found(name) for name in CLASSES}
    assert len(derived) == len(CLASSES) > 10
    for module in ("guideflow", *MODULES, *PACKAGES):
        for name, thing in public(module).items():
            if inspect.isclass(thing) and getattr(thing, "__abstractmethods__", None):
                assert thing in derived, f"{module}.{name}"


@pytest.mark.parametrize("name", CLASSES)
def test_every_method_that_others_may_write_is_listed_with_its_signature(name: str) -> None:
    section = HOOKS.partition(f"### `{name}`\n")[2].partition("\n#")[0]
    listed = re.findall(r"^\* `(\w+)([^`]*)`: (required\. )?", section, re.MULTILINE)
    wanted = {method: typed for method, typed in methods(name).items() if method not in OURS.get(name, set())}
    assert {method: method + rest for method, rest, _ in listed} == wanted
    abstract = getattr(found(name), "__abstractmethods__", frozenset()) & wanted.keys()
    assert {method for method, _, required in listed if required} == abstract or name.startswith("guideflow.callbacks")
    for method in wanted:
        if isinstance(inspect.getattr_static(found(name), method, None), property):
            assert re.search(rf"`{method}\(\) -> .*a property", section)


def test_every_command_has_a_section_with_the_table_of_typer(reference: Any) -> None:
    text = (API / "cli.md").read_text()
    for name, command in reference.commands().items():
        section = text.partition(f"\n## guideflow {name}\n")[2].partition("\n## ")[0]
        assert f"\n<!-- generated: command {name} -->\n" in section, name
        table = reference.command(name)
        for parameter in command.params:
            typed = [*parameter.opts, *parameter.secondary_opts] if parameter.opts[0].startswith("-") else []
            for option in typed:
                assert re.search(rf"^\| `.*{option}\b.*` \|", table, re.MULTILINE) or option == "--help"
            assert (parameter.help or "").partition("`")[0].replace("<", "&lt;") in table
    assert set(re.findall(r"generated: command ([\w-]+)", text)) == reference.commands().keys()
    assert "| `--seed N or N:N` | 0 | A number, or a range" in reference.command("run")
    assert "| `NAME` | required |" in reference.command("info")


def test_marks_on_a_page_are_filled_in(reference: Any) -> None:
    page = reference.on_page_markdown((API / "cli.md").read_text())
    assert "generated:" not in page and page.count("| option | default | meaning |") == len(reference.commands())
