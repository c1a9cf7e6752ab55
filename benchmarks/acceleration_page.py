"""The tables and pictures of the page "Fewer iterations", from what `acceleration.py` has measured."""

from __future__ import annotations

import json

import torch
from acceleration import DIGITS, HEADS, MEASURES, RULES, solved, stored
from avatars import FAMILIES, HERE, PROMPTS, README, RESULTS, cases, draw_labelled, write_between

TIME = "*Time* is that of a whole solve, candidates included, relative to `auto` without a preset, on {machine}. "
PAGE = HERE.parent / "docs" / "design" / "fewer-iterations.md"
IMAGES = HERE.parent / "docs" / "images"


def verdict(key: str, row: dict) -> str:
    """Whether a difference is worse, better, or neither can be said."""
    low, high = (row["low"], row["high"]) if MEASURES[key] else (-row["high"], -row["low"])
    return "better" if low > 0 else "worse" if high < 0 else "level"


def shown(rows: dict, key: str) -> str:
    """A measure with its digits."""
    return f"{rows[key]:.{DIGITS.get(key, 3)}f}" if key in rows else ""


def line(cells: list[str]) -> str:
    """Write a line of a table."""
    return f"| {' | '.join(cells)} |"


def machines(report: dict) -> str:
    """What the families were drawn on."""
    found: dict[str, list[str]] = {}
    for family, rows in report["families"].items():
        found.setdefault(rows["machine"], []).append(family)
    if len(found) == 1:
        return next(iter(found))
    return " and ".join(f"{machine} ({', '.join(families)})" for machine, families in found.items())


def shown_rules(rows: dict) -> list[str]:
    """The rules that have rows of their own: without a preset for the family, two of them are one."""
    return [name for name in RULES if name != "auto, no preset" or rows[name] != rows["auto"]]


def write() -> None:
    """Write the tables into the page, and draw the front and the pictures."""
    report = json.loads((RESULTS / "acceleration.json").read_text())
    best = report["two real pictures"]["judge"]
    keys = [key for key in MEASURES if key in report["all"]["auto"]]
    seconds = report.get("seconds", {})
    time = ["time"] if seconds else []
    lines = [line(["family", "", *time, *(HEADS[key] for key in keys), "of the way"])]
    lines.append(line(["---"] * (3 + len(time) + len(keys))))
    for family, rows in [*report["families"].items(), ("all together", report["all"])]:
        mine, start = seconds.get(family, {}), rows["unguided"]["judge"]
        title = f"`avatars-{family}`" if family in report["families"] else family
        for name in shown_rules(rows):
            cost = f"{mine[name] / mine['auto, no preset']:.2f}" if name in mine else ""
            way = f"{(rows[name]['judge'] - start) / (best - start):.0%}"
            cells = [shown(rows[name], key) for key in keys]
            cells[3] += f" ({rows[name]['denoise'] / rows['unguided']['denoise']:.2f}x)"
            lines.append(line([title if name == "unguided" else "", name, *([cost] if time else []), *cells, way]))
        for other in ("unguided", "auto, no preset"):
            if other not in shown_rules(rows) or "differences" not in rows:
                continue
            row, cells = rows["differences"][other], []
            for key in keys:
                digits = DIGITS.get(key, 3)
                interval = f"{row[key]['low']:+.{digits}f} to {row[key]['high']:+.{digits}f}"
                cells.append(f"{interval}: {verdict(key, row[key])}")
            lines.append(line(["", f"auto less {other}", *([""] if time else []), *cells, ""]))
    text = "\n".join(lines) + "\n"
    (RESULTS / "acceleration.md").write_text(text)
    about = TIME.format(machine=report["timed on"]) if time else ""
    caption = (
        f"{report['cases']} pairs of a held-out person and a held-out prompt for each family, none of them seen in any "
        f"search. {about}Differences have 95 % intervals of a paired bootstrap over the pairs; *all "
        f"together* are means. Two real pictures of a person: judge {best:.3f}. Drawn on {machines(report)}, "
        f"{report['date']}, by `python benchmarks/acceleration.py run` and `table`."
    )
    write_between(PAGE, "acceleration", f"{caption}\n\n{text}")
    write_readme(report)
    families = report["families"]
    report = json.loads((RESULTS / "acceleration-search.json").read_text())
    lines = [f"| rule | noises | iterations | {' | '.join(HEADS.values())} |", "|" + "---|" * (3 + len(HEADS))]
    for row in report["rows"]:
        cells = [shown(row, key) for key in MEASURES]
        lines.append(f"| {row['rule']} | {row['candidates']} | {row['iterations']} | {' | '.join(cells)} |")
    text = "\n".join(lines) + "\n"
    caption = (
        f"`avatars-perflow`, {report['cases']} pairs that serve the search only. Drawn on "
        f"{report['machine']}, {report['date']}, by `python benchmarks/acceleration.py search` and `table`."
    )
    put("search", caption, text)
    write_grid()
    write_polish()
    draw_front(report["rows"])
    draw_pictures([family for family, rows in families.items() if rows["preset"]])
    draw_sheet()


def write_readme(report: dict) -> None:
    """Write what matters most into the README: how far, at which price."""
    best = report["two real pictures"]["judge"]
    lines = ["| family | | likeness, held-out judge | of the way | prompt | denoise error |", "|" + "---|" * 6]
    for family, rows in [*report["families"].items(), ("all together", report["all"])]:
        unguided = rows["unguided"]
        for name in shown_rules(rows):
            row, title = rows[name], f"`avatars-{family}`" if family in report["families"] else family
            way = (row["judge"] - unguided["judge"]) / (best - unguided["judge"])
            cells = [title if name == "unguided" else "", name, f"{row['judge']:.3f}", f"{way:.0%}"]
            cells += [f"{row['prompt']:.3f}", f"{row['denoise'] / unguided['denoise']:.2f}x"]
            lines.append(f"| {' | '.join(cells)} |")
    caption = (
        f"{report['cases']} pairs of a person whom no network was trained on and a prompt that no generator was\n"
        f"trained on, for each family of the avatars world, drawn on {machines(report)},\n{report['date']}, "
        "by `python benchmarks/acceleration.py run` and `table`."
    )
    write_between(README, "results", f"## Results\n\n{caption}\n\n" + "\n".join(lines) + "\n")


def put(name: str, caption: str, text: str) -> None:
    """Keep a table as a result of its own, and write it into the page under its caption."""
    (RESULTS / f"acceleration-{name}.md").write_text(text)
    write_between(PAGE, name, f"{caption}\n\n{text}")


def write_grid() -> None:
    """Write the settings of `auto` that cost the same into the page."""
    report = json.loads((RESULTS / "acceleration-grid.json").read_text())
    keys = ("loss", "judge", "prompt", "denoise")
    lines = [f"| family | rule | {' | '.join(HEADS[key] for key in keys)} |", "|" + "---|" * (2 + len(keys))]
    for row in report["rows"]:
        rule = "unguided" if row["iterations"] == 0 else row["rule"]
        lines.append(f"| `avatars-{row['family']}` | {rule} | {' | '.join(shown(row, key) for key in keys)} |")
    text = "\n".join(lines) + "\n"
    caption = (
        f"{report['cases']} pairs of 8 people who serve the search only. `auto` is start 5, decay 0.02, 12 iterations "
        f"from the best of 16 noises. Drawn on {report['machine']}, {report['date']}, by `python "
        "benchmarks/acceleration.py grid` and `table`."
    )
    put("grid", caption, text)


def write_polish() -> None:
    """Write what polishing changes into the page."""
    report = json.loads((RESULTS / "acceleration-polish.json").read_text())
    keys = ("loss", "judge", "prompt", "denoise")
    lines = [f"| family | share | {' | '.join(HEADS[key] for key in keys)} |", "|" + "---|" * (2 + len(keys))]
    for family in (family for family in FAMILIES if family in report["families"]):
        for i, (share, row) in enumerate(report["families"][family].items()):
            cells = ["" if i else f"`avatars-{family}`", f"{float(share):g}", *(shown(row, key) for key in keys)]
            lines.append(line(cells))
    text = "\n".join(lines) + "\n"
    caption = (
        f"The {report['cases']} pictures of `auto, no preset` above, polished afterwards. Drawn on "
        f"{report['machine']}, {report['date']}, by `python benchmarks/acceleration.py polish` and `table`."
    )
    put("polish", caption, text)


def draw_front(rows: list[dict]) -> None:
    """Likeness by the judge against naturalness, one line for each rule."""
    import matplotlib

    matplotlib.use("agg")
    import matplotlib.pyplot as plt

    figure, panels = plt.subplots(1, 2, figsize=(10.4, 5.4), layout="constrained", sharey=True)
    colours = plt.get_cmap("tab20").colors
    names = list(dict.fromkeys(row["rule"] for row in rows))
    for panel, key in ((panels[0], "denoise"), (panels[1], "kid")):
        for i, name in enumerate(names):
            mine = [row for row in rows if row["rule"] == name and row["iterations"] > 0 and key in row]
            style = {
                "color": "black" if name == "auto, no preset" else colours[i % 20],
                "ls": "-" if i < 20 else "--",
                "lw": 2.4 if name in RULES else 1.0,
                "marker": "o",
                "ms": 5 if name in RULES else 3,
            }
            panel.plot([row[key] for row in mine], [row["judge"] for row in mine], label=name, **style)
        panel.set(xlabel=f"{HEADS[key]}, less is more natural")
        panel.spines[["top", "right"]].set_visible(False)
        panel.invert_xaxis()
    unguided = next(row for row in rows if row["iterations"] == 0)
    panels[0].axvline(unguided["denoise"], color="0.6", lw=0.8, ls=":")
    panels[0].annotate("unguided", (unguided["denoise"], 0.0), fontsize=7, color="0.4", rotation=90, ha="right")
    panels[0].set(ylabel="likeness, held-out judge", xlim=(0.12, None))
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside right", frameon=False, fontsize=7)
    figure.savefig(IMAGES / "fewer-iterations.png", dpi=110)


def draw_pictures(preset: list[str]) -> None:
    """For each family with a preset four people, evenly spread over the cases: reference, unguided and the rules."""
    part = "acceleration-run"
    references, *_ = cases(part)
    people = range(0, len(references), len(references) // 4)
    labels = ["reference", *RULES]
    rows, drawn = [], [family for family in preset if all(stored(part, family, name).exists() for name in RULES)]
    for family in drawn:
        pictures = [references]
        pictures += [solved(part, family, name)["kept"] for name in RULES]
        rows.append([picture[person] for person in people for picture in pictures])
    draw_labelled(IMAGES / "fewer-iterations-pictures.png", rows, labels * 4, drawn)


def draw_sheet() -> None:
    """All pairs of one family: each person's reference, then the guided pictures."""
    part = "acceleration-run"
    references, *_ = cases(part)
    count, people = PROMPTS[part], 4  # people in a row
    guided = solved(part, "perflow", "auto")["kept"].unflatten(0, (-1, count))
    sheet = torch.cat([references[::count, None], guided], 1)
    rows = [list(row.flatten(0, 1)) for row in sheet.split(people)]
    draw_labelled(IMAGES / "fewer-iterations-sheet.png", rows, ["reference", *["guided"] * count] * people)
