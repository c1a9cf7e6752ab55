"""Numbers that are given as options: ends of ranges, and whole numbers that fit nowhere."""

from inspect import unwrap
from typing import Any

import pytest
import torch

import guideflow as gf
from guideflow import solvers
from guideflow._devices import as_device
from guideflow._given import as_size, as_text, as_texts, count, in_range
from guideflow.app.choices import Asked
from guideflow.app.fields import Field
from guideflow.errors import InvalidArgument
from guideflow.settings import Settings

HUGE = [2**63, 2**64, -(10**400), 10**5000]


@pytest.mark.parametrize(
    ("ends", "inside", "says"),
    [
        ("[)", [0, 0.5], r"in \[0, 1\)"),
        ("[]", [0, 1, 1.0], r"in \[0, 1\]"),
        ("(]", [1e-300, 1], r"in \(0, 1\]"),
        ("()", [0.5], r"in \(0, 1\)"),
    ],
)
def test_ends_of_a_range_are_in_or_out_as_its_message_says(ends: str, inside: list[float], says: str) -> None:
    outside: list[Any] = [-1e-9, 1 + 1e-9, 1 + 1e-12, float("nan"), float("inf"), "1", True, None]
    for value in inside:
        in_range("share", value, 0, 1, ends=ends)
    for value in [*outside, *({0, 1} - set(inside))]:
        with pytest.raises(InvalidArgument, match=f"Got share=.*Expected a finite number {says}.$"):
            in_range("share", value, 0, 1, ends=ends)


def test_a_range_without_an_end_says_whether_it_begins_at_its_number() -> None:
    with pytest.raises(InvalidArgument, match=r"finite number of at least 0\.$"):
        in_range("scale", -1, 0)
    with pytest.raises(InvalidArgument, match=r"finite number above 0\.$"):
        in_range("scale", 0, 0, ends="()")


@pytest.mark.parametrize(
    "make",
    [
        lambda share: gf.Auto(polish=share),
        lambda share: solvers.Polished(share=share),
        lambda share: solvers.FlowGrad(clip=share),
        lambda share: solvers.BestOf(radius=share),
        lambda share: Settings(
            prompts=("",), negative_prompts=None, seeds=(0,), max_iterations=1, horizon=1, candidate_radius=share
        ),
    ],
)
def test_shares_take_one_and_nothing_above_it(make: Any) -> None:
    make(1)
    for share in (1 + 1e-10, -1e-10):
        with pytest.raises(InvalidArgument, match=r"finite number in [\[(]0, 1\]"):
            make(share)


@pytest.mark.parametrize("given", HUGE, ids=["63 bits", "64 bits", "400 digits", "5000 digits"])
def test_a_whole_number_that_fits_nowhere_is_refused_in_a_line(given: int) -> None:
    def solve(**options: Any) -> Any:
        return unwrap(gf.solve)(gf.load_sampler("toy-mixture"), lambda x: x.flatten(1).mean(1), **options)

    refuse: list[Any] = [
        lambda: in_range("scale", given),
        lambda: count("draws", given),
        lambda: as_size(given),
        lambda: as_device(given),
        lambda: gf.Anchored(scale=given),
        lambda: gf.load_sampler("toy-mixture", image_size=given),
        lambda: gf.images.fit(torch.rand(1, 3, 8, 8), given),
        lambda: gf.losses.as_loss(lambda x: x.flatten(1).mean(1)) * given,
        *(lambda name=name: solve(**{name: given}) for name in ("loss_scale", "time_limit", "patience", "candidates")),
        lambda: Asked("", (), "", {}, {"clip": given}, "", "", "0")._weight("clip"),
        lambda: Field("scale", "number", 1.0).read(given),
        lambda: Field("draws", "whole", 1).read(given),
    ]
    for refused in refuse:
        with pytest.raises(InvalidArgument) as error:
            refused()
        assert len(str(error.value)) < 400
    if not -(2**63) <= given < 2**64:
        with pytest.raises(InvalidArgument, match="in `seed`"):
            solve(seed=given)


@pytest.mark.parametrize("name", ["prompt", "negative_prompt"])
def test_texts_in_another_encoding_are_refused_with_what_to_type(name: str) -> None:
    with pytest.raises(InvalidArgument, match=f"`{name}`, which holds bytes of another encoding") as caught:
        gf.solve(gf.load_sampler("toy-mixture"), lambda x: x.flatten(1).mean(1), **{name: "caf\udce9"})
    assert "export LC_ALL=C.UTF-8" in caught.value.typed and "iconv" in caught.value.typed
    with pytest.raises(InvalidArgument, match="`text`, which holds bytes"):
        as_texts("text", ["a", "caf\udce9"])


def test_texts_in_utf8_are_read_in_every_locale() -> None:
    bytes_as_python_hands_them_on = "caf\udcc3\udca9"
    assert as_text("prompt", bytes_as_python_hands_them_on) == "caf\u00e9" == as_text("prompt", "caf\u00e9")
    solution = gf.solve(
        gf.load_sampler("toy-mixture"),
        lambda x: x.flatten(1).mean(1),
        prompt=bytes_as_python_hands_them_on,
        max_iterations=0,
    )
    assert solution.prompts == ("caf\u00e9",)
