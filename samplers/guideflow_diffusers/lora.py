"""Merge a LoRA into networks, whatever its names."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from guideflow._given import in_range
from guideflow.errors import InvalidArgument
from guideflow.losses.weights import listed, several
from guideflow_diffusers.peft import PREFIX, read_strength
from guideflow_diffusers.weights import Weights, add, sum_dtype

_MATRIX = re.compile(r"(?P<name>.+?)[._]lora(?:_linear_layer)?[._](?P<side>down|up|A|B)(?:\.default)?\.weight")
_OTHER = re.compile(r"(?P<name>.+?)\.(?P<side>alpha|diff|diff_b)")
_KINDS = {
    r"\.hada_w\d": "LoHa",
    r"\.lokr_w\d": "LoKr",
    r"\.lora_mid\.": "LoCon with a core (Tucker)",
    r"\.oft_(blocks|diag|R|r)\b": "OFT",
    r"\.boft_[Rs]": "BOFT",
    r"\.[ab][12]\.weight$": "GLoRA",
    r"\.on_input$|ia3_l\b": "IA3",
    r"\.vera_lambda_": "VeRA",
    r"\.lora_B\.bias$": "LoRA with biases",
    r"\.scalar$": "LyCORIS with a scalar",
    r"^bundle_emb\.|^emb_params$|^string_to_param": "embedding (textual inversion)",
}
"""What tensors other adapters have, which neither pair up nor add."""
_SIDES = {"down": "down", "A": "down", "up": "up", "B": "up"}
_PREFIXES = {
    "unet": ("lora_unet_", "unet_", ""),
    "transformer": ("lora_transformer_", "transformer_", ""),
    "text_encoder": ("lora_te_", "lora_te1_", "text_encoder_"),
    "text_encoder_2": ("lora_te2_", "text_encoder_2_"),
}


def is_lora(names: Iterable[str]) -> bool:
    """Tell whether tensors of these names make up a LoRA."""
    return any(_MATRIX.fullmatch(name) for name in names)


@torch.no_grad()
def merge_lora(networks: Mapping[str, nn.Module], weights: Weights, scale: float = 1.0) -> None:
    """Merge a LoRA into networks.

        W <- W + scale (alpha / r) up @ down        (r: rank; alpha = r where none is given)
        W <- W + scale diff,  b <- b + scale diff_b        (whole differences, as LyCORIS writes them)

    Kohya's names (`lora_unet_..._to_q.lora_down.weight`, with diffusers' or Stability's block names), diffusers' and
    peft's (`unet....to_q.lora_A.weight`) are understood, linear layers and convolutions alike, and what
    peft's configuration says of the strength. The sum is taken in
    float32 or better. Nothing is changed unless everything fits.

    Arguments:
        networks: By the name of their folder: "unet", "text_encoder", "text_encoder_2".
        weights: The LoRA.
        scale: Strength; 1 is as trained.

    Raises:
        InvalidArgument: If a tensor matches no layer, lacks its counterpart or has the wrong shape, or this is no plain
            LoRA.

    Source: Hu et al., "LoRA: Low-Rank Adaptation of Large Language Models", 2021, section 4.1.
    """
    in_range("the scale of a LoRA", scale)
    where = weights.where
    strength, layers = read_strength(weights), _layers(networks)
    found: dict[str, dict[str, str]] = defaultdict(dict)
    unmatched = []
    for key in weights:
        match = _MATRIX.fullmatch(key) or _OTHER.fullmatch(key)
        name = _flat(match["name"]) if match else ""
        if match and name in layers:
            found[name][_SIDES.get(match["side"], match["side"])] = key
        else:
            unmatched.append(key)
    if kinds := sorted({kind for key in weights for part, kind in _KINDS.items() if re.search(part, key)}):
        raise InvalidArgument(
            f"The LoRA {where} is of the kind {' and '.join(kinds)} ({listed(unmatched[:1])}), which is not merged "
            "here. Give a plain LoRA, or merge it into its base."
        )
    if unmatched or not found:
        raise InvalidArgument(
            f"{several(unmatched)} of the LoRA {where} fit no layer of {', '.join(networks)}. Expected pairs such as "
            "lora_unet_<layer>.lora_down.weight and .lora_up.weight. Give a LoRA that was made for this base."
        )
    if len({id(layers[name]) for name in found}) < len(found):
        raise InvalidArgument(f"The LoRA {where} has some layer twice, under two names. Give one that has it once.")
    for key in weights:
        whole = not weights[key].is_floating_point() and not key.endswith(".alpha")
        if whole or not weights[key].double().isfinite().all():  # of 8 bits PyTorch cannot tell
            why = f"of type {weights[key].dtype}" if whole else "nan or inf"
            raise InvalidArgument(f"{key} of the LoRA {where} is {why}. Expected finite numbers. Download it again.")
    changes: list[tuple[Tensor, float, list[str]]] = []
    for name, keys in found.items():
        for side, kind in (("diff", "weight"), ("diff_b", "bias")):
            if side in keys:
                layer, given = getattr(layers[name], kind, None), tuple(weights[keys[side]].shape)
                if layer is None or given != layer.shape:
                    own = "none" if layer is None else tuple(layer.shape)
                    raise InvalidArgument(f"The LoRA {where} has {given} for the {kind} of {name}, which is {own}.")
                changes.append((layer, scale, [keys[side]]))
        if keys.keys() <= {"diff", "diff_b"}:
            continue
        if not {"down", "up"} <= keys.keys():
            raise InvalidArgument(f"The LoRA {where} has only {sorted(keys)} of {name}. Expected both down and up.")
        layer, down, up = layers[name].weight, weights[keys["down"]], weights[keys["up"]]
        rows, columns, rank = len(layer), layer[0].numel(), len(down) if down.dim() else 0
        if not rank or not up.dim() or (len(up), down.numel(), up.numel()) != (rows, columns * rank, rows * rank):
            sizes = f"{tuple(up.shape)} x {tuple(down.shape)} for {name}"
            raise InvalidArgument(f"The LoRA {where} has {sizes}, whose weight is {tuple(layer.shape)}.")
        if "alpha" in keys and weights[keys["alpha"]].numel() != 1:
            raise InvalidArgument(f"{keys['alpha']} of the LoRA {where} is no number. Download it again.")
        alpha = weights[keys["alpha"]].item() if "alpha" in keys else None
        named = _MATRIX.fullmatch(keys["down"])
        factor = strength.factor(named["name"] if named else name, rank, alpha)
        changes.append((layer, scale * factor, [keys["up"], keys["down"]]))
    for layer, factor, names in changes:
        one, *other = (weights[name].to(layer.device, sum_dtype(layer)) for name in names)
        change = one.reshape(len(one), -1) @ other[0].reshape(len(other[0]), -1) if other else one
        add(layer, factor * change.reshape(layer.shape))


def _flat(name: str) -> str:
    """Write a layer's name as kohya does, the spellings of older and newer diffusers becoming one."""
    name = name.removeprefix(PREFIX).replace(".processor.", ".")
    return re.sub(r"_to_out$", "_to_out_0", name.replace(".", "_"))


def _layers(networks: Mapping[str, nn.Module]) -> dict[str, Any]:
    """Index layers with weights by every name a LoRA may have for them."""
    index: dict[str, Any] = {}
    for network_name, network in networks.items():
        for name, module in network.named_modules():
            if not isinstance(getattr(module, "weight", None), Tensor):
                continue
            names = {name.replace(".", "_")}
            if network_name.startswith("text"):  # transformers 5 dropped the first level of the name
                names.add("text_model_" + name.removeprefix("text_model.").replace(".", "_"))
            elif hasattr(network, "down_blocks"):
                theirs = stability_name(name, network.config.layers_per_block).replace(".", "_")
                # Upsamplers come after the attention, in the third place, or in the second if there is none.
                names |= {theirs.replace("upsampler", place) for place in ("1", "2")}
            for prefix in _PREFIXES[network_name]:
                for flat in names:
                    index.setdefault(prefix + flat, module)
    return index


def stability_name(name: str, layers_per_block: int) -> str:
    """Write a UNet layer's name as in Stability's code, which kohya's SDXL LoRAs use.

    "down_blocks.1.attentions.0.proj_in" is "input_blocks.4.1.proj_in"; `upsampler` stands for an upsampler's place.
    """
    inside = {
        r"\.norm1$": ".in_layers.0",
        r"\.norm2$": ".out_layers.0",
        r"\.conv1$": ".in_layers.2",
        r"\.time_emb_proj$": ".emb_layers.1",
        r"\.conv2$": ".out_layers.3",
        r"\.conv_shortcut$": ".skip_connection",
    }
    n = layers_per_block if isinstance(layers_per_block, int) else layers_per_block[0]

    def place(match: re.Match[str]) -> str:
        side, block, kind, layer = match["side"], int(match["block"]), match["kind"], int(match["layer"])
        row = 1 + block * (n + 1) + layer if side == "down" else block * (n + 1) + layer
        column = {"resnets": 0, "attentions": 1}.get(kind)
        if kind == "downsamplers":
            return f"input_blocks.{(block + 1) * (n + 1)}.0"
        if kind == "upsamplers":
            return f"output_blocks.{block * (n + 1) + n}.upsampler"
        return f"{'input' if side == 'down' else 'output'}_blocks.{row}.{column}"

    if ".resnets." in name:
        for ours, theirs in inside.items():
            name = re.sub(ours, theirs, name)
    name = re.sub(r"^mid_block\.resnets\.(\d)", lambda m: f"middle_block.{2 * int(m[1])}", name)
    name = re.sub(r"^mid_block\.attentions\.0", "middle_block.1", name)
    pattern = r"^(?P<side>down|up)_blocks\.(?P<block>\d+)\.(?P<kind>\w+)\.(?P<layer>\d+)"
    name = re.sub(r"(?<=samplers\.0)\.conv$", lambda m: ".op" if name.startswith("down") else ".conv", name)
    name = re.sub(pattern, place, name)
    outside = {"conv_in": "input_blocks.0.0", "conv_norm_out": "out.0", "conv_out": "out.2"}
    outside |= {"time_embedding.linear_1": "time_embed.0", "time_embedding.linear_2": "time_embed.2"}
    outside |= {"add_embedding.linear_1": "label_emb.0.0", "add_embedding.linear_2": "label_emb.0.2"}
    return outside.get(name, name)
