"""The names of guideflow's own toy samplers and solvers, which enter the registry as any plugin's do."""

from collections.abc import Mapping

from guideflow.registry.entries import Entry
from guideflow.registry.hooks import hookimpl


@hookimpl
def guideflow_samplers() -> Mapping[str, Entry]:
    """Samplers in closed form."""
    return {
        "toy-linear": Entry("guideflow.toy:ToyLinear", "a flow with a linear velocity: its optima are known exactly"),
        "toy-mixture": Entry("guideflow.toy:ToyMixture", "exact sampler of twelve small images: shapes in colours"),
    }


@hookimpl
def guideflow_solvers() -> Mapping[str, Entry]:
    """Solvers, one algorithm a file."""
    return {
        "auto": Entry(
            "guideflow.solvers:Auto",
            "the default: FlowGrad whose steps start long and grow short, tuned and measured on avatars",
        ),
        "anchored": Entry(
            "guideflow.solvers:Anchored", "RectifID: stay near what the sampler would do from each new starting point"
        ),
        "unanchored": Entry(
            "guideflow.solvers:Unanchored",
            "the fixed-point equation of a straight flow, iterated at the end of each window",
        ),
        "noise-descent": Entry(
            "guideflow.solvers:NoiseDescent", "momentum SGD on the initial noise, pulled back to where it started"
        ),
        "flowgrad": Entry("guideflow.solvers:FlowGrad", "descend on additive controls, each with its own gradient"),
        "annealed": Entry(
            "guideflow.solvers:Annealed",
            "wraps a solver of controls: long steps first, to get near, and short ones then, to settle",
        ),
        "momentum": Entry(
            "guideflow.solvers:Momentum",
            "wraps a solver of controls: Nesterov's momentum, started again where the loss rises",
        ),
        "polyak": Entry(
            "guideflow.solvers:Polyak",
            "wraps a solver of controls: steps as long as the loss is above its known optimum",
        ),
        "trust-region": Entry(
            "guideflow.solvers:TrustRegion",
            "wraps a solver of controls: steps as long as the loss falls as its gradient promised",
        ),
    }
