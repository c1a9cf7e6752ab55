from .bundled import portrait as portrait
from .bundled import portraits as portraits
from .identity import AvatarsIdentity as AvatarsIdentity
from .samplers import BASE as BASE
from .segmentation import avatars_segmentation as avatars_segmentation
from .style import avatars_style as avatars_style
from .subject import avatars_subject as avatars_subject
