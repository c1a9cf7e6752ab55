from .loss import Measurement as Measurement
from .operators import Blur as Blur
from .operators import Downscale as Downscale
from .operators import Greyscale as Greyscale
from .operators import Mask as Mask
from .operators import Operator as Operator
