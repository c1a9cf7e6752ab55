"""What a saved picture tells about itself, and what may be asked for and shown."""

from guideflow.provenance.credentials import check as check_credentials
from guideflow.provenance.guards import Guard as Guard
from guideflow.provenance.guards import check_prompts as check_prompts
from guideflow.provenance.guards import install as install
from guideflow.provenance.inspection import Inspection as Inspection
from guideflow.provenance.inspection import inspect as inspect
from guideflow.provenance.publishing import Published as Published
from guideflow.provenance.publishing import finished as finished
from guideflow.provenance.publishing import is_marked as is_marked
from guideflow.provenance.publishing import publish as publish
from guideflow.provenance.publishing import shown as shown
from guideflow.provenance.statement import public as public

__all__ = [
    "Guard",
    "Inspection",
    "Published",
    "check_credentials",
    "check_prompts",
    "finished",
    "inspect",
    "install",
    "is_marked",
    "public",
    "publish",
    "shown",
]
