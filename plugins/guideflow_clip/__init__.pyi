from .loss import Clip as Clip
from .models import LoadedClip as LoadedClip
from .models import load_clip as load_clip
