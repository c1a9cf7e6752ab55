from .bundled import portrait as portrait
from .bundled import portraits as portraits
from .identity import AvatarsIdentity as AvatarsIdentity
from .samplers import BASE as BASE
from .segmentation import AvatarsSegmentation as AvatarsSegmentation
from .style import AvatarsStyle as AvatarsStyle
from .subject import AvatarsSubject as AvatarsSubject
