"""The few-step chains once more, by other means: the schedulers as published, in diffusers or by the authors.

Nothing of `guideflow_diffusers` is used here but the table of the noise schedule.
"""

import itertools
import math
from contextlib import ExitStack, contextmanager
from pathlib import Path
from unittest import mock

import numpy
import torch

from guideflow.sampler import alpha_bar

NOISE = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "num_train_timesteps": 1000}


class Network:
    """A checkpoint's denoiser, text encoders and decoder, called as the pipelines do."""

    def __init__(self, folder, *, unet=None, dtype=torch.float32):
        from diffusers import AutoencoderKL, UNet2DConditionModel
        from transformers import CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

        folder = Path(folder)
        self.unet = UNet2DConditionModel.from_pretrained(Path(unet or folder) / "unet", torch_dtype=dtype).eval()
        self.vae = AutoencoderKL.from_pretrained(folder / "vae", torch_dtype=dtype).eval()
        kinds = {"text_encoder": CLIPTextModel, "text_encoder_2": CLIPTextModelWithProjection}
        self.encoders = [
            (CLIPTokenizer.from_pretrained(folder / name.replace("text_encoder", "tokenizer")), kind, folder / name)
            for name, kind in kinds.items()
            if (folder / name).is_dir()
        ]
        self.encoders = [(words, kind.from_pretrained(path, dtype=dtype).eval()) for words, kind, path in self.encoders]
        self.is_xl = len(self.encoders) == 2

    @torch.no_grad()
    def encode(self, prompts):
        """Hidden states, and what SDXL adds to them."""
        hidden, pooled = [], None
        for tokenizer, encoder in self.encoders:
            length = tokenizer.model_max_length
            ids = tokenizer(prompts, padding="max_length", max_length=length, truncation=True, return_tensors="pt")
            output = encoder(ids.input_ids, output_hidden_states=True)
            hidden.append(output.hidden_states[-2] if self.is_xl else output[0])
            pooled = output[0]
        if not self.is_xl:
            return hidden[0], None
        side = self.unet.config.sample_size * 2 ** (len(self.vae.config.block_out_channels) - 1)
        time_ids = torch.tensor([[side, side, 0, 0, side, side]] * len(prompts), dtype=pooled.dtype)
        return torch.cat(hidden, -1), {"text_embeds": pooled, "time_ids": time_ids}

    def guided(self, prompts, negatives, scale, **more):
        """Return f(z, t), classifier-free guidance included."""
        sides = [self.encode(prompts), self.encode(negatives)]

        def evaluate(z, t, side):
            text, added = side
            return self.unet(z, t, encoder_hidden_states=text, added_cond_kwargs=added, **more).sample

        def f(z, t):
            if scale <= 1:
                return evaluate(z, t, sides[0])
            text, negative = (evaluate(z, t, side) for side in sides)
            return negative + scale * (text - negative)

        return f

    def decode(self, z):
        """Decode latents to pictures in [0, 1]."""
        return (self.vae.decode(z / self.vae.config.scaling_factor).sample / 2 + 0.5).clamp(0, 1)


def guidance_embedding(scale, width):
    """What a full LCM is told about guidance: sines, then cosines, of 1000 (w - 1)."""
    angles = [1000 * (scale - 1) * 10000 ** (-i / (width // 2 - 1)) for i in range(width // 2)]
    return torch.tensor([[*map(math.sin, angles), *map(math.cos, angles)]], dtype=torch.float32)


@contextmanager
def frozen(noise):
    """Let diffusers' schedulers draw this instead."""
    names = ("euler_ancestral_discrete", "tcd", "lcm")
    with ExitStack() as stack:
        for name in names:
            target = f"diffusers.schedulers.scheduling_{name}.randn_tensor"
            stack.enter_context(mock.patch(target, lambda *_, **__: noise))
        yield


def run_scheduler(scheduler, num_steps, f, initial, noises, *, init=None, **options):
    """Run a diffusers scheduler; return its times and z_0..z_K in variance-preserving coordinates."""
    if num_steps is not None:
        scheduler.set_timesteps(num_steps)
    sigmas = getattr(scheduler, "sigmas", None)

    def preserved(x, k):
        return x if sigmas is None else x / (1 + sigmas[k] ** 2) ** 0.5

    x = initial * (scheduler.init_noise_sigma if init is None else init)
    states = [preserved(x, 0)]
    for k, t in enumerate(scheduler.timesteps):
        output = f(scheduler.scale_model_input(x, t), t)
        with frozen(noises[k]):
            x = scheduler.step(output, t, x, return_dict=False, **options)[0]
        states.append(preserved(x, k + 1))
    return [float(t) for t in scheduler.timesteps], states


def euler(num_steps, f, initial, noises, *, prediction="epsilon"):
    """SD-Turbo's and SDXL-Lightning's scheduler."""
    from diffusers import EulerDiscreteScheduler

    scheduler = EulerDiscreteScheduler(**NOISE, timestep_spacing="trailing", prediction_type=prediction)
    return run_scheduler(scheduler, num_steps, f, initial, noises)


def lightning(num_steps, f, initial, noises):
    """SDXL-Lightning: the one-step network predicts the picture."""
    return euler(num_steps, f, initial, noises, prediction="sample" if num_steps == 1 else "epsilon")


def ancestral(num_steps, f, initial, noises):
    """SDXL-Turbo's scheduler."""
    from diffusers import EulerAncestralDiscreteScheduler

    scheduler = EulerAncestralDiscreteScheduler(**NOISE, timestep_spacing="trailing")
    return run_scheduler(scheduler, num_steps, f, initial, noises)


def sgm(num_steps, f, initial, noises):
    """Stability's demo: ancestral steps at its own four times, from unit noise."""
    from diffusers import EulerAncestralDiscreteScheduler

    scheduler = EulerAncestralDiscreteScheduler(**NOISE, timestep_spacing="trailing")
    scheduler.set_timesteps(1000)
    chosen = [0, 100, 200, 300][:num_steps]
    scheduler.timesteps = scheduler.timesteps[chosen]
    scheduler.sigmas = scheduler.sigmas[[*chosen, 1000]]
    init = (1 + scheduler.sigmas[0] ** 2) ** 0.5
    return run_scheduler(scheduler, None, f, initial, noises, init=init)


def ddim(num_steps, f, initial, noises):
    """PCM's scheduler by its card, and Hyper-SD's."""
    from diffusers import DDIMScheduler

    scheduler = DDIMScheduler(**NOISE, timestep_spacing="trailing", clip_sample=False, set_alpha_to_one=False)
    return run_scheduler(scheduler, num_steps, f, initial, noises)


def tcd(num_steps, f, initial, noises, *, eta=0.0):
    """PCM's scheduler in its demo, and that of the unified Hyper-SD."""
    from diffusers import TCDScheduler

    return run_scheduler(TCDScheduler(**NOISE), num_steps, f, initial, noises, eta=eta)


def lcm(num_steps, f, initial, noises):
    """LCM's scheduler."""
    from diffusers import LCMScheduler

    return run_scheduler(LCMScheduler(**NOISE, clip_sample=False), num_steps, f, initial, noises)


def dmd2(num_steps, f, initial, noises):
    """DMD2's demo: the image by the noise that is predicted, and noise added by the training's own scheduler."""
    from diffusers import DDPMScheduler

    training, times, states = DDPMScheduler(**NOISE), {1: [399], 4: [999, 749, 499, 249]}[num_steps], [initial]
    signal = training.alphas_cumprod
    for k, t in enumerate(times):
        z, output = states[-1], f(states[-1], torch.tensor(t))
        image = (z - (1 - signal[t]).sqrt() * output) / signal[t].sqrt()
        last = k + 1 == len(times)
        states.append(image if last else training.add_noise(image, noises[k], torch.tensor([times[k + 1]] * len(z))))
    return times, states


def rectified_flow(num_steps, f, initial, noises):
    """Euler's method along dz/ds = v."""
    times, states = [], [initial]
    for i in range(num_steps):
        times.append(1000 * (1 - i / num_steps))
        states.append(states[-1] + f(states[-1], torch.tensor(times[-1])) / num_steps)
    return times, states


def perflow(num_steps, f, initial, noises, *, prediction="diff_eps", windows=4):
    """PeRFlow's published scheduler: times and windows by its own arithmetic, factors in float64.

    Source: https://github.com/magic-research/piecewise-rectified-flow, src/scheduler_perflow.py.
    """
    times, states = perflow_times(num_steps, windows), [initial]
    for now, following in itertools.pairwise((*times, 0)):
        output = f(states[-1], torch.tensor(now))
        states.append(perflow_step(states[-1], output, now, following, prediction, windows))
    return [float(t) for t in times], states


def perflow_times(num_steps, windows=4):
    """numpy's grid in each window, cut off to whole numbers."""
    starts = [i / windows for i in range(windows, 0, -1)]
    ends = [*starts[1:], 0]
    counts = [num_steps // windows + (i < num_steps % windows) for i in range(windows)]
    grids = [numpy.linspace(s, e, num=n, endpoint=False) for s, e, n in zip(starts, ends, counts, strict=True)]
    return (numpy.concatenate(grids) * 1000).astype(numpy.int64).tolist()


def perflow_window(now, windows):
    """Ends of a time's window, and alpha_bar at both, looked up in float32."""
    starts = [i / windows for i in range(windows, 0, -1)]
    ends = [*starts[1:], 0]
    time, i = torch.tensor(now) / 1000, 0
    while time - 0.1 * (1 / 1000) <= ends[i]:
        i += 1
    indices = [(torch.ones_like(time) * bound * 1000 - 1).long().clamp(min=0) for bound in (starts[i], ends[i])]
    return starts[i], ends[i], *(alpha_bar()[index] for index in indices)


def perflow_step(z, output, now, following, prediction, windows=4):
    """Predict the window's end, and go towards it in a straight line."""
    time, step = now / 1000, (following - now) / 1000
    if prediction == "velocity":
        return z + step * output
    start, end, signal_start, signal_end = perflow_window(now, windows)
    gamma = (signal_start / signal_end) ** 0.5
    lam, eta = 1 / gamma, -((1 - gamma**2) ** 0.5) / gamma
    if prediction == "ddim_eps":
        lam = (signal_end / signal_start) ** 0.5
        eta = (1 - signal_end) ** 0.5 - (signal_end / signal_start * (1 - signal_start)) ** 0.5
    divisor = lam * (time - start) + (end - time)
    z_end = lam * (end - start) / divisor * z + eta * (end - time) / divisor * output
    return z + step * (z_end - z) / (end - time)
