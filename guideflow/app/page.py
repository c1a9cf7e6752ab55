"""The page: forms on one side, pictures on the other."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from guideflow._require import require
from guideflow.app import view
from guideflow.app.choices import explain
from guideflow.app.forms import Form
from guideflow.app.gallery import portraits
from guideflow.app.job import Job
from guideflow.app.studio import Studio, files, preferred
from guideflow.errors import GuideflowError

PROMPT = "a smiling person with a yellow t-shirt, purple background"


def page(gr: Any, studio: Studio) -> Any:
    """Build the page.

    Arguments:
        gr: The package gradio.
        studio: What runs.

    Returns:
        The blocks, to be launched with the keywords that `looks` returns.
    """
    with gr.Blocks(title="guideflow", analytics_enabled=False, delete_cache=(600, 3600), fill_width=False) as blocks:
        gr.HTML(
            '<div class="gf-head"><h1>guideflow</h1><p>Steer an image generator with what a loss likes. Everything '
            "stays on this machine.</p></div>"
        )
        with gr.Tabs(selected="make") as tabs:
            with gr.Tab("Make a picture", id="make"), gr.Row(equal_height=False):
                with gr.Column(scale=5, min_width=320):
                    form = Form(gr, PROMPT)
                with gr.Column(scale=7, min_width=320):
                    shown = _Shown(gr)
            people = portraits(studio.room)
            with gr.Tab("Gallery", id="gallery", visible=bool(people)):
                gr.Markdown("People whom no network here was trained on. One click, and the seeds are guided to them.")
                wall = gr.Gallery(
                    [(str(path), name.capitalize()) for name, path in people.items()],
                    label="Bundled portraits",
                    columns=4,
                    object_fit="cover",
                    height="max-content",
                    allow_preview=False,
                    show_label=False,
                    buttons=[],
                    interactive=False,
                    elem_id="gf-wall",
                )
        start = _wire(gr, studio, form, shown)
        if people:
            _wire_gallery(gr, form, tabs, wall, people, start)
        blocks.unload(_forget(gr, studio))
    return blocks


def looks(gr: Any) -> dict[str, Any]:
    """Return how it is painted; the fonts are those of the machine, as nothing is fetched."""
    theme = gr.themes.Default(
        primary_hue="blue",
        neutral_hue="slate",
        font=["system-ui", "-apple-system", "Segoe UI", "sans-serif"],
        font_mono=["ui-monospace", "Consolas", "monospace"],
    )
    return {"theme": theme, "css": view.STYLE, "footer_links": [], "favicon_path": None}


class _Shown:
    """Where the result is shown."""

    def __init__(self, gr: Any) -> None:
        self.status = gr.HTML(view.message("Ready."), elem_id="gf-status")
        self.pictures = gr.HTML(view.EMPTY, elem_id="gf-pictures")
        self.slider = gr.Slider(0, 1, 0, step=1, label="Iteration", visible=False, elem_id="gf-slider")
        self.curve = gr.LinePlot(
            None,
            x="iteration",
            y="loss",
            color="seed",
            height=240,
            label="Loss",
            color_title=" ",
            visible=False,
            buttons=[],
            elem_id="gf-curve",
        )
        self.files = gr.File(
            None, label="Download", file_count="multiple", interactive=False, visible=False, elem_id="gf-files"
        )
        with gr.Accordion("The same in Python and on the command line", open=False, visible=False) as self.texts:
            gr.Markdown(
                "Both make the same pictures, pixel by pixel, on a machine like this one. The pictures that they name "
                "are in `everything.zip`."
            )
            self.python = gr.Code("", language="python", label="Python", interactive=False, elem_id="gf-python")
            self.command = gr.Code("", language="shell", label="Command line", interactive=False, elem_id="gf-command")

    def outputs(self) -> list[Any]:
        """List the components in the order of `updates`."""
        parts = [self.status, self.pictures, self.slider, self.curve, self.files, self.texts, self.python]
        return [*parts, self.command]


def _updates(gr: Any, job: Job) -> list[Any]:
    """Return what the page shows of a job now."""
    pandas = require("pandas", extra="app")
    points = view.curve(job)
    last = len(job.frames) - 1
    table = pandas.DataFrame(points, columns=["iteration", "loss", "seed"]) if points else None
    found = [view.status(job), view.pictures(job)]
    found.append(gr.update(maximum=max(last, 1), value=max(last, 0), visible=last >= 1))
    planned = max(job.planned, 4)
    found.append(gr.update(value=table, x_lim=[0, planned], color_map=view.colours(job), visible=last >= 1))
    ready = job.done and job.solution is not None
    found.append(
        gr.update(value=[str(path) for path in files(job)], visible=True) if ready else gr.update(visible=False)
    )
    found.append(gr.update(visible=ready))
    return [*found, job.recipe.python() if ready else "", job.recipe.command() if ready else ""]


def _blank(gr: Any, status: str) -> list[Any]:
    hidden = gr.update(visible=False)
    return [status, view.EMPTY, hidden, hidden, hidden, hidden, "", ""]


def _forget(gr: Any, studio: Studio) -> Any:
    def forget(request: gr.Request) -> None:
        studio.forget(request.session_hash or "")

    forget.__annotations__["request"] = gr.Request
    return forget


def _wire(gr: Any, studio: Studio, form: Form, shown: _Shown) -> Any:
    """Connect the buttons; returns what prepares a run and what runs it, for other places to start one from."""

    def prepare(values: dict[Any, Any], request: Any) -> list[Any]:
        tab = request.session_hash or ""
        try:
            job = studio.prepare(tab, *form.read(values))
        except GuideflowError as error:
            studio.forget(tab)
            return _blank(gr, view.message(explain(error), "bad"))
        return [view.status(job), view.pictures(job), *_blank(gr, "")[2:]]

    def run(request: Any) -> Iterator[list[Any]]:
        tab = request.session_hash or ""
        job = studio.job(tab)
        yield [gr.skip()] * len(shown.outputs())  # a generator that yields nothing would empty them
        if job is not None and job.state == "waiting":
            for now in studio.run(job):
                if studio.job(tab) is job:  # no later one of this tab is waiting
                    yield _updates(gr, now)

    def look(iteration: float, request: Any) -> str:
        job = studio.job(request.session_hash or "")
        return view.EMPTY if job is None else view.pictures(job, int(iteration))

    def stop(request: Any) -> str:
        job = studio.job(request.session_hash or "")
        studio.stop(request.session_hash or "")
        return view.message("There is nothing to stop.") if job is None else view.status(job)

    for handler in (prepare, run, look, stop):
        handler.__annotations__["request"] = gr.Request  # how gradio knows what to hand over

    def start(event: Any, **how: Any) -> None:
        prepared = event(prepare, {*form.inputs()}, shown.outputs(), queue=False, **_PRIVATE, **how)
        one = {"concurrency_limit": 1, "concurrency_id": "solve"}
        # What a run-time type checker wraps around a generator function is none, and the page asks for one.
        prepared.then(inspect.unwrap(run), None, shown.outputs(), trigger_mode="multiple", **one, **_PRIVATE)

    start(form.run.click, js=_LOOK)
    form.stop.click(stop, None, shown.status, queue=False, **_PRIVATE)
    shown.slider.input(look, shown.slider, shown.pictures, queue=False, trigger_mode="always_last", **_PRIVATE)
    return start


_LOOK = """(...values) => {
    const result = document.getElementById("gf-status");
    if (window.innerWidth < 800) result.scrollIntoView({behavior: "smooth"});
    return values;
}"""
"""On a phone the result is far below the button."""


def _wire_gallery(gr: Any, form: Form, tabs: Any, wall: Any, people: dict[str, Path], start: Any) -> None:
    """Guide to whom was clicked: as the reference of the first loss, on the page with the result."""
    loss, paths = preferred("loss"), [str(path) for path in people.values()]

    def pick(event: Any) -> list[Any]:
        index = event.index if isinstance(event.index, int) and 0 <= event.index < len(paths) else 0
        return [gr.update(selected="make"), [loss], [paths[index]], gr.update(selected_index=None)]

    pick.__annotations__["event"] = gr.SelectData
    picked = wall.select(pick, None, [tabs, form.losses, form.references[loss], wall], queue=False, **_PRIVATE)
    start(picked.then)


_PRIVATE = {"api_visibility": "private", "show_progress": "hidden"}
