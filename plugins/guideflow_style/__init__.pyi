from .features import ClipTokens as ClipTokens
from .features import VggFeatures as VggFeatures
from .loss import Style as Style
from .loss import gram as gram
