"""The README's table of results: what was measured, whether it meets its bar, and what training took."""

from __future__ import annotations

import datetime
import json
import re

import torch

import world
from common import DATA, DEVICE, HERE

GENERATORS = {
    "teacher": "teacher, 50 DDIM steps",
    "perflow": "PeRFlow, 4 steps",
    "rectified-flow": "2-rectified flow, 4 steps",
    "instaflow": "InstaFlow, 1 step",
    "turbo": "Turbo, 4 steps",
    "pcm": "PCM, 4 steps",
    "flux": "Flux, 4 steps",
}
AT_LEAST = {
    "autoencoder, PSNR on held-out renders (dB)": 33.0,
    "autoencoder, PSNR in the face, dark skin (dB)": 30.0,
    "autoencoder, PSNR in the face, pale skin (dB)": 30.0,
    "autoencoder, judge's cosine of render and reconstruction": 0.98,
    **{f"{name}: attribute accuracy": 0.92 if "InstaFlow" in name else 0.95 for name in GENERATORS.values()},
    **{f"{name}: expression": 0.8 for name in GENERATORS.values()},
    **{f"{name}: 40 typed prompts": 0.9 for name in GENERATORS.values()},
    **{f"typed prompts, all students: {key}": 0.9 for key in world.LABELS},
    "guidance identity network: verification accuracy": 0.97,
    "held-out identity network: verification accuracy": 0.97,
    "guidance segmentation network: mean IoU": 0.90,
    "held-out segmentation network: mean IoU": 0.90,
}
AT_MOST = {
    "autoencoder, expressions misread only in the reconstruction (share)": 0.02,
    **{f"{name}: lost by unknown words (share)": 0.02 for name in GENERATORS.values()},
}


def training() -> dict[str, list]:
    """Steps, minutes and device of every network, of the checkpoints that are here; of others, what was noted before.

    Notes are in `data/training.json`: checkpoints are large and stay where training was.
    """
    path = DATA / "training.json"
    found = json.loads(path.read_text()) if path.exists() else {}
    device = torch.cuda.get_device_name() if DEVICE.type == "cuda" else "CPU"
    for checkpoint in sorted(DATA.glob("*.pt")):
        saved = torch.load(checkpoint, weights_only=True, map_location="cpu", mmap=True)
        if isinstance(saved, dict) and "seconds" in saved and found.get(checkpoint.stem, (0,))[0] != saved["step"]:
            found[checkpoint.stem] = [saved["step"], saved["seconds"] / 60, device]
    path.write_text(json.dumps(found, indent=1) + "\n")
    return found


def write_table(rows: dict[str, float]) -> None:
    """Print the table and put it into the README."""
    lines = ["| measure | value | bar |", "|---|---|---|"]
    for name, value in rows.items():
        bar = ""
        if name in AT_LEAST:
            bar = f"at least {AT_LEAST[name]:g}: {'met' if value >= AT_LEAST[name] else 'missed'}"
        if name in AT_MOST:
            bar = f"at most {AT_MOST[name]:g}: {'met' if value <= AT_MOST[name] else 'missed'}"
        lines.append(f"| {name} | {value:.3f} | {bar} |")
    if trained := training():
        lines += ["", "| network | steps | minutes | on |", "|---|---|---|---|"]
        lines += [
            f"| {name} | {steps} | {minutes:.1f} | {device} |"
            for name, (steps, minutes, device) in sorted(trained.items())
        ]
    text = "\n".join([f"Measured {datetime.date.today()} by `python tools/avatars/evaluate.py`.", "", *lines])
    print(text)
    readme = HERE / "README.md"
    pattern = r"(<!-- results -->\n).*(<!-- end -->)"
    readme.write_text(re.sub(pattern, lambda m: m[1] + text + "\n" + m[2], readme.read_text(), flags=re.DOTALL))
