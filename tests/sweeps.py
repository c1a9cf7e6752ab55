"""Folders as `guideflow sweep` writes them, with real pictures, for tests of what comes after."""

import json

import pyarrow
import torch
from pyarrow import parquet

import guideflow as gf
import guideflow_avatars
from guideflow import images

CORRUPT = b"\x89PNG\r\n\x1a\n and then nothing"
PROMPT = "a person in a red shirt, blue background"
SCHEMA = pyarrow.schema(
    [
        *((name, pyarrow.string()) for name in ("job", "status", "error", "sampler", "loss", "solver", "options")),
        *((name, pyarrow.string()) for name in ("config", "reference", "prompt")),
        ("seed", pyarrow.int64()),
        ("loss_value", pyarrow.float64()),
        ("terms", pyarrow.string()),
        ("seconds", pyarrow.float64()),
        ("network_evaluations", pyarrow.int64()),
        ("peak_memory", pyarrow.int64()),
        *((name, pyarrow.string()) for name in ("image", "unguided", "guideflow", "weights")),
    ]
)


def write(folder, rows, name="results.parquet"):
    """Write rows as a table of a sweep."""
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    parquet.write_table(pyarrow.Table.from_pylist(rows, schema=SCHEMA), path)
    return folder


def options(scale, loss="avatars-identity", **more):
    """What a sweep writes about a configuration."""
    return {
        "sampler": {"name": "avatars-instaflow", "options": {}},
        "loss": [{"weight": 1.0, "name": loss, "options": {"reference": "{reference}", **more}}],
        "solver": {"name": "flowgrad", "options": {"scale": scale, "decay": 0.0}},
        "solve": {"max_iterations": 1},
    }


def row(number, config, reference="", prompt="", seed=0, **more):
    """One job that is done, of made-up numbers."""
    return {
        "job": f"{number:032x}",
        "status": "done",
        "error": "",
        "sampler": "avatars-instaflow",
        "loss": "avatars-identity",
        "solver": "flowgrad",
        "options": json.dumps(options(1.0)),
        "config": config,
        "reference": str(reference),
        "prompt": prompt,
        "seed": seed,
        "loss_value": 0.5,
        "terms": "{}",
        "seconds": 1.0,
        "network_evaluations": 20,
        "peak_memory": 10**9,
        "image": f"pictures/{number}.png",
        "unguided": f"pictures/plain-{number}.png",
        "guideflow": "0.1.0",
        "weights": "{}",
        **more,
    }


def solved(folder, people=("ada", "ben"), scales=(0.5, 4.0), seeds=(0,)):
    """Guide people in two strengths by `avatars-identity`, and write what a sweep would; one job more has failed."""
    sampler, rows = gf.load_sampler("avatars-instaflow"), []
    for scale in scales:
        for person in people:
            loss = gf.load_loss("avatars-identity", reference=guideflow_avatars.portrait(person))
            solution = gf.solve(
                sampler,
                loss,
                prompt=PROMPT,
                seed=[*seeds],
                solver=gf.FlowGrad(scale=scale),
                max_iterations=1,
                candidates=1,
            )
            for i, seed in enumerate(seeds):
                made = row(
                    len(rows),
                    f"{scale:g}",
                    f"package:guideflow_avatars/portraits/{person}.png",
                    PROMPT,
                    seed,
                    options=json.dumps(options(scale)),
                    loss_value=float(solution.loss[i]),
                    seconds=solution.stats["seconds"] / len(seeds),
                )
                images.save_image(folder / made["image"], solution.images[i])
                images.save_image(folder / made["unguided"], solution.unguided[i])
                rows.append(made)
    lost = row(len(rows), f"{scales[-1]:g}", "nobody.png", PROMPT, options=json.dumps(options(scales[-1])))
    rows.append(lost | {"status": "failed", "error": "InvalidImage: There is no file nobody.png.", "image": None})
    return write(folder, rows)


def drawn(folder, configs=("one", "two"), people=2, seeds=2, **more):
    """Write a sweep of small pictures of noise, without any network."""
    rows, generator = [], torch.Generator().manual_seed(0)
    for config in configs:
        for person in range(people):
            reference = folder / f"person-{person}.png"
            if not reference.exists():
                images.save_image(reference, torch.rand(1, 3, 16, 16, generator=generator))
            for seed in range(seeds):
                made = row(len(rows), config, reference, "a <b>person</b>", seed, options="{}", solver=config)
                for name in ("image", "unguided"):
                    images.save_image(folder / made[name], torch.rand(1, 3, 16, 16, generator=generator))
                rows.append(made | {"sampler": "toy-mixture", "loss": "red.py:red"} | more)
    return write(folder, rows), rows
