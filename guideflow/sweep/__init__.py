"""Sweeps: every combination of samplers, losses, solvers, references, prompts and seeds, in one resumable folder."""

from guideflow._require import require

for _needed in ("pydantic", "yaml", "pyarrow"):  # before a module below asks for them at its top
    require(_needed, extra="sweep")

from guideflow.sweep.jobs import Batch as Batch  # noqa: E402
from guideflow.sweep.jobs import Job as Job  # noqa: E402
from guideflow.sweep.jobs import Plan as Plan  # noqa: E402
from guideflow.sweep.reading import read_spec as read_spec  # noqa: E402
from guideflow.sweep.running import Counts as Counts  # noqa: E402
from guideflow.sweep.running import finished as finished  # noqa: E402
from guideflow.sweep.running import sweep as sweep  # noqa: E402
from guideflow.sweep.spec import Spec as Spec  # noqa: E402
from guideflow.sweep.store import read as read  # noqa: E402
