"""What a visitor sees of a run, as HTML. Whatever a visitor or a plugin wrote is escaped."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from html import escape

from guideflow.app.job import Job

EMPTY = (
    '<div class="gf-empty"><b>Nothing here yet.</b> Drop a portrait on the left and press <b>Run</b>, or pick somebody '
    "in the gallery: the same seeds are shown without guidance and with it, side by side.</div>"
)

_COLOURS = ("#2f6db5", "#d9822b", "#3c9a5f", "#b5485d", "#7a5fb0", "#8a6d3b")
_WORDS = {"waiting": "Waiting for its turn", "loading": "Loading the networks"}


def status(job: Job) -> str:
    """Say in a line how far a run is."""
    if job.state == "failed":
        kept = " What was reached is kept." if job.solution else ""
        return message(f"{job.note}{kept}", "bad")
    if job.state == "stopped":
        if job.solution is None:
            return message(job.note or "Stopped before anything was made.", "calm")
        done = f"Stopped after {_count(job.solution.state.iteration, 'iteration')}; this is the best so far."
        return message(f"{done} {job.note}".strip(), "warn" if job.note else "calm")
    if job.state == "done":
        done = f"Done: {_count(job.planned, 'iteration')} in {max(job.ended - job.began, 0):.0f} s."
        return message(f"{done} {job.note}".strip(), "warn" if job.note else "good")
    if job.stopping:
        return message("Stopping after this step ...", "busy")
    if job.state == "starting":
        tried = min(job.tried + 1, job.candidates)
        return message(f"Choosing where to start: noise {tried} of {job.candidates}", "busy", 0.0)
    if job.state == "guiding":
        done_now = job.frames[-1].iteration
        return message(f"Iteration {done_now} of {job.planned}", "busy", done_now / max(job.planned, 1))
    return message(f"{_WORDS.get(job.state, job.state)} ...", "busy")


def message(text: str, mood: str = "calm", share: float | None = None) -> str:
    """Write a line in a mood: "calm", "busy", "good", "warn" or "bad"; with a bar for the share that is done."""
    bar = "" if share is None else f'<progress max="1" value="{share:.3f}"></progress>'
    role = "alert" if mood in ("bad", "warn") else "status"
    return f'<div class="gf-status gf-{mood}" role="{role}"><span>{escape(text)}</span>{bar}</div>'


def pictures(job: Job, iteration: int | None = None) -> str:
    """Show the unguided pictures beside the guided ones: the kept, the latest, or those of an iteration."""
    if not job.unguided:
        return EMPTY if job.done else '<div class="gf-empty">The first picture is being made.</div>'
    guided: Sequence[bytes] = ()
    captions: list[str] = []
    if iteration is None and job.solution is not None:
        guided, kept = job.guided, job.solution.kept
        values = zip(kept.iteration.tolist(), kept.loss.tolist(), strict=True)
        captions = [f"guided: iteration {i}, loss {loss:.3g}" for i, loss in values]
    elif job.frames:
        frame = job.frames[-1 if iteration is None else min(max(iteration, 0), len(job.frames) - 1)]
        guided = frame.pictures
        captions = [f"iteration {frame.iteration}, loss {loss:.3g}" for loss in frame.losses]
    rows = []
    for i, (seed, before) in enumerate(zip(job.recipe.seeds, job.unguided, strict=True)):
        left = _picture(before, f"Unguided picture of seed {seed}", "unguided")
        right = _picture(guided[i], f"Guided picture of seed {seed}", captions[i]) if guided else _pending()
        name = f'<div class="gf-seed"><i style="background:{colour(i)}"></i>seed {seed}</div>'
        rows.append(f'<div class="gf-pair">{name}{left}{right}</div>')
    return f'<div class="gf-pairs gf-{min(len(rows), 2)}">{"".join(rows)}</div>'


def _picture(content: bytes, text: str, caption: str) -> str:
    data = base64.b64encode(content).decode()
    image = f'<img alt="{escape(text)}" src="data:image/webp;base64,{data}">'
    return f"<figure>{image}<figcaption>{escape(caption)}</figcaption></figure>"


def _pending() -> str:
    return '<figure><div class="gf-pending"></div><figcaption>guided: to come</figcaption></figure>'


def colour(number: int) -> str:
    """Return the colour of an image, as in its curve."""
    return _COLOURS[number % len(_COLOURS)]


def colours(job: Job) -> dict[str, str]:
    """Return the colour of each curve."""
    return {f"seed {seed}": colour(i) for i, seed in enumerate(job.recipe.seeds)}


def curve(job: Job) -> list[tuple[int, float, str]]:
    """Return the points of the curve: iteration, loss, seed."""
    seeds = job.recipe.seeds
    return [
        (frame.iteration, loss, f"seed {seed}")
        for frame in job.frames
        for seed, loss in zip(seeds, frame.losses, strict=True)
        if loss == loss and abs(loss) != float("inf")
    ]


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


STYLE = """
.gradio-container {width: 100%; max-width: 1280px !important; margin: 0 auto;}
#gf-files .label-clear-button {display: none;}
.gf-head h1 {font-size: 1.6rem; margin: 0.2rem 0 0;}
.gf-head p {margin: 0.15rem 0 0; color: var(--body-text-color-subdued);}
.gf-drop {border-width: 0 !important;}
.gf-drop .grid-wrap {margin-top: 26px;}
.gf-about {padding: 10px 14px !important; background: var(--block-background-fill);}
#gf-wall .grid-container {grid-template-columns: repeat(auto-fill, minmax(max(130px, 22%), 1fr)) !important;}
.gf-status {display: flex; flex-direction: column; gap: 6px; padding: 10px 14px; border-radius: 8px; line-height: 1.4;
  border-left: 4px solid #8a94a6; background: var(--background-fill-secondary); overflow-wrap: anywhere;}
.gf-busy {border-color: #2f6db5;} .gf-good {border-color: #3c9a5f;}
.gf-warn {border-color: #d9822b;} .gf-bad {border-color: #b5485d;}
.gf-status progress {width: 100%; height: 6px; appearance: none; border: none; border-radius: 3px; overflow: hidden;
  background: var(--border-color-primary);}
.gf-status progress::-webkit-progress-bar {background: var(--border-color-primary);}
.gf-status progress::-webkit-progress-value {background: #2f6db5;}
.gf-status progress::-moz-progress-bar {background: #2f6db5;}
.gf-empty {padding: 48px 24px; text-align: center; color: var(--body-text-color-subdued); line-height: 1.5;
  border: 1px dashed var(--border-color-primary); border-radius: 8px;}
.gf-pairs {display: grid; gap: 14px; grid-template-columns: minmax(0, 1fr);}
.gf-pairs.gf-1 {max-width: 640px;}
.gf-pair {display: grid; grid-template-columns: minmax(0, 1fr) minmax(0, 1fr); gap: 6px 10px; padding: 10px;
  border: 1px solid var(--border-color-primary); border-radius: 8px;}
.gf-seed {grid-column: 1 / -1; font-weight: 600; font-size: 0.9rem;}
.gf-pair figure {margin: 0;}
.gf-pair img, .gf-pending {display: block; width: 100%; aspect-ratio: 1; object-fit: contain; border-radius: 6px;
  background: var(--background-fill-secondary);}
.gf-pair figcaption {font-size: 0.82rem; color: var(--body-text-color-subdued); padding-top: 4px;}
.gf-legend {display: flex; flex-wrap: wrap; gap: 4px 12px; font-size: 0.85rem;}
.gf-seed i {display: inline-block; width: 0.8em; height: 0.8em; border-radius: 50%; margin-right: 6px;}
.gf-legend i {display: inline-block; width: 0.9em; height: 0.9em; border-radius: 3px; border: 1px solid #0003;
  vertical-align: -0.1em; margin-right: 4px;}
@media (min-width: 1080px) {.gf-pairs.gf-2 {grid-template-columns: minmax(0, 1fr) minmax(0, 1fr);}}
"""


def legend(palette: dict[str, str]) -> str:
    """Show which colour is which class of a layout."""
    words = (f'<span><i style="background:{colour}"></i>{escape(name)}</span>' for name, colour in palette.items())
    free = '<span><i style="background:#808080"></i>free: nothing drawn</span>'
    return f'<div class="gf-legend">{"".join(words)}{free}</div>'
