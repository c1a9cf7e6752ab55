"""`avatars-subject`: distance of images, or of what is found in them, in features learnt without labels."""

from __future__ import annotations

import inspect
import re
from functools import partial
from typing import Any, Final

from guideflow.losses.vision import References
from guideflow_avatars.identity import SIZE, WEIGHTS
from guideflow_subject import Subject

DEFAULTS: Final = {"network": None, "size": SIZE, "detector": None}


def avatars_subject(reference: References, **options: Any) -> Subject:
    """Distance between portraits in the features of a small vision transformer that was trained without labels.

    `subject` with a network of DINOv2's layout for 128x128 portraits and without a detector, so that whole images are
    compared; with one, several people in one image are told apart. Its features know skin and hair colour best, shapes
    of hair partly, beards hardly; place, size, mirror image, background and clothes matter little. 0 is a perfect
    likeness. Not for a likeness in every feature, for which `avatars-identity` has the better network.

    Arguments:
        reference: An image of the subject: a path, or a tensor (1, 3, H, W) or (3, H, W) in [0, 1]. With a detector, a
            list with one entry for each subject: an image, or a list of images of that subject.
        **options: Those of [`Subject`][guideflow_subject.Subject], with other defaults for `network` (None: the bundled
            one), `size` and `detector`.

    Source: Sun et al., RectifID (2024), appendix C, with features trained by InfoNCE (van den Oord et al., 2018).
    """
    options = DEFAULTS | options
    options["network"] = WEIGHTS / "subject" if options["network"] is None else options["network"]
    loss = Subject(reference, **options)
    loss.name = "avatars-subject"
    return loss


# What `guideflow info` shows, and how the command line reads options.
_ARGUMENTS = re.compile("    Arguments:\n.*?\n\n", re.DOTALL)
avatars_subject.__signature__ = inspect.signature(partial(Subject, **DEFAULTS))  # type: ignore[attr-defined]
if avatars_subject.__doc__ and Subject.__doc__:  # not under `python -OO`
    theirs = _ARGUMENTS.findall(Subject.__doc__)[0]
    avatars_subject.__doc__ = _ARGUMENTS.sub(lambda _: theirs, avatars_subject.__doc__)
