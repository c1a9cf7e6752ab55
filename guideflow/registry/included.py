"""The names of guideflow's own toy samplers and solvers, which enter the registry as any plugin's do."""

from collections.abc import Mapping

from guideflow.registry.entries import Entry
from guideflow.registry.hooks import hookimpl


@hookimpl
def guideflow_samplers() -> Mapping[str, Entry]:
    """Samplers in closed form."""
    return {
        "toy-linear": Entry("guideflow.toy:ToyLinear", "linear flow, whose optima are known exactly"),
        "toy-mixture": Entry("guideflow.toy:ToyMixture", "exact sampler of twelve small pictures"),
    }


@hookimpl
def guideflow_solvers() -> Mapping[str, Entry]:
    """Solvers, one algorithm a file."""
    return {
        "auto": Entry("guideflow.solvers:Auto", "the default: FlowGrad, long steps first, then short"),
        "anchored": Entry("guideflow.solvers:Anchored", "RectifID: near what the sampler would do by itself"),
        "unanchored": Entry("guideflow.solvers:Unanchored", "the fixed point of a straight flow, window by window"),
        "noise-descent": Entry("guideflow.solvers:NoiseDescent", "momentum SGD on the initial noise, pulled back"),
        "flowgrad": Entry("guideflow.solvers:FlowGrad", "descend on each control by its own gradient"),
        "annealed": Entry("guideflow.solvers:Annealed", "wraps a solver: long steps first, then short ones"),
        "momentum": Entry("guideflow.solvers:Momentum", "wraps a solver: Nesterov's momentum, with restarts"),
        "polyak": Entry("guideflow.solvers:Polyak", "wraps a solver: steps by the loss above its optimum"),
        "trust-region": Entry("guideflow.solvers:TrustRegion", "wraps a solver: steps by how well gradients predict"),
        "windows": Entry("guideflow.solvers:Windows", "wraps a solver: some windows only, not the last"),
    }
