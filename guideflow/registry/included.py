"""The names of guideflow's own toy samplers, solvers and metrics, which enter the registry as any plugin's do."""

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
        "sweep": Entry("guideflow.solvers:Sweep", "FMRG: one pass, each window steered before the next"),
        "best-of": Entry("guideflow.solvers:BestOf", "the best of N noises, without gradients"),
        "reno": Entry("guideflow.solvers:ReNO", "noise descent with short gradients and noise as long as noise is"),
        "dno": Entry("guideflow.solvers:DNO", "Adam on the noise, held back from unlikely noises"),
        "flowchef": Entry("guideflow.solvers:FlowChef", "passes without network gradients, state by state"),
        "mpgd": Entry("guideflow.solvers:MPGD", "passes without network gradients, clean picture by clean picture"),
        "tfg": Entry("guideflow.solvers:TFG", "passes with smoothed gradients, clean moves and recurrence"),
        "universal": Entry("guideflow.solvers:Universal", "passes that correct the network's output"),
        "annealed": Entry("guideflow.solvers:Annealed", "wraps a solver: long steps first, then short ones"),
        "momentum": Entry("guideflow.solvers:Momentum", "wraps a solver: Nesterov's momentum, with restarts"),
        "polyak": Entry("guideflow.solvers:Polyak", "wraps a solver: steps by the loss above its optimum"),
        "trust-region": Entry("guideflow.solvers:TrustRegion", "wraps a solver: steps by how well gradients predict"),
        "polished": Entry(
            "guideflow.solvers:Polished", "wraps any solver: its pictures go through the last window again"
        ),
        "previewed": Entry(
            "guideflow.solvers:Previewed", "wraps any solver: it looks at previews, several times to each picture"
        ),
        "windows": Entry("guideflow.solvers:Windows", "wraps a solver: some windows only, not the last"),
    }


@hookimpl
def guideflow_metrics() -> Mapping[str, Entry]:
    """Metrics that look through no network of a plugin."""
    unguided = ("unguided picture",)
    return {
        "seconds": Entry("guideflow.metrics.columns:Seconds", "time that the picture took"),
        "network-evaluations": Entry("guideflow.metrics.columns:NetworkEvaluations", "of the sampler's network"),
        "peak-memory": Entry("guideflow.metrics.columns:PeakMemory", "most memory that the solve held"),
        "guidance-loss": Entry("guideflow.metrics.columns:GuidanceLoss", "what the guiding loss itself says"),
        "distance": Entry("guideflow.metrics.distance:Distance", "how far from the unguided picture", needs=unguided),
        "diversity": Entry("guideflow.metrics.distance:Diversity", "how far from the pictures of other seeds"),
        "kid": Entry(
            "guideflow.metrics.kid:KernelDistance",
            "kernel distance of a set of pictures to real ones (KID)",
            extra="subject",
            licence="BSD-3-Clause (Inception v3 of torchvision)",
        ),
    }
