"""The built-in solvers, one algorithm a file, wrappers that change their moves, and what solvers are written with."""

from guideflow.solvers.anchored import Anchored as Anchored
from guideflow.solvers.annealed import Annealed as Annealed
from guideflow.solvers.auto import Auto as Auto
from guideflow.solvers.base import Memory as Memory
from guideflow.solvers.base import Solver as Solver
from guideflow.solvers.base import State as State
from guideflow.solvers.base import by_image as by_image
from guideflow.solvers.base import dot as dot
from guideflow.solvers.base import gradients as gradients
from guideflow.solvers.base import norm as norm
from guideflow.solvers.base import per_window as per_window
from guideflow.solvers.base import shifts as shifts
from guideflow.solvers.base import step_size as step_size
from guideflow.solvers.base import times as times
from guideflow.solvers.base import unguided as unguided
from guideflow.solvers.base import unit_clip as unit_clip
from guideflow.solvers.control import ControlSolver as ControlSolver
from guideflow.solvers.control import Move as Move
from guideflow.solvers.flowgrad import FlowGrad as FlowGrad
from guideflow.solvers.momentum import Momentum as Momentum
from guideflow.solvers.noise_descent import NoiseDescent as NoiseDescent
from guideflow.solvers.polyak import Polyak as Polyak
from guideflow.solvers.trust_region import TrustRegion as TrustRegion
from guideflow.solvers.unanchored import Unanchored as Unanchored
from guideflow.solvers.windows import Windows as Windows
from guideflow.solvers.wrapper import Wrapper as Wrapper
