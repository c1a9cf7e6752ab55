"""The identity loss on drawn faces: conformance, gradient, references, policies and errors."""

import pytest
import torch

import guideflow as gf
from drawn_faces import ANN, BOB, CAT, beside, face, nobody
from guideflow.errors import InvalidArgument, InvalidImage
from guideflow.testing import parametrize_loss
from guideflow_identity import Identity, NoFaceFound
from guideflow_identity.dlib import DlibFaces

PICTURES = torch.cat([face(**ANN, size=128), face(**CAT, size=128)])


@pytest.fixture(scope="module")
def backend():
    return DlibFaces()


@pytest.fixture
def make(backend):
    """Make a loss on the backend that is already loaded."""
    return lambda reference, **options: Identity(reference, backend=backend, **options)


def embed(backend, picture):
    found = backend.find(picture, 0.2)[torch.tensor([0])]
    return backend.embed(backend.align(picture, found.image, found.points))


@parametrize_loss(lambda: gf.load_loss("identity", reference=face(**BOB, size=128)), images=PICTURES, name="identity")
def test_conforms(check):
    check()


def test_the_gradient_agrees_with_finite_differences_in_float64():
    loss = Identity(face(**BOB, size=128), backend=DlibFaces((256,)).double())
    x = PICTURES.double().requires_grad_()
    (gradient,) = torch.autograd.grad(loss(x).sum(), x)
    norm = gradient.flatten(1).norm(dim=1)
    step = 1e-6 * gradient / norm.view(-1, 1, 1, 1)
    with torch.no_grad():
        slope = (loss(x + step) - loss(x - step)) / 2e-6
    torch.testing.assert_close(slope, norm, rtol=1e-4, atol=0)


def test_a_picture_of_the_reference_has_loss_zero_and_others_have_more(make):
    loss = make(face(**ANN))
    values = loss(torch.cat([face(**ANN), face(**BOB)]))
    assert values[0] < 1e-6
    assert values[1] > 0.05


def test_several_pictures_of_one_person_are_meant_or_the_nearest_counts(make, backend):
    pictures = [face(**ANN), face(**BOB)]
    x = face(**CAT)
    one, other = (make(picture)(x) for picture in pictures)
    best = make(pictures, same_person=True, combine="best")(x)
    torch.testing.assert_close(best, torch.minimum(one, other))
    mean = make([pictures], combine="mean")
    embeddings = torch.cat([embed(backend, picture) for picture in [*pictures, x]])
    expected = backend.distance(embeddings[2:], embeddings[:2].mean(0, keepdim=True))
    torch.testing.assert_close(mean(x), expected[0])
    assert len(mean.references()) == 2


def test_two_subjects_are_matched_to_two_faces_whatever_their_places(make):
    loss = make([face(**ANN), face(**BOB)])
    both = torch.cat([beside(face(**ANN), face(**BOB)), beside(face(**BOB), face(**ANN))])
    assert (loss(both) < 0.05).all()
    assert loss.outcome.status == (("found", "found"), ("found", "found"))


def test_subjects_from_left_to_right_do_not_change_places(make):
    loss = make([face(**ANN), face(**BOB)], order="left-to-right")
    right, wrong = loss(torch.cat([beside(face(**ANN), face(**BOB)), beside(face(**BOB), face(**ANN))]))
    assert right < 0.05 < wrong


def test_a_face_is_never_used_twice(make):
    loss = make([face(**ANN), face(**ANN)], on_missing="skip")
    alone = loss(face(**ANN))
    assert loss.outcome.status in ((("found", "skipped"),), (("skipped", "found"),))
    torch.testing.assert_close(alone, torch.tensor([1.0]))  # half of nothing and the penalty of 2


def test_only_faces_in_the_region_count(make):
    picture = beside(face(**ANN), face(**BOB))
    left, right = (make(face(**ANN), region=region)(picture) for region in [(0, 0, 0.5, 1), (0.5, 0, 1, 1)])
    assert left < 0.05 < right
    each = make([face(**ANN), face(**BOB)], region=[(0.5, 0, 1, 1), (0, 0, 0.5, 1)])
    each(picture)
    assert (each.outcome.distance > 0.05).all()


def test_a_missing_face_is_skipped_with_a_gradient_of_zero_and_does_not_touch_the_others(make):
    loss = make(face(**ANN), on_missing="skip")
    x = torch.cat([face(**BOB), nobody()]).requires_grad_()
    values = loss(x)
    (gradient,) = torch.autograd.grad(values.sum(), x)
    assert values[1] == 2
    assert not gradient[1].any()
    assert gradient[0].any()
    assert loss.outcome.status == (("found",), ("skipped",))
    assert loss.outcome.distance[1].isnan()


def test_losing_the_face_costs_more_than_any_face(make):
    for policy in ("last", "center", "skip"):
        assert make(face(**ANN), on_missing=policy)(nobody()) >= 2
    assert make(face(**ANN), on_missing="skip", missing_penalty=0.5)(nobody()) == 0.5


def test_center_looks_in_the_middle(make):
    loss = make(face(**ANN), on_missing="center", floor=0.5)
    x = (0.5 + 0.001 * torch.randn(1, 3, 128, 128, generator=torch.Generator().manual_seed(0))).requires_grad_()
    (gradient,) = torch.autograd.grad(loss(x).sum(), x)
    assert loss.outcome.status == (("center",),)
    assert gradient[:, :, 40:88, 40:88].any()
    assert not gradient[:, :, :10].any()


def test_center_gives_every_missing_subject_a_place_of_its_own(make):
    loss = make([face(**ANN), face(**BOB)], on_missing="center")
    loss(nobody())
    assert loss.outcome.status == (("center", "center"),)


def washed_out(share):
    """A face with so much of its contrast; with 1 the detector is sure of it, with 0.4 it is not."""
    picture = face(**ANN, size=128)
    inner = picture[:, :, 40:112, 30:98]
    picture[:, :, 40:112, 30:98] = 0.65 + share * (inner - 0.65)
    return picture


def test_last_looks_where_the_face_was(make):
    loss = make(face(**CAT, size=128), on_missing="last", threshold=0.7, floor=0.7)
    before = loss(washed_out(1))
    assert loss.outcome.status == (("found",),)
    x = washed_out(0.4).requires_grad_()
    value = loss(x)
    (gradient,) = torch.autograd.grad(value.sum(), x)
    assert loss.outcome.status == (("last",),)
    assert gradient.any()
    assert value > 2 > before
    torch.testing.assert_close(loss.outcome.distance[0], value.detach() - 2)


def test_forgetting_and_another_picture_leave_nothing_to_remember(make):
    loss = make(face(**ANN), on_missing="last")
    loss(face(**ANN))
    assert loss(nobody()) == 2
    assert loss.outcome.status == (("skipped",),), "a grey image is no later state of a face"
    loss = make(face(**CAT, size=128), on_missing="last", threshold=0.7, floor=0.7)
    loss(washed_out(1))
    loss.forget()
    assert loss(washed_out(0.4)) == 2


def test_raise_names_the_picture_and_the_cure(make):
    with pytest.raises(NoFaceFound, match=r"The face of subject 0 was not found in image 1\..*on_missing='last'"):
        make(face(**ANN), on_missing="raise")(torch.cat([face(**ANN), nobody()]))


def test_missing_faces_are_logged_per_image_and_iteration(make):
    class Fading(gf.Sampler):
        """A face whose contrast is the latent's first entry: about 1 for one seed, 0 for another."""

        num_steps, latent_shape, image_size = 1, (1,), (128, 128)
        device, dtype = torch.device("cpu"), torch.float32

        def condition(self, prompts, negative_prompts=None):
            return torch.tensor([float(prompt) for prompt in prompts])

        def step(self, k, z, condition, noise=None):
            return 0 * z + condition[:, None]

        def decode(self, z):
            return (0.5 + z[:, :, None, None] * (face(**ANN, size=128) - 0.5)).clamp(0, 1)

    loss = make(face(**BOB), on_missing="skip")
    solution = gf.solve(Fading(), loss + 0 * loss.missing, prompt=["1", "0"], max_iterations=1)
    assert solution.history["identity-missing"].tolist() == [[0, 1], [0, 1]]
    assert "identity" in solution.history


def test_missing_looks_again_at_other_pictures(make):
    loss = make(face(**ANN))
    loss(face(**ANN))
    assert loss.missing(nobody()).tolist() == [1]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"combine": "median"}, "combine='median'. Expected one of: 'mean', 'best'"),
        ({"order": "random"}, "'similar', 'left-to-right'"),
        ({"on_missing": "loop"}, "'last', 'center', 'skip', 'raise'"),
        ({"floor": 0.0}, "0 < floor <= threshold <= 1"),
        ({"floor": 0.6, "threshold": 0.5}, "0 < floor <= threshold <= 1"),
        ({"missing_penalty": -1}, "at least 0"),
        ({"region": (0, 0, 2, 1)}, "fractions of the image"),
        ({"region": [(0, 0, 1, 1)] * 2}, "for 1 subjects"),
        ({"backend": "facenet"}, "'dlib', 'arcface'"),
        ({"pack": "folder"}, "Type backend='arcface'"),
    ],
)
def test_wrong_options_are_refused_with_the_cure(options, message):
    with pytest.raises(InvalidArgument) as caught:
        Identity(face(**ANN), **options)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("reference", "options", "error", "message"),
    [
        ([], {}, InvalidArgument, "no reference"),
        ([[]], {}, InvalidArgument, "a subject without images"),
        ([["a.png"], "b.png"], {"same_person": True}, InvalidArgument, "one or the other"),
        ("no.png", {}, InvalidImage, "There is no file no.png"),
        (nobody(), {}, NoFaceFound, "No face was found in reference 0, 256 x 256 pixels"),
        (torch.rand(2, 3, 64, 64), {}, InvalidImage, "a reference of 2 images"),
        (255 * torch.rand(3, 64, 64), {}, InvalidImage, "x / 255|/ 255"),
    ],
)
def test_wrong_references_are_refused_with_the_cure(make, reference, options, error, message):
    with pytest.raises(error, match=message):
        make(reference, **options)


def test_nan_in_one_picture_stays_there(make):
    loss = make(face(**ANN))
    values = loss(torch.cat([face(**BOB), torch.full((1, 3, 256, 256), torch.nan)]))
    assert torch.isfinite(values[0])
    assert values[1].isnan()


def test_a_picture_file_is_a_reference(make, tmp_path):
    path = gf.images.save_image(tmp_path / "ann.png", face(**ANN))
    assert make(path)(face(**ANN)) < 0.02
    loss = gf.load_loss("identity", reference=[str(path), str(path)])
    assert gf.registry.config(loss)["options"]["reference"] == [str(path), str(path)]
    assert "2 people" in loss.describe()
