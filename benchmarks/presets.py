"""Presets that are shipped: searched and checked on people that no network was trained or judged on.

python benchmarks/presets.py      writes these people to benchmarks/cache/people
guideflow tune benchmarks/presets/anchored.yaml --out benchmarks/cache/anchored      and so for the other specs
python benchmarks/presets.py ship copies the presets that were found to samplers/guideflow_avatars/presets, and writes
                                  those of `auto` with what `acceleration.py run` has measured of them
"""

from __future__ import annotations

import csv
import json
import shutil
import sys
from typing import Any

import avatars

import guideflow as gf
from guideflow import images
from guideflow.registry.presets import Preset
from guideflow.storage import origins, versions
from guideflow.tune import read_tune

PEOPLE = avatars.CACHE / "people"
SPECS = avatars.HERE / "presets"
AS_PUBLISHED = ("anchored",)  # a name that stands for the rule of a paper, to the letter
PASSES = {"passes": True, "polish": 1.0, "preview": True, "scale": 3.0, "noises": 24}
AUTO = {
    "perflow": PASSES,
    "rectified-flow": {"polish": 1.0, "preview": True, "noises": 24},
    "instaflow": {"scale": 1.5, "iterations": 24, "preview": True, "noises": 52},
    "turbo": PASSES,
    "pcm": PASSES,
}  # options of `auto`, chosen on the people of `acceleration.py grid`
MEASURED = "python benchmarks/acceleration.py run"
SHIPPED = avatars.HERE.parent / "samplers" / "guideflow_avatars" / "presets"


def people() -> None:
    """Write a picture and a prompt of each person: four to search on, six others to check on."""
    PEOPLE.mkdir(parents=True, exist_ok=True)
    for part in ("search", "check"):
        references, prompts, _, identities = avatars.cases(part)
        seen, rows = set(), []
        for picture, prompt, identity in zip(references, prompts, identities.tolist(), strict=True):
            if identity not in seen:
                seen.add(identity)
                name = f"{part}-{len(rows)}.png"
                images.save_image(PEOPLE / name, picture)
                rows.append({"reference": name, "prompt": prompt})
        with (PEOPLE / f"{part}.csv").open("w", newline="") as file:
            writer = csv.DictWriter(file, ["reference", "prompt"], lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)


def auto(family: str, options: dict[str, Any]) -> Preset:
    """Return a preset of `auto`, with what was measured of exactly this one."""
    name, report = f"avatars-{family}", json.loads((avatars.RESULTS / "acceleration.json").read_text())
    rows = report["families"][family]
    sampler, loss = gf.load_sampler(name), gf.load_loss("avatars-identity", reference="ada")
    found = {}
    if rows.get("preset") == options:
        judge, cost = (
            {"unguided": rows["unguided"][key], "default": rows["auto, no preset"][key], "preset": rows["auto"][key]}
            for key in ("judge", "denoise")
        )
        found = {
            "command": MEASURED,
            "date": report["date"],
            "machine": rows["machine"],
            "versions": dict(versions()),
            "weights": {"sampler": origins.weights(sampler), "loss": origins.weights(loss)},
            "rule": "on people and prompts that no search saw: more likeness by a judge that did not guide, or as "
            "much to within 0.01 at a smaller denoise error",
            "check": {
                "count": report["cases"],
                "iterations": gf.Auto(**options).default_iterations,
                "objectives": {
                    "avatars-identity-similarity": {"better": "higher", **judge},
                    "denoise-error": {"better": "lower", **cost},
                },
            },
            "note": f"{'passes' if options.get('passes') else 'moves'} that preview, from the best of more "
            "noises, in about the time of the twelve iterations by default",
        }
    return Preset(name, "avatars-identity", "auto", options, sampler.num_steps, found)


def ship() -> None:
    """Write the presets of `auto`, copy those that searches have written, and take away those that they have not."""
    SHIPPED.mkdir(exist_ok=True)
    for family, options in AUTO.items():
        preset = auto(family, options)
        (SHIPPED / f"{preset.name}.json").write_bytes(preset.written())
        print(f"{preset.name}: {'measured' if preset.found else 'to be measured'}")
    for spec in sorted(SPECS.glob("*.yaml")):
        asked = read_tune(spec)
        if asked.solver[0].name == "auto":
            continue  # the search says which scale, and `acceleration.py` whether it is better
        name = f"{asked.sampler[0].name},avatars-identity,{asked.solver[0].name}"
        found = avatars.CACHE / spec.stem / f"{name}.json"
        ships = found.exists() and asked.solver[0].name not in AS_PUBLISHED
        if ships:
            shutil.copy(found, SHIPPED / found.name)
        else:
            (SHIPPED / found.name).unlink(missing_ok=True)
        print(f"{name}: {'shipped' if ships else 'not shipped' if found.exists() else 'no preset was found'}")


if __name__ == "__main__":
    ship() if sys.argv[1:] == ["ship"] else people()
