"""Loading without a progress bar for every small file."""

from collections.abc import Iterator
from contextlib import contextmanager

from guideflow._require import require


@contextmanager
def without_progress_bars() -> Iterator[None]:
    """Switch the bars that transformers draws while it loads weights off, and back to what they were."""
    logging = require("transformers", extra="diffusers").utils.logging
    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()
