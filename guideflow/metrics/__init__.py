"""Metrics: numbers for finished pictures, by judges that did not guide."""

from guideflow.metrics.base import Case as Case
from guideflow.metrics.base import LossMetric as LossMetric
from guideflow.metrics.base import Measured as Measured
from guideflow.metrics.base import Metric as Metric
from guideflow.metrics.base import measured as measured
from guideflow.metrics.base import missed as missed
from guideflow.metrics.kid import KernelDistance as KernelDistance
