"""The people that shipped presets are searched and checked on: nobody that a network was trained or judged on.

python benchmarks/presets.py      writes them to benchmarks/cache/people
guideflow tune benchmarks/presets/anchored.yaml --out benchmarks/cache/anchored      and so for the other specs
python benchmarks/presets.py ship copies the presets that were found to samplers/guideflow_avatars/presets
"""

from __future__ import annotations

import csv
import shutil
import sys

import avatars

from guideflow import images

PEOPLE = avatars.CACHE / "people"
SPECS = avatars.HERE / "presets"
AS_PUBLISHED = ("anchored",)  # a name that stands for the rule of a paper, to the letter
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


def ship() -> None:
    """Copy the presets that searches have written, and take away those that they have not."""
    SHIPPED.mkdir(exist_ok=True)
    for spec in sorted(SPECS.glob("*.yaml")):
        name = f"avatars-perflow,avatars-identity,{spec.stem}.json"
        found = avatars.CACHE / spec.stem / name
        ships = found.exists() and spec.stem not in AS_PUBLISHED
        if ships:
            shutil.copy(found, SHIPPED / name)
        else:
            (SHIPPED / name).unlink(missing_ok=True)
        print(f"{spec.stem}: {'shipped' if ships else 'not shipped' if found.exists() else 'no preset was found'}")


if __name__ == "__main__":
    ship() if sys.argv[1:] == ["ship"] else people()
