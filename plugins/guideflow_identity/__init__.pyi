import pathlib

from .faces import FaceBackend as FaceBackend
from .faces import Faces as Faces
from .loss import Identity as Identity
from .loss import NoFaceFound as NoFaceFound
from .prompt import fill_subject as fill_subject

def example() -> pathlib.Path: ...
