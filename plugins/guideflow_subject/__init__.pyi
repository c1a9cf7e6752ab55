from .detector import Detector as Detector
from .detector import OwlViT as OwlViT
from .loss import Outcome as Outcome
from .loss import Subject as Subject
from .published import DETECTOR as DETECTOR
from .published import NETWORK as NETWORK
from .sights import NoSubjectFound as NoSubjectFound
