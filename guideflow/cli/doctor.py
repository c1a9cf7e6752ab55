"""The body of `guideflow doctor`: what this installation is, what it lacks, and whether it works."""

from __future__ import annotations

import os
import platform
import shutil
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Final

from guideflow import registry
from guideflow.cli.codes import FAILED, Failed
from guideflow.cli.console import console, print_json, visible
from guideflow.registry.weights import hub_cache

if TYPE_CHECKING:
    from torch import Tensor

_PACKAGES: Final = ("guideflow", "torch", "numpy", "pillow", "diffusers", "transformers", "matplotlib")
_MODULES: Final = {  # of each extra, by the name that is imported
    "diffusers": ("diffusers", "transformers", "accelerate"),
    "face": ("insightface", "onnx", "scipy"),
    "subject": ("scipy", "torchvision", "transformers"),
    "segmentation": ("segmentation_models_pytorch", "torchvision", "transformers"),
    "style": ("open_clip",),
    "clip": ("open_clip",),
    "plot": ("matplotlib",),
    "video": ("imageio", "imageio_ffmpeg"),
    "evaluate": ("jinja2", "matplotlib", "pyarrow", "yaml", "scipy"),
    "sweep": ("pyarrow", "pydantic", "yaml", "ray"),
    "tune": ("optuna", "jinja2", "matplotlib", "pyarrow", "pydantic", "yaml", "scipy"),
    "provenance": ("blind_watermark", "c2pa"),
    "app": ("gradio",),
}


@dataclass(frozen=True)
class Finding:
    """One line of the report: what was looked at, what was found, whether that is well, and what to type if not.

    `ok` is None for what is missing and not needed for what works without; `error` is what was raised, if anything.
    """

    what: str
    found: str
    ok: bool | None = True
    cure: str = ""
    error: Exception | None = None


def doctor(as_json: bool = False) -> int:
    """Print the report; the exit code is 1 if something is broken."""
    groups: dict[str, Callable[[], list[Finding]]] = {
        "versions": _versions,
        "machine": _machine,
        "caches": _caches,
        "extras": _extras,
        "plugins": _plugins,
        "self-test": _self_test,
    }
    report: dict[str, list[Finding]] = {}
    screen = console()
    for group, look in groups.items():
        report[group] = look()
        if not as_json:
            screen.print(group, style="bold")
            for one in report[group]:
                mark, style = {True: ("ok", "green"), None: ("--", "dim"), False: ("!!", "bold red")}[one.ok]
                screen.print(f"  {mark}", style=style, end=" ")
                screen.print(visible(f"{one.what:<15}{one.found}"), soft_wrap=True)
                if one.cure:
                    screen.print(visible(f"{'':<20}type: {one.cure}"), soft_wrap=True)
    wrong = [one for several in report.values() for one in several if one.ok is False]
    if as_json:
        names = ("what", "found", "ok", "cure")
        found = {group: [{name: getattr(one, name) for name in names} for one in report[group]] for group in report}
        print_json({**found, "well": not wrong})
    else:
        screen.print(f"\n{len(wrong)} to mend." if wrong else "\nAll is well.", style="bold")
    for one in wrong:
        if one.error is not None:
            raise Failed(f"The self-test of {one.what} failed: {one.found}") from one.error
    return FAILED if wrong else 0


def _versions() -> list[Finding]:
    found = [Finding("python", platform.python_version())]
    for package in _PACKAGES:
        try:
            found.append(Finding(package, version(package)))
        except PackageNotFoundError:
            found.append(Finding(package, "not installed", None))
    return found


def _machine() -> list[Finding]:
    import torch

    from guideflow.memory import available_bytes

    found = [Finding("system", f"{platform.system()} {platform.machine()}, {os.cpu_count()} CPU cores")]
    found.append(Finding("memory", f"{available_bytes(torch.device('cpu')) / 2**30:.1f} GiB to be had"))
    if torch.cuda.is_available():
        for i in range(torch.cuda.device_count()):
            free, total = torch.cuda.mem_get_info(i)
            sizes = f"{free / 2**30:.1f} of {total / 2**30:.1f} GiB free"
            found.append(Finding(f"cuda:{i}", f"{torch.cuda.get_device_name(i)}, {sizes}"))
    elif torch.backends.mps.is_available():
        found.append(Finding("mps", "a GPU of Apple's"))
    else:
        built = f"built for CUDA {torch.version.cuda}" if torch.version.cuda else "a CPU build"
        found.append(Finding("GPU", f"none that PyTorch sees ({built}); the avatars need none", None))
    return found


def _caches() -> list[Finding]:
    folder = hub_cache()
    existing = next(one for one in (folder, *folder.absolute().parents) if one.exists())
    free = f"{shutil.disk_usage(existing).free / 1e9:.0f} GB free"
    there = sum(1 for one in folder.glob("models--*")) if folder.is_dir() else 0
    offline = os.environ.get("HF_HUB_OFFLINE", "") not in ("", "0")
    about = f"{folder}: {there} models, {free}{', offline by HF_HUB_OFFLINE' if offline else ''}"
    return [Finding("Hub", about, os.access(existing, os.W_OK))]


def _extras() -> list[Finding]:
    found = []
    for extra, modules in _MODULES.items():
        missing = [name for name in modules if find_spec(name) is None]
        cure = f"pip install 'guideflow[{extra}]'" if missing else ""
        told = f"without {', '.join(missing)}" if missing else "installed"
        found.append(Finding(extra, told, None if missing else True, cure))
    return found


def _plugins() -> list[Finding]:
    broken, names = registry.broken(), dict[registry.Plugin, list[str]]()
    for kind in registry.HOOKS:
        for offer in registry.offers(kind):
            names.setdefault(offer.plugin, []).append(offer.name)
    found = []
    for plugin in registry.plugins():
        if why := broken.get(plugin):
            cure = f"pip install --upgrade --force-reinstall {plugin.distribution}"
            found.append(Finding(plugin.name, f"{plugin.distribution} {plugin.version}: {why}", False, cure))
        else:
            offered = names.get(plugin, [])
            counted = f"{len(offered)} name{'s' * (len(offered) != 1)}"
            found.append(Finding(plugin.name, f"{plugin.distribution} {plugin.version}, {counted}"))
    return found


def _self_test() -> list[Finding]:
    """Guide a closed-form sampler, save, load and go on; and the avatars by one step, where they can be loaded."""
    return [_tried("core", _try_core), _tried("avatars", _try_avatars)]


def _tried(what: str, attempt: Callable[[], str]) -> Finding:
    began = time.perf_counter()
    try:
        told = attempt()
    except ImportError as error:
        return Finding(what, f"not tried: {error}", None)
    except Exception as error:
        return Finding(what, f"{type(error).__name__}: {error}", False, "guideflow doctor --traceback", error)
    return Finding(what, f"{told}, in {time.perf_counter() - began:.1f} s")


def _darkness(image: Tensor) -> Tensor:
    return image.flatten(1).mean(1)


def _try_core() -> str:
    import torch

    import guideflow as gf

    sampler = gf.load_sampler("toy-mixture", size=8)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "run"
        solution = gf.solve(sampler, _darkness, max_iterations=2, save_to=folder)
        again = gf.resume(folder, max_iterations=3, loss=_darkness)
    if not again.loss <= solution.history["loss"][0] or not torch.isfinite(again.images).all():
        raise RuntimeError("guidance did not lower the loss")
    return "solved, saved and resumed"


def _try_avatars() -> str:
    import guideflow as gf

    sampler = gf.load_sampler("avatars-perflow")
    loss = gf.load_loss("avatars-identity", reference="ada")
    solution = gf.solve(sampler, loss, prompt="a smiling person", solver="flowgrad", max_iterations=2)
    before, after = solution.history["loss"][0].item(), solution.loss.item()
    if not after < before:
        raise RuntimeError(f"two iterations took the loss from {before:.3f} to {after:.3f}")
    return f"two iterations took the loss from {before:.2f} to {after:.2f}"
