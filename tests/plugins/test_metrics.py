"""The metrics of losses' packages: what they say on pictures whose answer is known, and what every metric must do."""

import math

import open_clip
import pytest
import torch
from torch.nn import functional as F

import drawn_faces
import guideflow as gf
import tiny
import tiny_clip
from guideflow.errors import InvalidArgument, MissingWeights
from guideflow.metrics import Case, KernelDistance
from guideflow.metrics.distance import Distance, Diversity
from guideflow.testing import check_metric
from guideflow_avatars import judges, portrait, portraits
from guideflow_avatars.metrics import face
from guideflow_avatars.segmentation import draw
from guideflow_diffusers.denoising import DenoiseError, denoise_error


def case(picture, number=0, **more):
    return Case(str(number), picture, config="one", **more)


@pytest.fixture(scope="module")
def people():
    """Two drawn people with another picture of each, (3, 256, 256)."""
    return {name: drawn_faces.face(**look)[0] for name, look in (("ann", drawn_faces.ANN), ("bob", drawn_faces.BOB))}


def test_identity_similarity_finds_a_person_and_counts_who_is_not_there(people):
    metric = gf.load_metric("identity-similarity", threshold=0.3)
    ann, bob, nobody = people["ann"], people["bob"], drawn_faces.nobody()[0]
    found = metric([case(one, target=ann, about="ann") for one in (ann, bob, nobody)])
    assert found[0].value == pytest.approx(1, abs=1e-4) and found[0].detected
    assert found[1].value < 0.98 and found[1].detected
    assert math.isnan(found[2].value) and found[2].detected is False
    with pytest.raises(ValueError, match="No face was found"):
        metric([case(ann, target=nobody, about="nobody")])
    for options in ({"threshold": 0.0}, {"pack": "x"}):
        with pytest.raises(InvalidArgument, match=next(iter(options))):
            gf.load_metric("identity-similarity", **options)


def test_prompt_agreement_is_the_cosine_of_clip():
    network = tiny_clip.network()
    options = {"network": network, "tokenizer": open_clip.get_tokenizer("ViT-B-32")}
    metric, images = gf.load_metric("prompt-agreement", **options), torch.rand(3, 3, 40, 32)
    prompts = ["a red boat", "a green hill", "a red boat"]
    found = metric([case(one, prompt=text) for one, text in zip(images, prompts, strict=True)])
    with torch.no_grad():
        for one, text, measured in zip(images, prompts, found, strict=True):
            expected = 1 - gf.load_loss("clip", text=text, **options)(one[None])
            assert measured.value == pytest.approx(expected.item(), abs=1e-5) and measured.detected is None
    check_metric(lambda: gf.load_metric("prompt-agreement", **options), name="prompt-agreement")


class Colours(torch.nn.Module):
    """Embeds pictures by their mean colours in quarters; its features are the same, place by place."""

    def __init__(self, maps=False):
        super().__init__()
        self.mix, self.maps = torch.nn.Conv2d(3, 8, 1), maps

    def forward(self, image):
        found = F.adaptive_avg_pool2d(self.mix(image), 4 if self.maps else 2)
        return found if self.maps else found.flatten(1)


def test_subject_similarity_is_the_cosine_of_features_and_conforms(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    torch.manual_seed(0)
    network, (one, other) = Colours(), torch.rand(2, 3, 32, 32)
    metric = gf.load_metric("subject-similarity", network=network, size=32)
    same, unlike = metric([case(one, target=one, about="one"), case(other, target=one, about="one")])
    assert same.value == pytest.approx(1, abs=1e-5) and unlike.value < 1 - 1e-4 and unlike.detected
    loss = gf.load_loss("subject", reference=one, network=network, size=32, detector=None)
    assert unlike.value == pytest.approx(1 - loss(other[None]).item(), abs=1e-5)
    check_metric(lambda: gf.load_metric("subject-similarity", network=Colours(), size=32), name="subject-similarity")
    with pytest.raises(InvalidArgument, match="no detector"):
        gf.load_metric("subject-similarity", network=network, text="a cat")
    with pytest.raises(MissingWeights, match="hf download nowhere/dino"):
        gf.load_metric("subject-similarity", network="nowhere/dino")


def test_subject_similarity_reads_a_vision_transformer_without_its_pooling(tmp_path):
    from transformers import ViTConfig, ViTModel

    small = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    ViTModel(ViTConfig(**small, image_size=32, patch_size=16), add_pooling_layer=False).save_pretrained(tmp_path)
    metric, one = gf.load_metric("subject-similarity", network=str(tmp_path), size=32), torch.rand(3, 32, 32)
    assert metric([case(one, target=one, about="one")])[0].value == pytest.approx(1, abs=1e-5)


def test_style_distance_is_the_loss_of_another_network_and_conforms():
    options = {"backend": "gram", "network": Colours(maps=True)}
    metric, pictures = gf.load_metric("style-distance", **options), torch.rand(3, 3, 32, 32)
    found = metric([case(pictures[0], target=pictures[i], about=str(i)) for i in range(3)])
    for i, one in enumerate(found):
        expected = gf.load_loss("style", reference=pictures[i], **options)(pictures[:1]).item()
        assert one.value == pytest.approx(expected, abs=1e-6)
    check_metric(lambda: gf.load_metric("style-distance", **options), name="style-distance")


class Thirds(torch.nn.Module):
    """Sees class 0, 1 or 2 where red, green or blue is most."""

    def __init__(self):
        super().__init__()
        self.scale = torch.nn.Parameter(torch.tensor(20.0))

    def forward(self, image):
        return self.scale * image


def test_iou_is_the_overlap_with_a_layout_or_a_picture(tmp_path):
    red = torch.zeros(3, 30, 30)
    red[0] = 1
    half = red.clone()
    half[:, :, 15:] = torch.tensor([0.0, 1.0, 0.0])[:, None, None]
    metric = gf.load_metric("iou", network=Thirds())
    found = metric([case(red, target=half, about="half"), case(half, target=half, about="half")])
    assert [one.value for one in found] == pytest.approx([0.25, 1.0]), "half of red overlaps, and nothing of green"
    layout = torch.zeros(30, 30, dtype=torch.uint8)
    layout[:, 15:] = 1
    from PIL import Image

    Image.fromarray(layout.numpy()).save(tmp_path / "layout.png")
    drawn = gf.load_metric("iou", network=Thirds(), layout=True)
    assert drawn([case(half, target=tmp_path / "layout.png", about="layout")])[0].value == pytest.approx(1.0)
    check_metric(lambda: gf.load_metric("iou", network=Thirds()), name="iou", image_size=32)


def test_distances_in_pixels():
    black, white = torch.zeros(3, 8, 8), torch.ones(3, 8, 8)
    assert Distance()([case(black, plain=white)])[0].value == 1.0
    cases = [case(one, i, seed=i) for i, one in enumerate((black, white, white))]
    assert [one.value for one in Diversity()(cases)] == [1.0, 0.5, 0.5]
    assert Diversity()(cases[:1])[0].note == "one seed only"
    for name in ("distance", "diversity", "seconds", "network-evaluations", "peak-memory", "guidance-loss"):
        check_metric(lambda name=name: gf.load_metric(name))


def test_kid_is_that_of_the_set(tmp_path):
    pictures = torch.rand(7, 3, 16, 16)
    for i, one in enumerate(pictures[4:]):
        gf.images.save_image(tmp_path / "deep" / f"{i}.png", one)
    metric = KernelDistance(tmp_path, network=Colours(), size=16)
    found = metric([case(one, i) for i, one in enumerate(pictures[:4])])
    real = torch.cat([gf.images.read_image(tmp_path / "deep" / f"{i}.png") for i in range(3)])
    with torch.no_grad():
        x, y = (metric._network(some).double() for some in (pictures[:4], real))

    def mean(a, b, unlike):
        k = (a @ b.T / a.shape[1] + 1) ** 3
        return (k.sum() - k.diagonal().sum()) / (len(k) * (len(k) - 1)) if unlike else k.mean()

    expected = mean(x, x, True) + mean(y, y, True) - 2 * mean(x, y, False)
    assert sum(one.value for one in found) / 4 == pytest.approx(expected.item(), abs=1e-6)
    assert metric([case(pictures[0])])[0].note == "a set needs two pictures"
    check_metric(lambda: KernelDistance(network=Colours(), size=16))
    with pytest.raises(InvalidArgument, match="with 0 pictures in it"):
        KernelDistance(tmp_path / "nowhere", network=Colours())


@pytest.fixture(scope="module")
def avatars():
    """Bundled portraits as cases of one person, of three pictures."""
    paths = [portrait(name) for name in portraits()[:3]]
    prompt = "a person in a red shirt, blue background"
    return [case(path, i, target=paths[0], about="ada", plain=path, prompt=prompt) for i, path in enumerate(paths)]


def test_the_judges_of_the_avatars_world(avatars, tmp_path):
    images = torch.stack([one.image for one in avatars])
    metric = gf.load_metric("avatars-identity-similarity")
    broken = [case(torch.full((3, 128, 128), 0.5), target=avatars[0].target, about="ada")]
    found = metric([*avatars, *broken])
    expected = judges.identity_similarity(images, images[:1]).tolist()
    assert [one.value for one in found[:3]] == pytest.approx(expected, abs=1e-4)
    assert found[0].value == pytest.approx(1, abs=1e-4) and [one.detected for one in found] == [True] * 3 + [False]
    noise = torch.rand(3, 128, 128, generator=torch.Generator().manual_seed(0))
    assert metric([case(noise, target=avatars[0].target, about="ada")])[0].detected is False
    assert gf.load_metric("avatars-identity-similarity", detect=False)(broken)[0].detected is None
    accuracy = gf.load_metric("avatars-prompt-accuracy", attributes=["background"])(avatars)
    right = judges.prompt_accuracy(images, [one.prompt for one in avatars], ["background"]).tolist()
    assert [one.value for one in accuracy] == right
    empty = gf.load_metric("avatars-prompt-accuracy")([case(noise, prompt="somebody")])[0]
    assert empty.note == "the prompt asks for none of them"
    with pytest.raises(InvalidArgument, match="attributes='shoes'"):
        gf.load_metric("avatars-prompt-accuracy", attributes=["shoes"])
    iou = gf.load_metric("avatars-iou")(avatars)
    assert iou[0].value == 1.0 and iou[1].value < 0.9
    layout = tmp_path / "layout.png"
    gf.images.save_image(layout, draw(judges.segment(images[:1])[0])[None])
    assert gf.load_metric("avatars-iou")([case(images[0], target=layout, about="layout")])[0].value > 0.99
    style = gf.load_metric("avatars-style-distance")(avatars)
    assert style[0].value == pytest.approx(0, abs=1e-5) and style[1].value > 1e-3
    far = [case(one.picture, i, plain=noise) for i, one in enumerate(avatars)]
    same, unlike = (sum(one.value for one in gf.load_metric("avatars-kid")(some)) for some in (avatars, far))
    assert same < 0 < unlike, "unbiased, so below 0 for a set and itself"


@pytest.mark.parametrize("name", ["avatars-identity-similarity", "avatars-prompt-accuracy"])
def test_judges_of_the_avatars_world_conform(avatars, name):
    options = {"detect": False} if "identity" in name else {}
    check_metric(lambda: gf.load_metric(name, **options), cases=avatars[:2], name=name)


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample", "flow", "velocity"])
def test_a_network_that_knows_the_noise_has_no_denoise_error(prediction):
    latents = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    from guideflow.sampler import alpha_bar

    def predict(z, row, condition):
        flows = prediction in ("flow", "velocity")
        level = alpha_bar()[int(row.time)]
        a, s = (1 - row.time / 1000, row.time / 1000) if flows else (math.sqrt(level), math.sqrt(1 - level))
        noise = (z - a * latents) / s
        return {
            "epsilon": noise,
            "v_prediction": a * noise - s * latents,
            "sample": latents,
            "flow": latents - noise,
            "velocity": noise - latents,
        }[prediction] + offset

    offset = 0.0
    assert denoise_error(predict, latents, None, prediction=prediction).max() < 1e-9
    offset = 0.1
    if prediction == "epsilon":
        assert denoise_error(predict, latents, None).tolist() == pytest.approx([0.01, 0.01], rel=1e-3)


def test_denoise_error_is_the_teachers_on_the_latents_of_the_picture(avatars):
    from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel

    from guideflow_avatars import BASE

    images, prompts = torch.stack([one.image for one in avatars[:2]]), [one.prompt for one in avatars[:2]]
    unet, vae = (
        kind.from_pretrained(BASE / part) for kind, part in ((UNet2DConditionModel, "unet"), (AutoencoderKL, "vae"))
    )
    levels = DDIMScheduler.from_pretrained(BASE / "scheduler").alphas_cumprod
    text, expected = gf.load_sampler("avatars-turbo").condition(prompts).text, []
    with torch.no_grad():
        latents = vae.encode(2 * images - 1).latent_dist.mode() * vae.config.scaling_factor
        for t in (100, 250, 400):
            noise = torch.randn(latents.shape[1:], generator=torch.Generator().manual_seed(t)).expand_as(latents)
            noisy = levels[t].sqrt() * latents + (1 - levels[t]).sqrt() * noise
            expected.append((unet(noisy, t, text).sample - noise).square().mean((1, 2, 3)))
    sampler = {"name": "avatars-turbo", "options": {"num_steps": 2}}
    cases = [case(one.picture, i, prompt=one.prompt, sampler=sampler) for i, one in enumerate(avatars[:2])]
    metric = gf.load_metric("denoise-error")
    found = [one.value for one in metric(cases)]
    assert found == pytest.approx(torch.stack(expected).mean(0).tolist(), rel=1e-4)
    burnt = [case((3 * one.image - 1).clamp(0, 1), prompt=one.prompt, sampler=sampler) for one in avatars[:2]]
    assert all(b.value > a for a, b in zip(found, metric(burnt), strict=True)), "burnt colours look less natural"
    with pytest.raises(InvalidArgument, match="not made of diffusers parts"):
        metric([case(images[0], prompt="a person", sampler={"name": "toy-mixture"})])


def test_denoise_error_refuses_what_makes_no_sense():
    for options in ({"times": (0,)}, {"times": ()}, {"prediction": "noise"}):
        with pytest.raises(InvalidArgument, match=next(iter(options))):
            DenoiseError(**options)


@pytest.mark.parametrize(
    ("kind", "name", "prediction"),
    [
        ("sd15", "perflow", "epsilon"),
        ("sdxl", "perflow-sdxl", "epsilon"),
        ("sd15", "rectified-flow", "flow"),
        ("flux", "flux-schnell", "velocity"),
    ],
)
def test_denoise_error_asks_the_network_of_any_family(kind, name, prediction, tmp_path):
    folder = getattr(tiny, kind)(tmp_path)
    options = {"checkpoint": str(folder), **({"max_sequence_length": 8} if kind == "flux" else {})}
    pictures = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    sampler = {"name": name, "options": options}
    found = gf.load_metric("denoise-error", times=[250])(
        [case(one, prompt="a dog", sampler=sampler) for one in pictures]
    )
    made, more = gf.load_sampler(name, **options), {} if kind == "flux" else {"guidance_scale": 1.0, "image_size": 32}
    made = made.replace(**more) if more else made
    vae = made.vae if kind == "flux" else made.parts.vae
    with torch.no_grad():
        latents = vae.encode(2 * pictures - 1).latent_dist.mode()
        latents = (latents - (vae.config.get("shift_factor") or 0)) * vae.config.scaling_factor
        expected = denoise_error(made.predict, latents, made.condition(["a dog"] * 2), [250], prediction)
    assert [one.value for one in found] == pytest.approx(expected.tolist(), rel=1e-4)


def test_what_dissolves_into_noise_shows_no_face():
    sampler = gf.load_sampler("avatars-perflow")
    loss = gf.load_loss("avatars-identity", reference=portrait("ada"))
    options = {"prompt": "a person in a red shirt, blue background", "seed": [0, 1, 2], "max_iterations": 2}
    gone = gf.solve(sampler, loss, solver="unanchored", keep="last", **options)
    assert face(gone.images) == [False] * 3 and face(gone.unguided) == [True] * 3
