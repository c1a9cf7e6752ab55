"""The avatars world with its real weights: the main job end to end."""

import pytest
import torch

import guideflow as gf
import guideflow_avatars as avatars
from exact import exact_identity
from guideflow.errors import InvalidArgument, InvalidImage
from guideflow.testing import check_loss
from guideflow_avatars import judges
from guideflow_avatars.identity import AvatarsIdentity
from guideflow_avatars.words import WORDS, asked_attributes, unknown_words

PROMPT = "a person with a yellow t-shirt, purple background"


@pytest.fixture(scope="module")
def sampler():
    return gf.load_sampler("avatars-perflow")


@pytest.fixture(scope="module")
def exact_sampler():
    return gf.load_sampler("avatars-perflow", dtype="float64", image_size=64)


@pytest.fixture(scope="module")
def solution(sampler):
    loss = gf.load_loss("avatars-identity", reference=avatars.portrait("ada"))
    return gf.solve(sampler, loss, prompt=PROMPT, seed=[0, 1, 2, 3], max_iterations=12)


def reference(name="ada"):
    return gf.images.read_image(avatars.portrait(name))


def test_guided_pictures_become_the_person_for_a_judge_that_did_not_steer(solution):
    before = judges.identity_similarity(solution.unguided, reference())
    after = judges.identity_similarity(solution.images, reference())
    assert (after > before).all()
    assert after.mean() - before.mean() > 0.3
    others = [judges.identity_similarity(solution.images, reference(name)).mean() for name in ("ben", "cleo", "gus")]
    assert after.mean() > max(others) + 0.2


def test_guided_pictures_keep_to_the_prompt(solution):
    before = judges.prompt_accuracy(solution.unguided, solution.prompts).mean()
    after = judges.prompt_accuracy(solution.images, solution.prompts).mean()
    assert after >= 0.75
    assert after >= before - 0.15


def test_seeds_stay_different_pictures(solution):
    flat = solution.images.flatten(1)
    assert torch.pdist(flat).min() > 0.05 * flat.shape[1] ** 0.5


def test_unguided_pictures_obey_the_prompt(sampler):
    prompts = [
        "a person with a yellow t-shirt, purple background",
        "a smiling person in a red shirt, blue background",
        "a person with a green dress, orange background",
        "an angry person in a black turtleneck, white background",
    ]
    images = gf.solve(
        sampler,
        lambda x: x.mean((1, 2, 3)),
        prompt=[p for p in prompts for _ in range(2)],
        seed=range(8),
        max_iterations=0,
        candidates=1,
    ).images
    assert judges.prompt_accuracy(images, [p for p in prompts for _ in range(2)]).mean() >= 0.8


@pytest.mark.parametrize("solver", ["anchored", "unanchored", "noise-descent", "flowgrad"])
def test_a_batch_equals_single_solves(exact_sampler, solver):
    sampler, loss = exact_sampler, exact_identity("ben")
    prompts = [PROMPT, "a person in a red shirt, blue background"]
    together = gf.solve(sampler, loss, prompt=prompts, seed=[3, 4], solver=solver, max_iterations=2)
    for i, prompt in enumerate(prompts):
        alone = gf.solve(sampler, loss, prompt=prompt, seed=3 + i, solver=solver, max_iterations=2)
        assert (alone.latents[0] - together.latents[i]).norm() < 1e-9 * alone.latents.norm()


def test_identity_conforms():
    check_loss(lambda: AvatarsIdentity(avatars.portrait("ada")), image_size=128)


def test_reference_has_no_distance_to_itself_and_others_have():
    loss = AvatarsIdentity(avatars.portrait("ada"))
    values = loss(torch.cat([reference("ada"), reference("gus"), reference("cleo")]))
    assert values[0] < 1e-5
    assert values[1:].min() > 0.3


def test_several_references_average_on_the_sphere():
    one, two = AvatarsIdentity(reference("ada")), AvatarsIdentity(reference("eve"))
    both = AvatarsIdentity([avatars.portrait("ada"), reference("eve")])
    picture = reference("hana")
    embedding = one.embed(picture)[0]
    target = one.embed(reference("ada"))[0] + two.embed(reference("eve"))[0]
    expected = 1 - torch.nn.functional.cosine_similarity(embedding, target, dim=0)
    torch.testing.assert_close(both(picture)[0], expected)
    assert len(both.references()) == 2


def test_other_picture_sizes_are_resized():
    large = torch.nn.functional.interpolate(reference(), (256, 256), mode="bicubic").clamp(0, 1)
    assert AvatarsIdentity(reference())(large).item() < 0.1


@pytest.mark.parametrize("bad", [[], torch.zeros(1, 4, 128, 128), torch.full((3, 128, 128), 2.0)])
def test_useless_references_are_refused(bad):
    with pytest.raises(InvalidImage):
        AvatarsIdentity(bad)


def test_unknown_portrait_names_the_known_ones():
    with pytest.raises(InvalidArgument, match="'ada', 'ben'"):
        avatars.portrait("nobody")


@pytest.mark.parametrize(
    ("prompt", "asked"),
    [
        (
            "an angry person wearing a blue t-shirt, orange background",
            {"background": "orange", "clothes": "t-shirt", "colour": "blue", "expression": "angry"},
        ),
        ("a person in a shirt", {"clothes": "shirt"}),
        ("A  Cheerful guy in a GREY sweater", {"expression": "smiling", "colour": "grey", "clothes": "turtleneck"}),
        (
            "long, messy dark blond hair and tanned skin",
            {"hair": "spiky", "hair colour": "sandy", "rear hair": "long straight", "skin": "tan"},
        ),
        ("a black-haired woman with a bun", {"hair": "bun", "hair colour": "black"}),
        ("a man without a beard in front of a violet wall", {"beard": "none", "background": "purple"}),
        ("a long beard, one eye closed, black clothes", {"beard": "long beard", "eyes": "winking", "colour": "black"}),
        ("a shirtless person in an address book, a red face", {}),  # words inside words, colours of nothing
        ("somebody", {}),
        ("", {}),
    ],
)
def test_prompts_are_read_for_what_they_ask(prompt, asked):
    assert asked_attributes(prompt) == asked


def test_the_classifier_tells_apart_what_words_there_are():
    assert judges.attribute_words() == {name: tuple(words) for name, words in WORDS.items()}
    assert len(WORDS) == 10


def test_judge_and_guidance_networks_are_unrelated():
    from guideflow_avatars.identity import WEIGHTS, load_recogniser

    steering, judging = load_recogniser(WEIGHTS / "identity"), load_recogniser(WEIGHTS / "evaluation" / "identity")
    assert type(steering) is not type(judging)


@pytest.mark.parametrize(
    ("prompt", "unknown"),
    [
        ("a smiling person with a yellow t-shirt, purple background", {}),
        ("portrait of a dark-skinned man, long grey hair, goatee, Orange tee", {}),
        ("", {}),
        ("a smilling woman in Paris, 4", {"smilling": ("smiling",), "paris": ()}),
        ("a gril with blond hiar", {"gril": ("girl",), "hiar": ("hair",)}),
    ],
)
def test_words_that_mean_nothing_here_are_found(prompt, unknown):
    assert unknown_words(prompt) == unknown


def test_unknown_words_are_warned_of_once_for_all_prompts():
    sampler = gf.load_sampler("avatars-turbo", num_steps=1)
    with pytest.warns(
        UserWarning, match=r"words it does not know: 'hat', 'smilling' \(near: smiling\)\. Its words"
    ) as seen:
        sampler.condition(["a person in a hat", "a smilling person in a hat"])
    assert len(seen) == 1
    sampler.replace(image_size=64).condition(["a smiling person"])
    with pytest.warns(UserWarning, match="'zebra'"):
        sampler.replace(image_size=64).condition(["a zebra"])
