"""Images of several references in one batch: each is guided by its own loss, as if it was alone."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

import guideflow as gf
from guideflow.errors import InvalidLoss
from guideflow.losses.by_image import by_image, outline
from guideflow.losses.sharing import shared, sharing
from guideflow.sweep import Plan, read, sweep
from guideflow.sweep.reading import parse_spec
from guideflow.sweep.worker import Worker


class Near(gf.Loss):
    """Squared distance to a number, and what it was asked."""

    name = "near"

    def __init__(self, target: float) -> None:
        self.target, self.seen = target, list[int]()

    def __call__(self, image: torch.Tensor) -> torch.Tensor:
        self.seen.append(len(image))
        return (image - self.target).square().flatten(1).mean(1)


def total(target: float) -> gf.Loss:
    return 2 * Near(target) + 0.5 * gf.as_loss(lambda x: (x - target).abs().flatten(1).mean(1), "far").scheduled(
        start=1, fade_in=2, before=0.5
    )


@pytest.mark.parametrize("solver", ["auto", "anchored", "noise-descent", "tfg"])
def test_each_image_is_guided_by_its_own_loss_alone(solver: str) -> None:
    sampler = gf.load_sampler("toy-mixture", size=8, num_steps=3, dtype="float64")
    losses, asked = [total(t) for t in (0.2, 0.9)], {"solver": solver, "max_iterations": 3, "candidates": 2}
    chosen = [losses[i] for i in (0, 1, 0)]
    found = gf.solve(sampler, by_image(chosen), prompt=["red disc", "blue ring", "blue disc"], seed=[1, 2, 3], **asked)
    assert set(found.history) == {"loss", "near", "far", "gradient_norm", "control_norm"}
    for i, (prompt, seed) in enumerate((("red disc", 1), ("blue ring", 2), ("blue disc", 3))):
        alone = gf.solve(sampler, chosen[i], prompt=prompt, seed=seed, **asked)
        torch.testing.assert_close(found.images[i], alone.images[0], rtol=1e-9, atol=1e-12)
        for name in ("loss", "near", "far"):
            torch.testing.assert_close(found.history[name][:, i], alone.history[name][:, 0], rtol=1e-9, atol=1e-12)


def test_gradients_and_order_are_exact() -> None:
    losses = [Near(t) for t in (0.0, 1.0, 0.5)]
    joint = by_image([losses[i] for i in (2, 0, 1, 0)])
    images = torch.rand(4, 3, 2, 2, dtype=torch.float64, requires_grad=True)
    targets = torch.tensor([0.5, 0.0, 1.0, 0.0], dtype=torch.float64)[:, None, None, None]
    (gradient,) = torch.autograd.grad(joint.evaluate(images).objective.sum(), images)
    torch.testing.assert_close(gradient, 2 * (images - targets) / 12, rtol=0, atol=1e-15)
    assert [loss.seen for loss in losses] == [[2], [1], [1]], "one evaluation for all images of a loss"
    with pytest.raises(InvalidLoss, match="Got 3 images for the losses of 4"):
        joint(images[:3])
    same = gf.as_loss(losses[0])
    assert by_image([same, same]) is same


def test_losses_of_other_terms_are_refused_and_terms_of_one_alone_are_nan() -> None:
    with pytest.raises(InvalidLoss, match=r"other terms for the images of a batch: near; 2 \* near"):
        by_image([Near(0.0), 2 * Near(0.0)])
    assert outline(total(0.1)) == outline(total(0.9)) != outline(Near(0.1))
    inner = [(Near(0.0) + Near(1.0)).named("both"), Near(0.5).named("both")]
    found = by_image(inner).evaluate(torch.zeros(2, 3, 2, 2))
    assert found.terms["near-2"][0] == 1 and found.terms["near-2"][1].isnan() and not found.loss.isnan().any()


def test_what_is_shared_is_loaded_once_for_the_same_words_and_only_there() -> None:
    calls = list[str]()

    @shared
    def load(name: str, size: int = 1, network: Any = None) -> torch.nn.Module:
        calls.append(name)
        return torch.nn.Linear(size, 1)

    assert load("a") is not load("a")
    store: dict[str, Any] = {}
    with sharing(store):
        assert load("a") is load(name="a") is not load("a", 2)
        assert load("a", network=torch.nn.Identity()) is not load("a", network=torch.nn.Identity())
    with sharing({}):
        assert load("a") not in store.values()
    assert len(calls) == 2 + 2 + 2 + 1 and len(store) == 2


SPEC = """
sampler: avatars-instaflow
loss: {terms: [{name: avatars-identity}, {name: avatars-style, weight: 0.2}]}
solver: {name: anchored}
solve: {max_iterations: 1, candidates: 1}
references: [ada.png, ben.png, cleo.png, broken.png]
prompts: [a person in a red shirt]
"""


@pytest.mark.slow
def test_people_are_solved_together_on_networks_that_are_loaded_once(tmp_path: Path, monkeypatch: Any) -> None:
    import guideflow_avatars
    from guideflow_avatars import identity

    monkeypatch.chdir(tmp_path)
    for name in ("ada", "ben", "cleo"):
        Path(f"{name}.png").write_bytes(guideflow_avatars.portrait(name).read_bytes())
    Path("broken.png").write_bytes(b"no picture")
    loads, load = list[Any](), identity.load_recogniser
    monkeypatch.setattr(identity, "load_recogniser", lambda folder: loads.append(made := load(folder)) or made)
    worker = Worker()
    (batch,) = Plan(parse_spec(SPEC)).batches()
    together = {row["reference"]: row for row in worker.finish(batch).rows}
    assert len(loads) == 3 and len(set(map(id, loads))) == 1, "asked for by each, and loaded once"
    assert together["broken.png"]["status"] == "failed" and "not an image" in together["broken.png"]["error"]
    assert {row["batch"] for row in together.values() if row["status"] == "done"} == {3}
    sweep(parse_spec(SPEC + "batch: 1\n"), "alone")
    for alone in read("alone").to_pylist():
        row = together[alone["reference"]]
        assert (row["job"], row["status"], row["weights"] if row["status"] == "done" else None) == (
            alone["job"], alone["status"], alone["weights"]
        )  # fmt: skip
        if row["status"] == "done":
            assert row["loss_value"] == pytest.approx(alone["loss_value"], rel=1e-4)
            assert json.loads(row["terms"]) == pytest.approx(json.loads(alone["terms"]), rel=1e-3)
            assert json.loads(row["terms"]).keys() == {"avatars-identity", "avatars-style"}
