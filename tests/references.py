"""The few-step chains once more, by other means: diffusers' schedulers, or the papers' formulas in plain float64.

Nothing of `guideflow_diffusers` is used here but the table of the noise schedule.
"""

import itertools
import math
from contextlib import ExitStack, contextmanager
from pathlib import Path
from unittest import mock

import torch

from guideflow_diffusers.noise import alpha_bar

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


def rectified_flow(num_steps, f, initial, noises):
    """Euler's method along dz/ds = v."""
    times, states = [], [initial]
    for i in range(num_steps):
        times.append(1000 * (1 - i / num_steps))
        states.append(states[-1] + f(states[-1], torch.tensor(times[-1])) / num_steps)
    return times, states


def perflow(num_steps, f, initial, noises, *, prediction="diff_eps"):
    """The definition of PeRFlow: within its window, go to the window's end as far as the time allows."""
    starts = [250, 500, 750, 1000]
    per_window = [num_steps // 4 + (i < num_steps % 4) for i in range(4)]
    times = [int(1000 - 250 * (i + j / n)) for i, n in enumerate(per_window) for j in range(n)]
    states = [initial]
    for now, following in itertools.pairwise((*times, 0)):
        start = next(s for s in starts if now <= s)
        output = f(states[-1], torch.tensor(now))
        states.append(perflow_step(states[-1], output, now, following, start, start - 250, prediction))
    return [float(t) for t in times], states


def perflow_step(z, output, now, following, start, end, prediction):
    """lambda_t and eta_t of the window, then a straight line."""
    t, t_next, t_start, t_end = now / 1000, following / 1000, start / 1000, end / 1000
    if prediction == "velocity":
        return z - (t - t_next) * output
    signal_start, signal_end = (alpha_bar()[max(time - 1, 0)] for time in (start, end))
    if prediction == "ddim_eps":
        lam = math.sqrt(signal_end) / math.sqrt(signal_start)
        eta = math.sqrt(1 - signal_end) - lam * math.sqrt(1 - signal_start)
    else:
        gamma = math.sqrt(signal_start / signal_end)
        lam, eta = 1 / gamma, -math.sqrt(1 - gamma**2) / gamma
    divisor = lam * (t - t_start) + (t_end - t)
    z_end = (lam * (t_end - t_start) * z + eta * (t_end - t) * output) / divisor
    return z + (t_next - t) / (t_end - t) * (z_end - z)
