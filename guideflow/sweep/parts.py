"""The parts of a job, samplers, losses and solvers: as combinations of options, as keys, and made from them."""

import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from itertools import product
from typing import Any, Final

from guideflow import registry
from guideflow.errors import InvalidArgument
from guideflow.storage.recipes import digest, texts
from guideflow.sweep.spec import Part, Solve, Sum
from guideflow.types import LossLike

REFERENCE: Final = "{reference}"
"""Stands in the options of a loss for the reference of the job."""


def key(*values: Any) -> str:
    """Return 32 hexadecimal digits that tell plain values apart."""
    text = json.dumps(values, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def combinations(part: Part) -> Iterator[dict[str, Any]]:
    """List the options of a part, for every combination of its grid."""
    for values in product(*part.grid.values()):
        yield {**part.options, **dict(zip(part.grid, values, strict=True))}


def samplers(parts: list[Part]) -> dict[str, dict[str, Any]]:
    """List samplers with their options, each once, by key."""
    return _by_key({"name": part.name, "options": options} for part in parts for options in combinations(part))


def solvers(parts: list[Part]) -> dict[str, dict[str, Any]]:
    """List solvers with all their options, those left to their defaults too, each once, by key."""
    named = ({"name": part.name, "options": options} for part in parts for options in combinations(part))
    return _by_key(registry.config(load_solver(one)) or one for one in named)


def losses(sums: list[Sum], referenced: bool) -> dict[str, list[dict[str, Any]]]:
    """List losses as terms with weights and options, each once, by key; the reference, if any, is not put in yet."""

    def each() -> Iterator[list[dict[str, Any]]]:
        for one in sums:
            terms = [
                [
                    {"weight": weight, "name": term.name, "options": {**own(term), **options}}
                    for options in combinations(term)
                    for weight in term.weight
                ]
                for term in one.terms
            ]
            yield from map(list, product(*terms))

    def own(term: Part) -> dict[str, Any]:
        return {"reference": REFERENCE} if referenced and gets_reference(term) else {}

    return _by_key(each())


def solves(solve: Solve) -> dict[str, dict[str, Any]]:
    """List arguments of `guideflow.solve`, each once, by key."""
    names = list(type(solve).model_fields)
    return _by_key(dict(zip(names, values, strict=True)) for values in product(*(getattr(solve, n) for n in names)))


def _by_key(found: Iterable[Any]) -> dict[str, Any]:
    return {key(one, _files(one)): one for one in found}


def _files(part: Any) -> dict[str, str]:
    """Return the checksums of the files that a part is made of, so that another one under the name is another part."""
    named = {text.partition(".py:")[0] + ".py" if ".py:" in text else text for text in texts(part)}
    return {name: found for name in sorted(named) if (found := digest(name))}


def gets_reference(term: Part) -> bool:
    """Tell whether a term has an option `reference` that the spec does not give."""
    if "reference" in term.options or "reference" in term.grid:
        return False
    known: Any = registry.options(registry.factory("loss", term.name)) or ()
    return any(option.name == "reference" for option in known)


def takes_reference(loss: Sum) -> bool:
    """Tell whether some term takes the reference of a job: by `"{reference}"`, or an option `reference` not given."""
    return any(gets_reference(term) or REFERENCE in json.dumps([term.options, term.grid]) for term in loss.terms)


def needs_reference(term: Part) -> bool:
    """Tell whether a term cannot do without the reference of a job."""
    if REFERENCE in json.dumps([term.options, term.grid]):
        return True
    known: Any = registry.options(registry.factory("loss", term.name)) or ()
    return gets_reference(term) and any(one.name == "reference" and one.default is None for one in known)


def load_solver(config: Mapping[str, Any]) -> Any:
    """Make a solver; an option that is a solver itself is a name, or a mapping with a name and options."""
    name, options = config.get("name"), config.get("options", {})
    if not isinstance(name, str) or not isinstance(options, dict) or config.keys() - {"name", "options"}:
        raise InvalidArgument(f"got {config!r}; expected a solver's name, or {{name: NAME, options: {{key: value}}}}.")
    options = {str(key): value for key, value in options.items()}
    if any(isinstance(value, str | dict) for value in options.values()):
        known: Any = registry.options(registry.factory("solver", name)) or ()
        inner = {option.name for option in known if re.search(r"Solver\b", option.type)} & options.keys()
        for key in inner:
            value = options[key]
            options[key] = load_solver({"name": value} if isinstance(value, str) else value)
    return registry.load_solver(name, **options)


def load_sampler(config: Mapping[str, Any], device: str | None) -> Any:
    """Make a sampler, on a device if that is given and the options do not say another."""
    return registry.load_sampler(config["name"], **_placed("sampler", config, device))


def load_loss(terms: list[dict[str, Any]], reference: str, device: str | None) -> LossLike:
    """Make a loss with a reference."""
    from guideflow.losses.base import as_sum

    total: Any = 0
    for term in terms:
        options = _filled(_placed("loss", term, device), reference)
        loss = as_sum(registry.load_loss(term["name"], **options))
        total += loss if term["weight"] == 1 else term["weight"] * loss
    made: LossLike = total
    return made


def _placed(kind: str, config: Mapping[str, Any], device: str | None) -> dict[str, Any]:
    options = dict(config["options"])
    known: Any = registry.options(registry.factory(kind, config["name"])) or ()
    if device is not None and "device" not in options and any(option.name == "device" for option in known):
        options["device"] = device
    return options


def _filled(value: Any, reference: str) -> Any:
    """Put the reference in its place, however deep."""
    if isinstance(value, dict):
        return {name: _filled(inner, reference) for name, inner in value.items()}
    if isinstance(value, list):
        return [_filled(inner, reference) for inner in value]
    return reference if value == REFERENCE else value
