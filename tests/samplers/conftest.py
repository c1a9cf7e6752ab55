"""Tiny checkpoints on disk, and families loaded from them by name."""

import functools

import pytest

import guideflow as gf
import tiny
import tiny_flows
from family_table import MAIN
from guideflow_diffusers import parts


@pytest.fixture(scope="session")
def tiny_folders(tmp_path_factory):
    """A checkpoint of each base, and a full LCM's denoiser."""
    root = tmp_path_factory.mktemp("checkpoints")
    made = {kind: getattr(tiny, kind)(root / kind) for kind in ("sd15", "sd21", "sdxl")}
    return {**made, "full_lcm": tiny.lcm_unet(root / "full_lcm")}


@pytest.fixture(scope="session")
def flow_folders(tmp_path_factory):
    """A checkpoint of each flow-matching model but FLUX.1."""
    root = tmp_path_factory.mktemp("flows")
    made = {kind: getattr(tiny_flows, kind)(root / kind) for kind in ("z_image", "flux2", "sana", "qwen_image")}
    return {**made, "sd3": tiny.sd3(root / "sd3")}


@pytest.fixture(scope="module")
def load_family(tiny_folders):
    """Load a family by name; each checkpoint is read from disk once, as nothing changes its parts."""

    def load(family, num_steps, **options):
        given = {"checkpoint": tiny_folders[family.base], "num_steps": num_steps, "guidance_scale": family.guidance}
        given |= {"base": tiny_folders["sd15"]} if family.base == "full_lcm" else {}
        return gf.load_sampler(family.name, **(given | {"dtype": family.dtype} | family.options | options))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(parts, "load_parts", functools.cache(parts.load_parts))
        yield load


@pytest.fixture(scope="module")
def sampler(load_family):
    """PeRFlow in double precision."""
    return load_family(MAIN["perflow"], 4, dtype="float64")


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """A small decoder of its latents."""
    return tiny.tiny_decoder(tmp_path_factory.mktemp("taesd") / "taesd")
