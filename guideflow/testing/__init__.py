"""Conformance checks for losses, samplers, solvers and metrics, for the test suites of plugins.

In a script, `check_loss(make)` runs every check and reports all failures together. With pytest,

    @parametrize_loss(make)
    def test_conforms(check):
        check()

shows each as a test of its own. Both take `expected_failures={"name of a check": "reason"}`; one that passes
nevertheless is an error, so that the list cannot go stale.
"""

from guideflow.testing._fake import fake_distribution as fake_distribution
from guideflow.testing._run import ConformanceFailure as ConformanceFailure
from guideflow.testing._run import UnexpectedPass as UnexpectedPass
from guideflow.testing.losses import check_loss as check_loss
from guideflow.testing.losses import parametrize_loss as parametrize_loss
from guideflow.testing.metrics import check_metric as check_metric
from guideflow.testing.metrics import parametrize_metric as parametrize_metric
from guideflow.testing.samplers import check_sampler as check_sampler
from guideflow.testing.samplers import parametrize_sampler as parametrize_sampler
from guideflow.testing.solvers import check_solver as check_solver
from guideflow.testing.solvers import parametrize_solver as parametrize_solver
