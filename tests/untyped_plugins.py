"""Samplers, losses and solvers of others that return anything: refused by name, with what was reached before."""

import re
from asyncio import CancelledError
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch

import guideflow as gf
from guideflow import registry
from guideflow.errors import BrokenPlugin, GuideflowError, InvalidArgument, InvalidImage, InvalidLoss, OutOfMemory
from guideflow.losses.evaluation import Evaluation
from guideflow.solvers import State
from guideflow.toy import ToyMixture
from problems import Distance, mixture, target

PREVIEWED = gf.solvers.Previewed(gf.solvers.Universal())


def solve(sampler: Any = None, **options: Any) -> gf.Solution:
    loss = options.pop("loss", None) or Distance(target(mixture()))
    return gf.solve(sampler or mixture(), loss, seed=[0, 1], max_iterations=3, **options)


def _rollout(**parts: Any) -> Callable[[State], Any]:
    return lambda state: replace(state, rollout=replace(state.rollout, **parts))


STATES: dict[str, Callable[[State], Any]] = {
    "class is NoneType": lambda state: None,
    "class is tuple": lambda state: (state, state),
    "iteration is": lambda state: replace(state, iteration=7),
    r"iteration is \d.0": lambda state: replace(state, iteration=float(state.iteration)),  # type: ignore[arg-type]
    "z0 is not": lambda state: replace(state, z0=state.z0[:1]),
    "z0 is not .* torch.float64": lambda state: replace(state, z0=state.z0.float()),
    "controls are not": lambda state: replace(state, controls=state.controls[:1]),
    "rollout is a NoneType": lambda state: replace(state, rollout=None),  # type: ignore[arg-type]
    "rollout has not 2 losses": lambda state: _rollout(loss=state.rollout.loss[:1])(state),
    "rollout has other images": _rollout(images=None),
    "memory is a list": lambda state: replace(state, memory=[1]),  # type: ignore[arg-type]
    "remembers something as 3": lambda state: replace(state, memory={3: state.z0}),  # type: ignore[dict-item]
}


@pytest.mark.parametrize("at", [0, 2])
@pytest.mark.parametrize("says", STATES)
def test_a_wrong_state_is_refused(says: str, at: int) -> None:
    class Wrong(gf.Anchored):
        def init(self, problem: Any) -> Any:
            return super().init(problem) if at else STATES[says](super().init(problem))

        def step(self, problem: Any, state: Any) -> Any:
            found = super().step(problem, state)
            return STATES[says](found) if found.iteration == at else found

    with pytest.raises(InvalidArgument, match=says) as caught:
        solve(solver=Wrong(), candidates=1)
    if at:
        assert caught.value.solution.state.iteration == at - 1  # type: ignore[attr-defined]


def test_a_solver_that_stays_where_it_was_does_not_run_for_ever() -> None:
    class Stays(gf.Anchored):
        def step(self, problem: Any, state: Any) -> Any:
            return state

    with pytest.raises(InvalidArgument, match="iteration is 0 and not 1"):
        solve(solver=Stays())


@pytest.mark.parametrize(
    ("method", "act"),
    [
        ("decode", lambda x: x[:1]),
        ("decode", lambda x: x[0]),
        ("decode", lambda x: None),
        ("decode", list),
        ("decode", lambda x: (255 * x).byte()),
        ("decode", lambda x: x.to(torch.complex64)),
        ("step", lambda x: x[:1]),
        ("step", lambda x: x[..., 1:]),
        ("step", lambda x: (x,)),
        ("step", lambda x: x.long()),
    ],
)
@pytest.mark.parametrize("candidates", [1, 2])
def test_a_wrong_answer_of_a_sampler_is_refused(method: str, act: Any, candidates: int) -> None:
    def wrong(self: Any, *given: Any) -> Any:
        return act(getattr(ToyMixture, method)(self, *given))

    wrong_one = type("Wrong", (ToyMixture,), {method: wrong})(size=6, num_steps=3)
    with pytest.raises(InvalidArgument, match=f"The sampler Wrong returned .* from `{method}`"):
        solve(wrong_one, candidates=candidates)


@pytest.mark.parametrize(
    ("name", "given"), [("num_steps", 0), ("num_steps", 1.5), ("latent_shape", None), ("latent_shape", (-1, 6, 6))]
)
def test_a_sampler_without_steps_or_a_size_is_refused(name: str, given: Any) -> None:
    sampler = mixture()
    odd = type("Odd", (ToyMixture,), {name: property(lambda self: given, lambda self, value: None)})
    with pytest.raises(InvalidArgument, match=f"The sampler Odd has .*{name}="):
        solve(odd(size=6, num_steps=sampler.num_steps))


def test_a_sparse_loss_is_refused() -> None:
    with pytest.raises(InvalidLoss, match="sparse"):
        solve(loss=gf.as_loss(lambda image: image.flatten(1).mean(1).to_sparse(), "thin"))


@pytest.mark.parametrize("error", [MemoryError(), torch.cuda.OutOfMemoryError("CUDA out of memory.")], ids=repr)
@pytest.mark.parametrize("at", [1, 2])
def test_memory_that_runs_out_while_a_start_is_chosen(error: Exception, at: int) -> None:
    calls: Sequence[None] = []

    def greedy(image: Any) -> Any:
        calls.append(None)  # type: ignore[attr-defined]
        if len(calls) >= at:
            raise error
        return image.flatten(1).mean(1)

    with pytest.raises(OutOfMemory, match="for the pictures alone") as caught:
        solve(loss=gf.as_loss(greedy, "greedy"), candidates=3)
    assert (getattr(caught.value, "solution", None) is None) == (at == 1), "what was chosen before is kept"
    assert isinstance(caught.value, GuideflowError)


@pytest.mark.parametrize(
    ("method", "act", "says"),
    [
        ("predict", lambda x: None, "a NoneType from `predict`"),
        ("predict", lambda x: (x,), "a tuple from `predict`"),
        ("predict", lambda x: x[:1], r"\(1, 3, 6, 6\) from `predict`"),
        ("predict", lambda x: x.long(), "torch.int64 .* from `predict`"),
        ("prepare", lambda x: None, "a NoneType from `prepare`"),
        ("prepare", lambda x: x[..., :3], "from `prepare`"),
        (
            "decode",
            lambda x: x.permute(0, 2, 3, 1),
            r"from `decode`.* \(2, 3, 6, 6\): end with `.permute\(0, 3, 1, 2\)`",
        ),
        ("decode", lambda x: torch.cat([x, x], 3), r"from `decode`, and its image_size is \(6, 6\)"),
        ("decode", lambda x: x[..., ::2], r"from `decode`, and its image_size is \(6, 6\)"),
        ("preview", lambda x: x.permute(0, 2, 3, 1), "from `preview`"),
    ],
)
def test_what_is_no_state_or_picture_is_refused_by_name(method: str, act: Any, says: str) -> None:
    def wrong(self: Any, *given: Any) -> Any:
        return act(getattr(ToyMixture, method)(self, *given))

    sampler = type("Wrong", (ToyMixture,), {method: wrong})(size=6, num_steps=3)
    with pytest.raises(InvalidArgument, match=f"The sampler Wrong returned .*{says}"):
        solve(sampler, candidates=1, solver=PREVIEWED if method == "preview" else "anchored")


def test_a_preview_may_be_of_another_size() -> None:
    small = type("Small", (ToyMixture,), {"preview": lambda self, z: self.decode(z)[..., ::2, ::2]})
    seen: list[Any] = []

    def loss(image: Any) -> Any:
        seen.append(tuple(image.shape[2:]))
        return image.flatten(1).mean(1)

    solve(small(size=6, num_steps=3), loss=loss, candidates=1, solver=PREVIEWED)
    assert {*seen} == {(3, 3), (6, 6)}


def test_a_wrong_encoding_of_a_start_is_refused() -> None:
    odd = type("Odd", (ToyMixture,), {"encode": lambda self, image: None})
    with pytest.raises(InvalidArgument, match="The sampler Odd returned a NoneType from `encode`"):
        solve(odd(size=6, num_steps=3), start=torch.rand(3, 6, 6), strength=0.5)


@pytest.mark.parametrize("start", [None, torch.full((3, 6, 6), 0.5)], ids=["noise", "picture"])
@pytest.mark.parametrize(
    ("name", "given"),
    [
        *(("device", one) for one in ("cpu", None, 0)),
        *(("dtype", one) for one in ("float32", None, torch.int64)),
        *(("image_size", one) for one in (None, 6, (6, 6, 3), (6.0, 6), (0, 6))),
        *(("stochastic", one) for one in (None, True, (False,))),
        ("num_steps", None),
        ("latent_shape", None),
    ],
)
def test_what_a_sampler_says_of_itself_is_looked_at(name: str, given: Any, start: Any) -> None:
    odd = type("Odd", (ToyMixture,), {name: property(lambda self: given, lambda self, value: None)})
    with pytest.raises(InvalidArgument, match=f"The sampler Odd has .*{name}="):
        sampler = object.__new__(odd)
        vars(sampler).update(vars(mixture()))
        solve(sampler, **({} if start is None else {"start": start, "strength": 0.5}))


ROLLOUTS: dict[str, dict[str, Any]] = {
    "rollout has the terms other where the loss has distance": {"terms": {"other": torch.zeros(2)}},
    "rollout has the terms  where": {"terms": {}},
    "rollout has a NoneType of terms": {"terms": None},
    "rollout has other end points": {"end_points": None},
    "rollout has other gradients": {"gradients": torch.zeros(2)},
    r"rollout counts \(None, 0\) evaluations": {"evaluations": None},
}


@pytest.mark.parametrize("at", [0, 2])
@pytest.mark.parametrize("says", ROLLOUTS)
def test_a_wrong_rollout_is_refused(says: str, at: int) -> None:
    class Wrong(gf.Anchored):
        def init(self, problem: Any) -> Any:
            found = super().init(problem)
            return found if at else _rollout(**ROLLOUTS[says])(found)

        def step(self, problem: Any, state: Any) -> Any:
            found = super().step(problem, state)
            return _rollout(**ROLLOUTS[says])(found) if found.iteration == at else found

    with pytest.raises(InvalidArgument, match=says):
        solve(solver=Wrong(), candidates=1)


@pytest.mark.parametrize(
    ("found", "says"),
    [
        (None, "NoneType from `evaluate`"),
        (torch.zeros(2), "Tensor from `evaluate`"),
        (Evaluation(torch.zeros(2), torch.zeros(2), None), "terms as a NoneType"),  # type: ignore[arg-type]
        (Evaluation(torch.zeros(2), torch.zeros(2), {"a": 3}), "of which 'a' returned a int"),  # type: ignore[dict-item]
    ],
)
def test_a_wrong_evaluation_of_a_loss_is_refused(found: Any, says: str) -> None:
    class Wrong(gf.Loss):
        def __call__(self, image: Any) -> Any:
            return image.flatten(1).mean(1)

        def evaluate(self, images: Any, iteration: Any = None) -> Any:
            return found

    with pytest.raises(InvalidLoss, match=says):
        solve(loss=Wrong())


@pytest.mark.parametrize("found", [None, 3, ["a.png"], [torch.zeros(3)]], ids=repr)
def test_references_that_cannot_be_saved_are_refused_before_the_work(found: Any, tmp_path: Any) -> None:
    class Wrong(Distance):
        def references(self) -> Any:
            return found

    calls: list[Any] = []
    with pytest.raises(InvalidLoss, match="from `references`"):
        solve(loss=Wrong(target(mixture())), save_to=tmp_path / "run", callback=calls.append)
    assert not calls


@pytest.mark.parametrize("error", [GeneratorExit, SystemExit, CancelledError, type("Own", (BaseException,), {})])
def test_whatever_a_factory_raises_names_it(error: type[BaseException], tmp_path: Any) -> None:
    start = "from asyncio import CancelledError\nclass Own(BaseException): pass\n"
    (tmp_path / "made.py").write_text(f"{start}class Loss:\n    def __init__(self): raise {error.__name__}('no')\n")
    with pytest.raises(BrokenPlugin, match=r"made.py:Loss' cannot be made with no options: no") as caught:
        gf.load_loss(f"{tmp_path}/made.py:Loss")
    assert type(caught.value.__cause__).__name__ == error.__name__
    (tmp_path / "read.py").write_text(f"{start}raise {error.__name__}('no')\n")
    with pytest.raises(BrokenPlugin, match=r"read.py cannot be imported, line 3"):
        gf.load_loss(f"{tmp_path}/read.py:Loss")


def test_ctrl_c_in_a_factory_is_no_fault_of_the_plugin(monkeypatch: Any) -> None:
    def interrupted(**options: Any) -> Any:
        raise KeyboardInterrupt

    offer = registry.find("loss", "measurement")
    monkeypatch.setattr(type(offer.entry), "resolve", lambda self: interrupted)
    with pytest.raises(KeyboardInterrupt):
        gf.load_loss("measurement")


SHAPES = [(4, 4), (3, 4, 4), (1, 4, 4), (4, 4, 3), (2, 1, 4, 4), (2, 2, 4, 5), (2, 4, 4, 5), (2, 4, 4, 3)]
SHAPES += [(2, 4, 5, 1), (2, 5, 4, 2), (2, 5, 6, 4), (5, 4, 4), (4,), (2, 1, 3, 4, 4), (2, 16, 6, 7)]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_the_cure_for_a_shape_is_one(shape: tuple[int, ...]) -> None:
    with pytest.raises(InvalidImage, match=r"Expected \(batch, 3, height, width\)") as caught:
        gf.check_image(torch.rand(shape))
    typed = re.search("type `(.*)`", str(caught.value))
    assert (typed is None) == (len(shape) not in (2, 3, 4) or shape == (2, 16, 6, 7))
    if typed:
        gf.check_image(eval(typed[1], {"image": torch.rand(shape)}))
