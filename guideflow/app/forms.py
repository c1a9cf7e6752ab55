"""The forms: what is picked, typed, dropped and drawn."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from guideflow.app.choices import LONGEST_PROMPT, MOST_ITERATIONS, Asked, Choice, choice, choices, starting
from guideflow.app.fields import Field
from guideflow.app.studio import FIRST, preferred
from guideflow.app.view import legend
from guideflow.errors import InvalidArgument

if TYPE_CHECKING:
    from PIL import Image as PILImage

_PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".avif", ".ppm")


class Form:
    """All inputs of the page, laid out as they are made.

    Arguments:
        gr: The package gradio.
        prompt: What the page starts with.
    """

    def __init__(self, gr: Any, prompt: str) -> None:
        self.gr = gr
        self._keys: dict[Any, tuple[str, ...]] = {}
        self._panels: dict[str, Any] = {}
        self.references: dict[str, Any] = {}
        first = {kind: preferred(kind) for kind in FIRST}
        with gr.Group():
            self._add(("prompt",), gr.Textbox(prompt, label="Prompt", lines=2, max_length=LONGEST_PROMPT))
            with gr.Row():
                seeds = gr.Textbox("0, 1", label="Seeds", info="A picture each: 0, 1, 2 or 0:4", min_width=120)
                steps = gr.Number(
                    None,
                    label="Iterations",
                    info="Empty: as many as the solver asks for",
                    placeholder="as the solver asks",
                    precision=0,
                    minimum=0,
                    maximum=MOST_ITERATIONS,
                    min_width=160,
                )
            self._add(("seeds",), seeds)
            self._add(("iterations",), steps)
        self.losses = self._add(
            ("losses",),
            gr.Dropdown(
                [(one.label, one.name) for one in choices("loss")],
                value=[first["loss"]],
                multiselect=True,
                label="Losses: what the pictures are guided by",
                elem_id="gf-losses",
            ),
        )
        for one in choices("loss"):
            self._loss(one, visible=one.name == first["loss"])
        self.losses.change(self._show_losses, self.losses, list(self._panels.values()), queue=False, **_PRIVATE)
        with gr.Row(elem_id="gf-buttons"):
            self.run = gr.Button("Run", variant="primary", min_width=100, elem_id="gf-run")
            self.stop = gr.Button("Stop", min_width=100, elem_id="gf-stop")
        self._start()
        with gr.Accordion("Sampler and solver", open=False):
            for kind, label in (("sampler", "Sampler"), ("solver", "Solver")):
                self._pooled(kind, label, first[kind])
            tries = gr.Slider(
                0, 64, 0, step=1, label="Candidates", info="Noises to choose from; 0: the solver's number"
            )
            self._add(("candidates",), tries)
            negative = gr.Textbox("", label="Negative prompt", max_length=LONGEST_PROMPT)
            self._add(("negative",), negative)

    def inputs(self) -> list[Any]:
        """List all inputs."""
        return list(self._keys)

    def read(self, values: Mapping[Any, Any]) -> tuple[Asked, dict[tuple[str, str], Any], Any]:
        """Return what was filled in, what was dropped or drawn for each option of a loss, and the start photograph."""
        typed: dict[tuple[str, ...], Any] = {key: values.get(part) for part, key in self._keys.items()}
        losses = tuple(typed[("losses",)] or ())
        options: dict[tuple[str, str, str], Any] = {}
        dropped: dict[tuple[str, str], Any] = {}
        for key, value in typed.items():
            if key[0] == "option":
                options[(key[1], key[2], key[3])] = value
            elif key[0] == "pool":
                name = str(typed[(key[1],)])
                if key[2] in {_slot(field) for field in choice(key[1], name).fields}:
                    options[(key[1], name, key[2].partition(" ")[0])] = value
        for key, value in typed.items():
            if key[0] == "files":
                paths = [one[0] for one in value] if isinstance(value, list) else value
                dropped[(key[1], key[2])] = paths, drawing(typed.get(("drawn", key[1], key[2])))
        editor = typed.get(("start",))
        asked = Asked(
            sampler=typed[("sampler",)],
            losses=losses,
            solver=typed[("solver",)],
            options=options,
            weights={name: typed[("weight", name)] for name in losses if ("weight", name) in typed},
            prompt=typed[("prompt",)] or "",
            negative_prompt=typed[("negative",)] or "",
            seeds=typed[("seeds",)],
            iterations=typed[("iterations",)],
            candidates=typed[("candidates",)],
            strength=typed.get(("strength",)),
            paste_back=typed.get(("paste_back",)),
        )
        return asked, dropped, editor and (editor.get("background"), drawing(editor))

    def _add(self, key: tuple[str, ...], part: Any) -> Any:
        self._keys[part] = key
        return part

    def _loss(self, one: Choice, visible: bool) -> None:
        gr = self.gr
        with gr.Group(visible=visible, elem_id=f"gf-loss-{one.name}") as panel:
            gr.Markdown(f"**{_plain(one.name)}** {_plain(one.summary)}", padding=False, elem_classes="gf-about")
            pictures = [field for field in one.fields if field.is_picture]
            for field in pictures:
                self._picture(one, field)
            with gr.Accordion("Weight and options", open=False):
                self._add(("weight", one.name), gr.Number(1, label="Weight"))
                with gr.Row():
                    for field in one.fields:
                        if not field.is_picture:
                            self._add(("option", "loss", one.name, field.name), self._component(field))
        self._panels[one.name] = panel

    def _picture(self, one: Choice, field: Field) -> None:
        gr, key = self.gr, (one.name, field.name)
        if field.kind == "layout":
            with gr.Accordion("Draw a layout, or drop one", open=bool(one.palette)):
                if one.palette:
                    gr.HTML(legend(dict(one.palette)), padding=True)
                    shades = list(one.palette.values())
                    editor = gr.ImageEditor(
                        _paper(),
                        label="Layout",
                        show_label=False,
                        type="pil",
                        image_mode="RGBA",
                        sources=(),
                        transforms=(),
                        layers=False,
                        canvas_size=(512, 512),
                        fixed_canvas=True,
                        buttons=[],
                        brush=gr.Brush(colors=shades, default_color=shades[-1], color_mode="fixed", default_size=40),
                    )
                    self._add(("drawn", *key), editor)
                file = gr.File(label="A layout as a file", file_types=list(_PICTURES), height=150)
                self._add(("files", *key), file)
            return
        many = field.kind == "pictures"
        label = f"{field.name.capitalize()}{': one picture or several' if many else ''}"
        wall = gr.Gallery(
            label=label,
            file_types=["image"],
            type="filepath",
            columns=3,
            fit_columns=False,
            height=190,
            object_fit="contain",
            interactive=True,
            sources=["upload", "clipboard"],
            buttons=[],
            elem_id=f"gf-{one.name}-{field.name}",
            elem_classes="gf-drop",
        )
        self.references[one.name] = self._add(("files", *key), wall)

    def _start(self) -> None:
        gr = self.gr
        if not starting():
            return
        with gr.Accordion("Start from a photograph", open=False):
            gr.Markdown("Drop one. To change a part of it only, paint over that part.", padding=False)
            editor = gr.ImageEditor(
                label="Photograph",
                show_label=False,  # on a phone the tools would lie over it
                elem_id="gf-start",
                type="pil",
                image_mode="RGBA",
                sources=("upload", "clipboard"),
                transforms=(),
                layers=False,
                buttons=[],
                brush=gr.Brush(colors=[("#2f6db5", 0.6)], color_mode="fixed", default_size=30),
            )
            self._add(("start",), editor)
            if "strength" in starting():
                self._add(("strength",), gr.Slider(0.05, 1, 0.6, step=0.05, label="Strength: how much may change"))
            if "paste_back" in starting():
                self._add(("paste_back",), gr.Checkbox(True, label="Leave what is not painted exactly as it is"))

    def _pooled(self, kind: str, label: str, first: str) -> None:
        """One component for each option of a name and kind, shown where what is picked has it."""
        gr = self.gr
        box = gr.Dropdown([(one.label, one.name) for one in choices(kind)], value=first, label=label)
        self._add((kind,), box)
        pool: dict[str, Field] = {}
        for one in (choice(kind, first), *choices(kind)):
            for field in one.fields:
                if not field.is_picture:  # pictures are dropped for losses only
                    pool.setdefault(_slot(field), field)
        here = {_slot(field) for field in choice(kind, first).fields}
        with gr.Accordion(f"{label} options", open=False), gr.Row():
            parts = {slot: self._component(field, visible=slot in here) for slot, field in pool.items()}
        for slot, part in parts.items():
            self._add(("pool", kind, slot), part)

        def show(picked: str) -> list[Any]:
            there = {_slot(field): field for field in choice(kind, picked).fields}
            return [self._update(there.get(slot)) for slot in parts]

        box.change(show, box, list(parts.values()), queue=False, **_PRIVATE)

    def _component(self, field: Field, visible: bool = True) -> Any:
        gr = self.gr
        named: dict[str, Any] = {"label": field.name, "info": _short(field.help), "visible": visible, "min_width": 150}
        if field.kind in ("number", "whole"):
            if field.default is None:  # a box for numbers would show a 0 where nothing is meant
                return gr.Textbox("", max_length=24, placeholder="not set", **named)
            precision = 0 if field.kind == "whole" else None
            return gr.Number(field.default, precision=precision, **named)
        if field.kind == "switch":
            return gr.Checkbox(field.default, **named)
        if field.kind == "choices":
            return gr.CheckboxGroup(list(field.choices), value=field.default or [], **named)
        if field.kind in ("choice", "solver"):
            return gr.Dropdown(list(field.choices), value=field.default, **named)
        if field.kind == "text":
            return gr.Textbox(field.default or "", **named)
        raise InvalidArgument(f"Got a field of kind {field.kind!r}.")

    def _update(self, field: Field | None) -> Any:
        if field is None:
            return self.gr.update(visible=False)
        more = {"choices": list(field.choices)} if field.choices else {}
        default = "" if field.default is None and field.kind in ("number", "whole") else field.default
        return self.gr.update(visible=True, value=default, info=_short(field.help), **more)

    def _show_losses(self, picked: list[str]) -> list[Any]:
        return [self.gr.update(visible=name in (picked or [])) for name in self._panels]


def _slot(field: Field) -> str:
    """Tell which options of several samplers can share a component."""
    kind = "text" if field.default is None and field.kind in ("number", "whole") else field.kind
    return f"{field.name} {kind}"


_PRIVATE = {"api_visibility": "private", "show_progress": "hidden"}


def _paper() -> dict[str, Any]:
    """Grey to draw on, as white is the colour of a class; what is not drawn is free."""
    from PIL import Image

    grey = Image.new("RGB", (512, 512), "#808080")
    return {"background": grey, "layers": [], "composite": grey}


def drawing(value: Any) -> PILImage.Image | None:
    """Return what was drawn, transparent where nothing was: the layers of an editor, without what is under them."""
    from PIL import Image

    layers = [one.convert("RGBA") for one in (value or {}).get("layers") or ()]
    if not layers:
        return None
    found: PILImage.Image = layers[0]
    for one in layers[1:]:
        found = Image.alpha_composite(found, one)
    return found


def _short(text: str) -> str | None:
    """Cut a help text after its first sentence, or in the middle of a long one."""
    first = re.split(r"(?<=[.;:])\s", text, maxsplit=1)[0].rstrip(";:")
    return (first if len(first) <= 110 else f"{first[:107].rsplit(' ', 1)[0]} ...") or None


def _plain(text: str) -> str:
    """Keep markdown in what plugins say from being read as such."""
    return re.sub(r"([\\`*_{}\[\]<>()#+!|~$])", r"\\\1", text)
