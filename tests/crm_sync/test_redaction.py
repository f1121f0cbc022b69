"""Redaction: a CRM's sentence stays useful and contains nothing of a user."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crm_sync.redaction import MAX_LENGTH, redacted, slugify_error


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("Provided external_id is blacklisted and disallowed", "Provided external_id is blacklisted and disallowed"),
        ("The value ada@example.org is not valid", "The value ... is not valid"),
        ("(ada@example.org)", "..."),
        ('Property values were not valid: "high"', "Property values were not valid: ..."),
        ("The value 'Ada Lovelace' is not valid", "The value ... is not valid"),
        ("The value `Ada Lovelace` is not valid", "The value ... is not valid"),
        ("The value “Ada Lovelace” is not valid", "The value ... is not valid"),
        ("Got {name: Ada} and [Ada] and <Ada>", "Got ... and ... and ..."),
        ("Call +49 30 123456 for order A-17", "Call ... ... ... for order ..."),
        ("at 2026-06-15T10:00:00Z, 0.84 too much", "at ... ... too much"),
        ("It isn't valid and doesn't exist", "It isn't valid and doesn't exist"),
        ('It ends "in the midst of', "It ends ..."),
        ("It ends 'in the midst of", "It ends ..."),
        ("It ends {in: the midst of", "It ends ..."),
        ("  much\n\twhite   space ", "much white space"),
        ("", ""),
        (None, "None"),
        ({"error": "odd"}, "..."),
    ],
)
def test_the_words_are_kept_and_not_what_they_quote(text: object, kept: str) -> None:
    assert redacted(text) == kept


@pytest.mark.parametrize(
    ("text", "private", "kept"),
    [
        ("User ada is unknown", ("ada",), "User ... is unknown"),
        ("User adaline and ada", ("ada", "adaline"), "User ... and ..."),
        ("User ada  lovelace is unknown", ("ada  lovelace",), "User ... is unknown"),
        ("User ada lovelace is unknown", ("ada\nlovelace",), "User ... is unknown"),
        ("/users/ada/properties", ("ada",), "/users/.../properties"),
        ("User ada", ("",), "User ada"),
        ("User a.b+ is unknown", ("a.b+",), "User ... is unknown"),
    ],
)
def test_a_text_known_to_be_private_is_left_out_wherever_it_stands(
    text: str, private: tuple[str, ...], kept: str
) -> None:
    assert redacted(text, *private) == kept


@pytest.mark.parametrize("length", [MAX_LENGTH - 1, MAX_LENGTH, MAX_LENGTH + 1, 1_000])
def test_a_sentence_has_its_length(length: int) -> None:
    text = redacted("a" * length)
    assert text == ("a" * length if length <= MAX_LENGTH else "a" * (MAX_LENGTH - 3) + "...")


@pytest.mark.parametrize(
    "text", ["a" * 3_000_000, '"' * 3_000_001, "{" * 3_000_000, "a@" * 1_000_000, "'a " * 1_000_000]
)
def test_a_reply_of_megabytes_is_read_in_no_time(text: str) -> None:
    """With patterns over the whole text this would take hours and exceed the test's time limit."""
    assert len(redacted(text, "nobody")) <= MAX_LENGTH


WORDS = st.lists(
    st.sampled_from(["The", "value", "of", "user", "isn't", "valid:", '"', "'", "{", "}", ","]), max_size=12
)
PRIVATE = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=3, max_size=20).filter(
    lambda text: len(text.split()) > 0 and not set(text.split()) & {"The", "value", "of", "user", "..."}
)


@given(WORDS, WORDS, PRIVATE)
def test_no_private_text_survives_among_any_words(before: list[str], after: list[str], private: str) -> None:
    words = " ".join(private.split())
    told = redacted(" ".join([*before, private, *after]), private)
    assert words not in told.replace("...", "\0")


# Codes


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("provided external_id is blacklisted and disallowed", "provided_external_id_is_blacklisted_and_disallowed"),
        ("Bad.", "bad"),
        ("The value ada@example.org is not valid", "the_value_is_not_valid"),
        ("Too long: ada lovelace", "too_long"),
        ("Not on the list 'ada'", "not_on_the_list"),
        ('Not on the list "ada"', "not_on_the_list"),
        ("one two three four five six seven eight nine ten", "one_two_three_four_five_six_seven_eight"),
        ("'ada' is not valid", "unknown"),
        ("1234", "unknown"),
        ("", "unknown"),
        (None, "none"),
        (["odd"], "unknown"),
    ],
)
def test_a_sentence_is_counted_by_its_plain_words(text: object, code: str) -> None:
    assert slugify_error(text) == code


@pytest.mark.parametrize("external_id", ["ada", "Ada", "ada lovelace", "(ada)"])
def test_a_code_is_the_same_for_every_user(external_id: str) -> None:
    assert slugify_error(f"User {external_id} is unknown", external_id) == "user_is_unknown"
