"""Say in a prompt who the subject is."""

from __future__ import annotations

import re
from collections.abc import Sequence

from guideflow.errors import InvalidArgument

_PLACE = re.compile(r"(?:\b([Aa])n?\s+)?\{subject(\d*)\}")


def fill_subject(prompt: str, subject_noun: str | Sequence[str] = "person", *, suffix: str = "") -> str:
    """Put a noun for each subject into a prompt.

    Nothing is guessed from the reference: the noun is yours. RectifID's numbers were made with nouns that a classifier
    of gender and race had put in; to repeat them, give the nouns.

    Arguments:
        prompt: Text with `{subject}`, or `{subject1}`, `{subject2}`, ... for several; `a` or `an` before it is adapted.
        subject_noun: What to put there, such as "man" or "elderly woman"; a sequence for several subjects.
        suffix: Added at the end; RectifID always adds ", face".

    Returns:
        The prompt.

    Raises:
        InvalidArgument: If there is no place for a subject, or one without a noun.
    """
    nouns = [subject_noun] if isinstance(subject_noun, str) else list(subject_noun)
    if not nouns or not all(isinstance(noun, str) and noun.strip() for noun in nouns):
        raise InvalidArgument(f"Got subject_noun={subject_noun!r}. Expected a noun such as 'man', or a list of them.")
    used: set[int] = set()

    def noun(match: re.Match[str]) -> str:
        article, number = match.groups()
        place = int(number or 1) - 1
        if not 0 <= place < len(nouns):
            raise InvalidArgument(
                f"The prompt has a place for {{subject{number}}}, but {len(nouns)} nouns were given: {nouns}. "
                "Subjects count from 1; give one noun for each."
            )
        used.add(place)
        if not article:
            return nouns[place]
        return f"{article}{'n' if nouns[place].strip()[0].lower() in 'aeiou' else ''} {nouns[place]}"

    filled = _PLACE.sub(noun, prompt)
    if len(used) < len(nouns):
        raise InvalidArgument(
            f"Got the prompt {prompt!r} with {len(used)} places for {len(nouns)} nouns. Expected {{subject}} where the "
            "noun belongs, as in 'a {subject} in a red shirt', or {subject1}, {subject2} for several."
        )
    return filled + suffix
