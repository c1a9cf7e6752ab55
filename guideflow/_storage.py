"""Solutions on disk: pictures for people, a manifest and one file of tensors for `resume`.

The manifest names the file of tensors and is replaced last, in one step, so a save that is cut short leaves the
previous one whole.
"""

import csv
import json
import os
import platform
from collections.abc import Mapping
from dataclasses import asdict, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from guideflow import images
from guideflow._batched import from_tensors, to_tensors
from guideflow._recipes import load_part, missing, rebuild_solver
from guideflow.errors import CannotResume, FolderInUse
from guideflow.problem import Noise, Problem
from guideflow.sampler import Sampler
from guideflow.solution import Kept, Result, Settings, Solution
from guideflow.solvers import Solver, State
from guideflow.types import LossLike

MANIFEST = "manifest.json"
_FORMAT = 2


def save(solution: Solution, directory: str | os.PathLike[str], *, overwrite: bool) -> None:
    """Write a solution to a folder."""
    folder = Path(directory)
    old = _old_manifest(folder)
    if old.get("run", solution.run) != solution.run and not overwrite:
        raise FolderInUse(
            f"{folder} holds another solve, of {old.get('settings', {}).get('prompts')} with seeds "
            f"{old.get('settings', {}).get('seeds')}. Save to another folder, or type `save(..., overwrite=True)`."
        )
    folder.mkdir(parents=True, exist_ok=True)
    tensor_file = f"state-{solution.run[:8]}-{solution.state.iteration:06d}.safetensors"
    pictures = _pictures(solution)
    manifest: dict[str, Any] = {
        "format": _FORMAT,
        "run": solution.run,
        "tensors": tensor_file,
        "files": [tensor_file, "history.csv", *pictures],
        "images": [
            {"prompt": prompt, "seed": seed, "result": result.name, "message": result.value, "loss": f"{loss:.9g}"}
            for prompt, seed, result, loss in zip(
                solution.prompts, solution.seeds, solution.result, solution.loss.tolist(), strict=True
            )
        ],
        "history": list(solution.history),
        "settings": asdict(solution.settings),
        "stats": dict(solution.stats),
        "recipes": dict(solution.recipes),
        "versions": _versions(),
    }
    _write_tensors(folder / tensor_file, solution)
    for name, (picture, metadata) in pictures.items():
        images.save_image(folder / name, picture, metadata)
    _write_history(folder / "history.csv", solution)
    _replace(folder / MANIFEST, (json.dumps(manifest, indent=1) + "\n").encode())
    for name in set(old.get("files", ())) - set(manifest["files"]):
        # A manifest is an ordinary file that anybody may edit: remove nothing outside the folder on its word.
        if Path(name).name == name:
            (folder / name).unlink(missing_ok=True)


def load(directory: str | os.PathLike[str]) -> Solution:
    """Read a saved solution, without sampler and loss."""
    from safetensors.torch import load_file

    folder = Path(directory)
    if not (folder / MANIFEST).is_file():
        raise CannotResume(f"No solution is saved in {folder}: no {MANIFEST}. Give the folder of `Solution.save`.")
    try:
        manifest = json.loads((folder / MANIFEST).read_text())
        if manifest["format"] != _FORMAT:
            raise CannotResume(
                f"{folder} was saved in format {manifest['format']}; this guideflow reads {_FORMAT}. Install the "
                f"version that saved it: guideflow {manifest.get('versions', {}).get('guideflow')}."
            )
        tensors = load_file(folder / Path(manifest["tensors"]).name)
        settings: dict[str, Any] = {
            name: tuple(v) if isinstance(v, list) else v for name, v in manifest["settings"].items()
        }
        solver = rebuild_solver(manifest["recipes"]["solver"])
        return Solution(
            kept=from_tensors(Kept, tensors, "kept."),
            best=from_tensors(Kept, tensors, "best."),
            unguided=tensors["unguided"],
            history={name: tensors[f"history.{name}"] for name in manifest["history"]},
            result=tuple(Result[entry["result"]] for entry in manifest["images"]),
            stats=manifest["stats"],
            settings=Settings(**settings),
            state=from_tensors(State if solver is None else solver.state_type, tensors, "state."),
            noise=_under(tensors, "noise."),
            references=tuple(_under(tensors, "reference.").values()),
            recipes=manifest["recipes"],
            run=manifest["run"],
            solver=solver,
        )
    except CannotResume:
        raise
    except Exception as error:  # whatever a damaged file makes json and safetensors raise
        raise CannotResume(f"The solution in {folder} is damaged ({type(error).__name__}: {error}).") from error


def from_disk(
    solution: Solution | str | os.PathLike[str],
    sampler: Sampler | None,
    loss: LossLike | None,
    solver: Solver[Any] | None,
) -> Solution:
    """Return a solution with problem and solver, from recipes where no object is given."""
    tensors: Mapping[str, Tensor] | None = None
    if not isinstance(solution, Solution):
        folder = Path(solution)
        solution = load(folder)
        tensors = _state_tensors(folder)
    old = solution.problem
    sampler = sampler or (old.sampler if old else load_part("sampler", solution.recipes["sampler"]))
    loss = loss if loss is not None else (old.loss if old else load_part("loss", solution.recipes["loss"]))
    solver = solver or solution.solver
    if solver is None:
        raise missing("solver")
    device, dtype = sampler.device, sampler.state_dtype
    expected = (sampler.num_steps, len(solution.seeds), *sampler.latent_shape)
    if tuple(solution.state.controls.shape) != expected or solution.state.z0.dtype != dtype:
        raise CannotResume(
            f"The saved controls have shape {tuple(solution.state.controls.shape)} and {solution.state.z0.dtype}; the "
            f"sampler given needs {expected} and {dtype}. Give the sampler that the solution was made with."
        )
    source = to_tensors(solution.state, "state.") if tensors is None else tensors
    try:
        state = from_tensors(solver.state_type, source, "state.", device)
    except KeyError as error:
        raise CannotResume(f"The saved state lacks {error}. Give the solver it was made with.") from error
    with torch.no_grad():
        condition = sampler.condition(solution.prompts, solution.settings.negative_prompts)
    steps = tuple(solution.noise.get(f"steps.{k}") for k in range(sampler.num_steps))
    noise = Noise(solution.noise["initial"].to(device), tuple(n if n is None else n.to(device) for n in steps))
    settings = solution.settings
    problem = Problem(
        sampler, loss, noise, condition, settings.loss_scale, settings.gradient_mode, settings.memory_limit
    )
    solver.check(problem)
    best = from_tensors(Kept, to_tensors(solution.best), "", device)
    unguided = solution.unguided.to(device)
    return replace(solution, best=best, unguided=unguided, state=state, problem=problem, solver=solver)


def _old_manifest(folder: Path) -> dict[str, Any]:
    try:
        found = json.loads((folder / MANIFEST).read_text())
    except FileNotFoundError:
        return {}
    except (OSError, ValueError):
        found = None
    return found if isinstance(found, dict) else {"run": "unreadable"}


def _state_tensors(folder: Path) -> dict[str, Tensor]:
    from safetensors.torch import load_file

    found: dict[str, Tensor] = load_file(folder / Path(json.loads((folder / MANIFEST).read_text())["tensors"]).name)
    return found


def _under(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}


def _is_picture(batch: Tensor) -> bool:
    return batch.dim() == 4 and batch.shape[1] == 3 and bool((batch >= -1e-3).all() and (batch <= 1 + 1e-3).all())


def _pictures(solution: Solution) -> dict[str, tuple[Tensor, dict[str, str]]]:
    found: dict[str, tuple[Tensor, dict[str, str]]] = {}
    for kind, batch in (("guided", solution.images), ("unguided", solution.unguided)):
        for i in range(len(batch)):
            if not _is_picture(batch[i : i + 1]):
                continue
            about: dict[str, Any] = {
                "prompt": solution.prompts[i],
                "seed": solution.seeds[i],
                "kind": kind,
                "run": solution.run,
            }
            about |= {"loss": float(solution.loss[i])} if kind == "guided" else {}
            about |= {"recipes": json.dumps(dict(solution.recipes)), "guideflow": _versions()["guideflow"]}
            metadata = {f"guideflow:{name}": str(value) for name, value in about.items()}
            found[f"{kind}-{i:02d}.png"] = (batch[i], metadata)
    return found


def _write_tensors(path: Path, solution: Solution) -> None:
    from safetensors.torch import save as serialise

    tensors = {"unguided": solution.unguided.cpu().contiguous(), **to_tensors(solution.state, "state.")}
    tensors |= {**to_tensors(solution.kept, "kept."), **to_tensors(solution.best, "best.")}
    tensors |= {f"history.{name}": column.contiguous() for name, column in solution.history.items()}
    tensors |= {f"noise.{name}": value.cpu().contiguous() for name, value in solution.noise.items()}
    tensors |= {f"reference.{i:02d}": ref.detach().cpu().contiguous() for i, ref in enumerate(solution.references)}
    # Two names may share memory (kept is best), which safetensors refuses.
    _replace(path, serialise({name: value.clone() for name, value in tensors.items()}))


def _write_history(path: Path, solution: Solution) -> None:
    partial = path.with_name(path.name + ".part")
    with partial.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["iteration", "image", *solution.history])
        columns = [column.tolist() for column in solution.history.values()]
        for iteration in range(len(columns[0])):
            for i in range(len(solution.result)):
                writer.writerow([iteration, i, *(f"{column[iteration][i]:.9g}" for column in columns)])
    os.replace(partial, path)


def _replace(path: Path, content: bytes) -> None:
    partial = path.with_name(path.name + ".part")
    with partial.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    os.replace(partial, path)


def _versions() -> dict[str, str]:
    try:
        ours = version("guideflow")
    except PackageNotFoundError:
        ours = "not installed"
    return {"guideflow": ours, "torch": torch.__version__, "python": platform.python_version()}
