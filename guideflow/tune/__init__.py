"""Search the options of a solver for one sampler with one loss, by judges that did not guide; keep them as a preset."""

from guideflow._require import require

for _needed in ("pydantic", "yaml", "pyarrow", "optuna"):  # before a module below asks for them at its top
    require(_needed, extra="tune")

from guideflow.tune.reading import read_tune as read_tune  # noqa: E402
from guideflow.tune.results import Outcome as Outcome  # noqa: E402
from guideflow.tune.results import Point as Point  # noqa: E402
from guideflow.tune.running import tune as tune  # noqa: E402
from guideflow.tune.spec import Tune as Tune  # noqa: E402
