"""`report`: what was measured as one HTML page that needs nothing beside it, and as Markdown."""

from __future__ import annotations

import json
import os
from datetime import date
from pathlib import Path
from typing import Any

from guideflow._files import remove_left, write_whole
from guideflow._given import count
from guideflow._require import require
from guideflow.errors import InvalidArgument
from guideflow.evaluation.configurations import shown
from guideflow.evaluation.folder import EXTRA
from guideflow.evaluation.pages.cases import exhibits, failures
from guideflow.evaluation.pages.curves import colours, panels
from guideflow.evaluation.run import FREE
from guideflow.evaluation.summary import Summary
from guideflow.evaluation.tables import interval, name, number, probability, signed
from guideflow.storage import versions

_TEMPLATES = Path(__file__).parent


def report(summary: Summary, out: str | Path | None = None, *, cases: int = 24) -> tuple[Path, Path]:
    """Write what an evaluation comes to.

    Arguments:
        summary: What `summarise` returned.
        out: Where the page goes, a name that ends in .html; `report.html` in the folder that was evaluated by default.
            The Markdown lies beside it.
        cases: How many cases are shown with their pictures, the worst by the main metric first.

    Returns:
        Paths of the HTML page and of the Markdown.

    Raises:
        InvalidArgument: If the name ends otherwise.
    """
    count("cases", cases, low=0)
    path = summary.evaluation.folder.path / "report.html" if out is None else Path(os.path.expanduser(out))
    if path.suffix != ".html":
        raise InvalidArgument(f"Got {str(path)!r} to write to. Expected a name that ends in .html.")
    jinja = require("jinja2", extra=EXTRA)
    environment = jinja.Environment(
        loader=jinja.FileSystemLoader(_TEMPLATES),
        autoescape=lambda template: template is not None and template.startswith("report.html"),
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja.StrictUndefined,
    )
    environment.filters["cell"] = lambda text: " ".join(str(text).split()).replace("|", "\\|")
    values = _values(summary, cases)
    path.parent.mkdir(parents=True, exist_ok=True)
    written = path, path.with_suffix(".md")
    for file, template in zip(written, ("report.html.j2", "report.md.j2"), strict=True):
        write_whole(file, environment.get_template(template).render(values).encode("utf-8", "replace"))
    remove_left(path.parent, [file.name for file in written])
    return written


def _values(summary: Summary, cases: int) -> dict[str, Any]:
    labels = [*summary.metrics]
    worst, in_all = exhibits(summary, cases)
    failed, failed_in_all = failures(summary)
    judged = [label for label in labels if label not in FREE]
    titles = {one.key: one.title for one in summary.configurations}
    axes: dict[str, list[str]] = {}
    for one in summary.configurations:
        for axis, value in one.options.items():
            if shown(value) not in axes.setdefault(axis, []):
                axes[axis].append(shown(value))
    options = {one.key: {axis: shown(value) for axis, value in one.options.items()} for one in summary.configurations}
    better = {label: about.better for label, about in summary.metrics.items()}
    return {
        "summary": summary,
        "title": summary.evaluation.folder.path.resolve().name,
        "date": date.today().isoformat(),
        "version": versions()["guideflow"],
        "jobs": len(summary.evaluation.folder.ends),
        "failed": failed,
        "failed_in_all": failed_in_all,
        "tables": [some for some in (judged, [label for label in labels if label in FREE]) if some],
        "compared": [label for label in [*judged, "diversity"] if any(key[1] == label for key in summary.comparisons)],
        "names": {label: name(label, labels) for label in labels},
        "arrows": {
            label: {"higher": "↑", "lower": "↓"}.get(about.better, "") for label, about in summary.metrics.items()
        },
        "best": {label: summary.best(label) for label in labels},
        "titles": titles,
        "axes": axes,
        "colours": colours(summary),
        "panels": panels(summary),
        "exhibits": worst,
        "cases_in_all": in_all,
        "data": {"order": [*titles], "options": options, "better": better, "main": summary.main},
        "number": number,
        "interval": interval,
        "signed": signed,
        "probability": probability,
        "dump": lambda value: json.dumps(value).replace("<", "\\u003c"),
    }
