"""The people and prompts that are compared on: 32 people, two prompts each, in an order that does not change.

    python benchmarks/paper/pairs.py    # draws people.png again; needs tools/avatars/requirements.txt

Nobody among them was trained on by any network, nor served a search before; no generator was trained on the prompts.
The four people after them serve the search for settings.
"""

from __future__ import annotations

import csv
import random
import sys
from pathlib import Path

from PIL import Image

HERE = Path(__file__).parent
SHEET, COLUMNS, SIZE = HERE / "people.png", 9, 128
FIRST, PEOPLE, SEARCHED, PROMPTS = 400, 32, 4, 2
sys.path.insert(0, str(HERE.parents[1] / "tools" / "avatars"))


def portraits() -> list:
    """What is drawn of each person: their first portrait in the held-out set, in the order of the other benchmarks."""
    import render

    first: dict[int, object] = {}
    for portrait in render.plan("heldout", render.COUNTS["heldout"]):
        first.setdefault(portrait.identity, portrait)
    people = list(first)
    random.Random("guideflow benchmark people").shuffle(people)
    return [first[one] for one in people[FIRST : FIRST + PEOPLE + SEARCHED]]


def prompts(person: int) -> list[str]:
    """Prompts of a person, by place in the order."""
    import captions
    import world

    chosen = random.Random(f"guideflow benchmark paper {person}").sample(world.PROMPTS_OF[True], PROMPTS)
    return [
        f"a person in {captions.with_article(f'{colour} {clothes}')}, {background} background"
        for clothes, colour, background in chosen
    ]


def write(folder: Path, name: str, people: range) -> Path:
    """Write the references of some people as PNGs, and a table of them with prompts and seeds; return the table."""
    (folder / "people").mkdir(parents=True, exist_ok=True)
    table = folder / f"{name}.csv"
    with table.open("w", newline="") as file, Image.open(SHEET) as sheet:
        rows = csv.writer(file, lineterminator="\n")
        rows.writerow(["reference", "seed", "first", "second"])
        for i in people:
            picture = folder / "people" / f"{i:02d}.png"
            if not picture.exists():
                left, top = SIZE * (i % COLUMNS), SIZE * (i // COLUMNS)
                sheet.crop((left, top, left + SIZE, top + SIZE)).convert("RGB").save(picture, optimize=True)
            rows.writerow([f"people/{picture.name}", 1000 + i, *prompts(i)])
    return table


def count(table: Path) -> int:
    """Pairs of a table of references that may be missing."""
    return PROMPTS * (len(table.read_text().splitlines()) - 1) if table.exists() else 0


def draw() -> None:
    """Draw all of them on one sheet."""
    import render

    found = portraits()
    sheet = Image.new("RGB", (SIZE * COLUMNS, SIZE * -(-len(found) // COLUMNS)))
    for i, portrait in enumerate(found):
        sheet.paste(Image.fromarray(render.draw(portrait)), (SIZE * (i % COLUMNS), SIZE * (i // COLUMNS)))
    sheet.quantize(256, dither=Image.Dither.NONE).save(SHEET, optimize=True)


if __name__ == "__main__":
    draw()
