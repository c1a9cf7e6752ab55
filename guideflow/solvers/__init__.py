"""The built-in solvers, one algorithm a file, and wrappers that change their moves."""

from guideflow.solvers._base import Solver as Solver
from guideflow.solvers._base import State as State
from guideflow.solvers.anchored import Anchored as Anchored
from guideflow.solvers.annealed import Annealed as Annealed
from guideflow.solvers.auto import Auto as Auto
from guideflow.solvers.control import ControlSolver as ControlSolver
from guideflow.solvers.control import Move as Move
from guideflow.solvers.control import Wrapper as Wrapper
from guideflow.solvers.flowgrad import FlowGrad as FlowGrad
from guideflow.solvers.momentum import Momentum as Momentum
from guideflow.solvers.noise_descent import NoiseDescent as NoiseDescent
from guideflow.solvers.polyak import Polyak as Polyak
from guideflow.solvers.trust_region import TrustRegion as TrustRegion
from guideflow.solvers.unanchored import Unanchored as Unanchored
