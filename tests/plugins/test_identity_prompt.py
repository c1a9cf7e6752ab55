"""Nouns in prompts."""

import pytest

from guideflow.errors import InvalidArgument
from guideflow_identity import fill_subject


def test_nouns_take_their_places_in_the_prompt():
    assert fill_subject("a {subject} in a red shirt", "man") == "a man in a red shirt"
    assert fill_subject("A {subject} at sea", "elderly woman") == "An elderly woman at sea"
    assert fill_subject("an {subject}", "boy", suffix=", face") == "a boy, face"
    assert fill_subject("a {subject1} and a {subject2}", ["man", "woman"]) == "a man and a woman"
    assert fill_subject("the {subject}") == "the person"
    for prompt, nouns, message in [
        ("a person", "man", "Expected {subject} where"),
        ("a {subject2}", "man", "1 nouns were given"),
        ("a {subject}", "", "Expected a noun"),
        ("a {subject1}", ["man", "woman"], "1 places for 2 nouns"),
    ]:
        with pytest.raises(InvalidArgument) as caught:
            fill_subject(prompt, nouns)
        assert message in str(caught.value)
