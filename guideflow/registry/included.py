"""The hooks of guideflow's own toy samplers and solvers, which enter the registry as any plugin's would."""

from collections.abc import Mapping

from guideflow.registry.entries import Entry
from guideflow.registry.hooks import hookimpl


@hookimpl
def guideflow_samplers() -> Mapping[str, Entry]:
    """Samplers in closed form."""
    return {
        "toy-linear": Entry(
            "guideflow.toy:ToyLinear",
            "A flow whose velocity is linear in the state, so that its optima are known exactly.",
        ),
        "toy-mixture": Entry(
            "guideflow.toy:ToyMixture",
            "Exact sampler of a Gaussian mixture around twelve small pictures: four shapes in three colours.",
        ),
    }


@hookimpl
def guideflow_solvers() -> Mapping[str, Entry]:
    """Solvers, one algorithm a file."""
    return {
        "auto": Entry(
            "guideflow.solvers:Auto",
            "The default: FlowGrad whose steps start long and grow short, tuned and measured in the avatars world.",
        ),
        "anchored": Entry(
            "guideflow.solvers:Anchored",
            "Anchored guidance: keep the trajectory close to what the sampler would do from each new starting point.",
        ),
        "unanchored": Entry(
            "guideflow.solvers:Unanchored",
            "Unanchored guidance: iterate the fixed-point equation of a straight flow at the end of each window.",
        ),
        "noise-descent": Entry(
            "guideflow.solvers:NoiseDescent",
            "Noise descent: momentum SGD on the initial noise, pulled back to where it started.",
        ),
        "flowgrad": Entry(
            "guideflow.solvers:FlowGrad",
            "FlowGrad: descend on additive controls, each with its own gradient.",
        ),
        "annealed": Entry(
            "guideflow.solvers:Annealed",
            "Wraps a solver of controls: long steps first, to get near, and short ones then, to settle.",
        ),
        "momentum": Entry(
            "guideflow.solvers:Momentum",
            "Wraps a solver of controls: Nesterov's momentum, started again where the loss rises.",
        ),
        "polyak": Entry(
            "guideflow.solvers:Polyak",
            "Wraps a solver of controls: steps as long as the loss is above its known optimum.",
        ),
        "trust-region": Entry(
            "guideflow.solvers:TrustRegion",
            "Wraps a solver of controls: steps as long as the loss falls as its gradient promised.",
        ),
    }
