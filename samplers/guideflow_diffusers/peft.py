"""How strong a LoRA is that peft wrote: what its configuration says, beside its tensors or in their file."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from guideflow._told import shorten
from guideflow.errors import InvalidArgument
from guideflow.losses.networks import read_config
from guideflow_diffusers.weights import Weights

CONFIG: Final = "adapter_config.json"
PREFIX: Final = "base_model.model."

# Each makes another sum of the weights, or other weights to add to.
_REFUSED = ("use_dora", "use_qalora", "lora_bias", "layer_replication", "alora_invocation_tokens")
_CHANGES_THE_BASE = re.compile("pissa|olora|corda|loftq|lora_ga")


@dataclass(frozen=True)
class Strength:
    """The factors of a LoRA's layers.

        alpha / r,    or  alpha / sqrt(r)  where it is rank-stabilised

    Arguments:
        options: What peft calls them, `lora_alpha`, `use_rslora`, `alpha_pattern`; by network, or under "" for all.

    Source: Hu et al., 2021, section 4.1; Kalajdzievski, "A Rank Stabilization Scaling Factor for Fine-Tuning with
    LoRA", 2023.
    """

    options: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    def factor(self, name: str, rank: int, alpha: float | None) -> float:
        """Return the factor of a layer by its name in the file; `alpha` is the file's own, if it has one."""
        name = name.removeprefix(PREFIX)
        network = next((one for one in self.options if one and name.startswith(f"{one}.")), "")
        options = self.options.get(network, {})
        for pattern, given in (options.get("alpha_pattern") or {}).items():
            if re.match(rf"(.*\.)?({pattern})$", name):  # as peft does: the first that fits the end of the name
                alpha = float(given) if alpha is None else alpha
        alpha = float(options.get("lora_alpha", rank)) if alpha is None else alpha
        return alpha / math.sqrt(rank) if options.get("use_rslora") else alpha / rank


def read_strength(weights: Weights) -> Strength:
    """Read what peft or diffusers says of a LoRA.

    Raises:
        InvalidArgument: If it does something that is not merged here, or does not say how strong it is.
    """
    where, options = weights.where, dict[str, dict[str, Any]]()
    try:
        for key, value in json.loads(weights.metadata.get("lora_adapter_metadata", "{}")).items():
            network, _, option = key.rpartition(".")
            options.setdefault(network, {})[option] = value
    except (ValueError, AttributeError) as error:
        raise InvalidArgument(f"{where} has lora_adapter_metadata that cannot be read: {error}.") from error
    theirs = [name for name in weights if name.startswith(PREFIX)]
    if theirs and not options:
        beside = read_config(str(weights.files[0].parent), CONFIG)
        if beside is None and not any(name.endswith(".alpha") for name in weights):
            raise InvalidArgument(f"{where} is of peft, and {CONFIG}, which tells its strength, is not beside it.")
        options = {} if beside is None else {"": beside}
    for one in options.values():
        found = [name for name in _REFUSED if one.get(name)]
        if one.get("peft_type", "LORA") != "LORA":
            found.append(f"peft_type={one['peft_type']}")
        if _CHANGES_THE_BASE.match(str(one.get("init_lora_weights", ""))):
            found.append(f"init_lora_weights={one['init_lora_weights']}")
        if found:
            raise InvalidArgument(f"{where} has {', '.join(found)}, which is not merged here. Give a plain LoRA.")
        if (odd := _unreadable(one)) is not None:
            raise InvalidArgument(f"The configuration of {where} has {odd}. Download it again, or give another LoRA.")
    if dora := [name for name in weights if "lora_magnitude_vector" in name or name.endswith("dora_scale")]:
        raise InvalidArgument(f"{where} is a DoRA ({dora[0]}), which is not merged here. Give a plain LoRA.")
    return Strength(options)


def _unreadable(options: Mapping[str, Any]) -> str | None:
    """Name what tells no strength: what is no number, or a pattern that is none or could take for ever."""
    patterns = options.get("alpha_pattern") or {}
    if not isinstance(patterns, Mapping):
        return f"alpha_pattern={shorten(repr(patterns), 60)}, which is no mapping"
    for pattern in patterns:
        try:
            re.compile(pattern)
        except re.error as error:
            return f"the pattern {shorten(repr(pattern), 60)} in alpha_pattern, which is none: {error}"
        if len(re.findall(r"[*+{]", pattern)) > 3 or re.search(r"\)[*+{]", pattern):
            return f"the pattern {shorten(repr(pattern), 60)} in alpha_pattern, with too many repeats to be tried"
    for name, value in {"lora_alpha": options.get("lora_alpha", 1), **patterns}.items():
        if not isinstance(value, int | float) or isinstance(value, bool) or not -1e6 < value < 1e6:
            return f"{shorten(repr(value), 60)} for {shorten(name, 60)}, which is no number to scale by"
    return None
