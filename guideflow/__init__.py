"""Steer a frozen few-step image sampler with the gradient of any loss on its final image.

Importing guideflow is light: everything, torch included, loads when first used.
"""

from typing import TYPE_CHECKING

from guideflow._lazy import lazy

if TYPE_CHECKING:
    from guideflow import callbacks as callbacks
    from guideflow import errors as errors
    from guideflow._require import require as require
    from guideflow.detached import Detached as Detached
    from guideflow.errors import GuideflowError as GuideflowError
    from guideflow.images import check_image as check_image
    from guideflow.losses.balancing import Balanced as Balanced
    from guideflow.losses.balancing import balanced as balanced
    from guideflow.losses.balancing import schedule as schedule
    from guideflow.losses.base import Loss as Loss
    from guideflow.losses.base import WeightedSum as WeightedSum
    from guideflow.losses.base import as_loss as as_loss
    from guideflow.losses.schedules import Timing as Timing
    from guideflow.problem import Noise as Noise
    from guideflow.problem import Problem as Problem
    from guideflow.problem import Rollout as Rollout
    from guideflow.problem import draw_noise as draw_noise
    from guideflow.registry import Entry as Entry
    from guideflow.registry import hookimpl as hookimpl
    from guideflow.registry import load_loss as load_loss
    from guideflow.registry import load_sampler as load_sampler
    from guideflow.registry import load_solver as load_solver
    from guideflow.registry import plugins as plugins
    from guideflow.sampler import AffineSampler as AffineSampler
    from guideflow.sampler import Sampler as Sampler
    from guideflow.sampler import Schedule as Schedule
    from guideflow.solution import Result as Result
    from guideflow.solution import Settings as Settings
    from guideflow.solution import Solution as Solution
    from guideflow.solve import iterate as iterate
    from guideflow.solve import resume as resume
    from guideflow.solve import solve as solve
    from guideflow.solvers import Anchored as Anchored
    from guideflow.solvers import Annealed as Annealed
    from guideflow.solvers import Auto as Auto
    from guideflow.solvers import ControlSolver as ControlSolver
    from guideflow.solvers import FlowGrad as FlowGrad
    from guideflow.solvers import Momentum as Momentum
    from guideflow.solvers import Move as Move
    from guideflow.solvers import NoiseDescent as NoiseDescent
    from guideflow.solvers import Polyak as Polyak
    from guideflow.solvers import Solver as Solver
    from guideflow.solvers import State as State
    from guideflow.solvers import TrustRegion as TrustRegion
    from guideflow.solvers import Unanchored as Unanchored
    from guideflow.solvers import Wrapper as Wrapper
    from guideflow.types import Image as Image
    from guideflow.types import Latent as Latent
    from guideflow.types import PerImage as PerImage

__getattr__, __dir__ = lazy(
    __name__,
    {
        "_require": ("require",),
        "images": ("check_image",),
        "detached": ("Detached",),
        "errors": ("GuideflowError",),
        "losses.balancing": ("Balanced", "balanced", "schedule"),
        "losses.base": ("Loss", "WeightedSum", "as_loss"),
        "losses.schedules": ("Timing",),
        "problem": ("Noise", "Problem", "Rollout", "draw_noise"),
        "registry": ("Entry", "hookimpl", "load_loss", "load_sampler", "load_solver", "plugins"),
        "sampler": ("AffineSampler", "Sampler", "Schedule"),
        "solution": ("Result", "Settings", "Solution"),
        "solve": ("iterate", "resume", "solve"),
        "solvers": (
            "Solver",
            "Anchored",
            "Annealed",
            "Auto",
            "ControlSolver",
            "FlowGrad",
            "Momentum",
            "Move",
            "NoiseDescent",
            "Polyak",
            "State",
            "TrustRegion",
            "Unanchored",
            "Wrapper",
        ),
        "types": ("Image", "Latent", "PerImage"),
    },
    submodules=("callbacks", "errors", "images", "losses", "problem", "registry", "sampler", "solution", "solvers"),
)
