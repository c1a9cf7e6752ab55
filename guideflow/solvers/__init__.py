"""The built-in solvers, one algorithm a file; they enter the registry as any plugin's would."""

from collections.abc import Callable, Mapping
from typing import Any

from guideflow.hookspecs import hookimpl
from guideflow.solvers._base import AbstractSolver as AbstractSolver
from guideflow.solvers._base import State as State
from guideflow.solvers.anchored import Anchored as Anchored
from guideflow.solvers.flowgrad import FlowGrad as FlowGrad
from guideflow.solvers.noise_descent import NoiseDescent as NoiseDescent
from guideflow.solvers.unanchored import Unanchored as Unanchored


@hookimpl
def guideflow_solvers() -> Mapping[str, Callable[..., Any]]:
    """Offer the built-in solvers."""
    return {cls.name: cls for cls in (Anchored, Unanchored, NoiseDescent, FlowGrad)}
