"""Load samplers, losses, solvers and metrics by name, from any installed package that offers them."""

from guideflow.registry.configs import config as config
from guideflow.registry.discovery import HOOKS as HOOKS
from guideflow.registry.discovery import broken as broken
from guideflow.registry.discovery import find as find
from guideflow.registry.discovery import not_found as not_found
from guideflow.registry.discovery import offers as offers
from guideflow.registry.discovery import plugins as plugins
from guideflow.registry.discovery import plural as plural
from guideflow.registry.discovery import refresh as refresh
from guideflow.registry.entries import Entry as Entry
from guideflow.registry.entries import Offer as Offer
from guideflow.registry.entries import Plugin as Plugin
from guideflow.registry.entries import is_file as is_file
from guideflow.registry.hooks import hookimpl as hookimpl
from guideflow.registry.loading import Option as Option
from guideflow.registry.loading import factory as factory
from guideflow.registry.loading import load_loss as load_loss
from guideflow.registry.loading import load_metric as load_metric
from guideflow.registry.loading import load_sampler as load_sampler
from guideflow.registry.loading import load_solver as load_solver
from guideflow.registry.loading import options as options
from guideflow.registry.weights import Download as Download
from guideflow.registry.weights import Footprint as Footprint
