"""Loaded diffusers pipelines, and what they draw themselves: the same latents, prompts, noises and size, end to end."""

import itertools
import warnings

import torch

import references

PROMPTS, NEGATIVES = ["a cat", "two dogs"], ["bad", "worse"]
SEED = 5


def load(folder, dtype=torch.float32, **components):
    """Load a checkpoint as a user does."""
    import diffusers

    diffusers.utils.logging.disable_progress_bar()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pipe = diffusers.DiffusionPipeline.from_pretrained(folder, torch_dtype=dtype, **components)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def change_scheduler(pipe, kind, **config):
    """Give a pipeline another scheduler, as a user does."""
    import diffusers

    pipe.scheduler = getattr(diffusers, kind).from_config(pipe.scheduler.config, **config)


class PeRFlowScheduler:
    """PeRFlow's own scheduler, which is not in diffusers, with the interface that pipelines ask for."""

    order, init_noise_sigma, config = 1, 1.0, {}

    def __init__(self, prediction="diff_eps"):
        self.prediction = prediction

    def set_timesteps(self, num_inference_steps, device=None):
        self.timesteps = torch.tensor(references.perflow_times(num_inference_steps))

    def scale_model_input(self, sample, timestep=None):
        return sample

    def step(self, model_output, timestep, sample, return_dict=True):
        following = dict(itertools.pairwise([*self.timesteps.tolist(), 0]))[int(timestep)]
        return (references.perflow_step(sample, model_output, int(timestep), following, self.prediction),)


class RectifiedFlowScheduler(PeRFlowScheduler):
    """The loop of 2-rectified flow's and InstaFlow's own pipeline, as a scheduler.

    The pipeline is in the repository of diffusers, examples/community/instaflow_one_step.py, but in no release of it.
    Its loop leaves the scheduler out, takes times 1000 (1 - i / K) and adds v / K; all else is Stable Diffusion's.
    """

    def set_timesteps(self, num_inference_steps, device=None):
        self.timesteps = torch.tensor([1000 * (1 - i / num_inference_steps) for i in range(num_inference_steps)])

    def step(self, model_output, timestep, sample, return_dict=True):
        return (sample + model_output / len(self.timesteps),)


def initial(sampler, batch=2):
    shape = (batch, *sampler.latent_shape)
    return torch.randn(shape, generator=torch.Generator().manual_seed(1), dtype=sampler.state_dtype)


@torch.no_grad()
def draw(sampler, *, negatives=NEGATIVES, prompts=PROMPTS, noises=None):
    """Draw with a sampler; noises come from a generator, one step after the other, unless they are given."""
    condition = sampler.condition(prompts, negatives)
    z, generator = sampler.prepare(initial(sampler)), torch.Generator().manual_seed(SEED)
    for k in range(sampler.num_steps):
        noise = None
        if sampler.stochastic[k]:
            noise = noises(z) if noises else torch.randn(z.shape, generator=generator, dtype=z.dtype)
        z = sampler.step(k, z, condition, noise)
    return sampler.decode(z)


def published(pipe, sampler, *, negatives=NEGATIVES, prompts=PROMPTS, pack=lambda z: z, **options):
    """Let the pipeline draw by itself."""
    more = {} if negatives is None else {"negative_prompt": list(negatives)}
    torch.manual_seed(SEED)  # for the scheduler that takes no generator
    made = pipe(
        prompt=list(prompts),  # some write into the list
        latents=pack(initial(sampler)),
        generator=torch.Generator().manual_seed(SEED),
        output_type="pt",
        **more,
        **options,
    )
    return made.images


def distance(one, other):
    return (one - other).abs().max().item()
