from .layout import read_layout as read_layout
from .loaded import Segmenter as Segmenter
from .loss import Segmentation as Segmentation
from .networks import load_segmenter as load_segmenter
