import pathlib

from .faces import FaceBackend as FaceBackend
from .faces import Faces as Faces
from .loss import Identity as Identity
from .loss import Missing as Missing
from .loss import Outcome as Outcome
from .prompt import fill_subject as fill_subject
from .references import NoFaceFound as NoFaceFound

def example() -> pathlib.Path: ...
