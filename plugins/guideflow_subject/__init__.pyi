from .detector import Detector as Detector
from .detector import OwlViT as OwlViT
from .detector import Query as Query
from .loss import NoSubjectFound as NoSubjectFound
from .loss import Subject as Subject

NETWORK: str
DETECTOR: str
