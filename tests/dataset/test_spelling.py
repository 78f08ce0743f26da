import pytest

from parfocal.dataset.spelling import (
    find_variants,
    hidden_character,
    is_missing,
    plain_form,
    plain_label,
)


@pytest.mark.parametrize(
    "text",
    [
        *("", "NA", "N/A", "#N/A", "nan", "NaN", "-nan", "null", "None", "-", "?", "???", "−", "…"),
        *("_", "*", "''", "<NA>", "(null)", "n. a.", "N\\A", "#SPILL!", "#DIV/0!", "#NAME?"),
        *("not available", "[Not Available]", "[Unknown]", "missing", "Not Reported", "1.#QNAN"),
    ],
)
def test_these_cells_have_no_value(text):
    assert is_missing(text)


@pytest.mark.parametrize(
    "text",
    [
        "normal",
        "0",
        "nana",
        "none of these",
        "n",
        "unknown",
        "+",
        "++",
        "(0)",
        "#1",
        "<5",
        "missing lung",
    ],
)
def test_these_cells_have_a_value(text):
    assert not is_missing(text)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Tumor", "tumor"),
        ("in  situ", "in situ"),
        ("a\u00a0b", "a b"),
        ("é", "e\u0301"),
        ("\uff11", "1"),  # full width
        ("2", "2.0"),
        ("2,5", "2.50"),
        ("3+3", "3 + 3"),
        ("3\u20133", "3-3"),
        ("Stra\u00dfe", "STRASSE"),
        ("n\u043ermal", "normal"),  # Cyrillic o
        ("\u0391", "A"),  # Greek
    ],
)
def test_texts_that_look_the_same_have_one_form(one, other):
    assert plain_form(one) == plain_form(other)
    assert find_variants(["x", one, "y", one, other]) == (one, other)


@pytest.mark.parametrize(
    ("one", "other"),
    [("3+4", "4+3"), ("-1", "1"), ("grade 1", "grade 11"), ("a-b", "ab"), ("", "0")],
)
def test_texts_that_differ_have_two_forms(one, other):
    assert plain_form(one) != plain_form(other)
    assert find_variants([one, other]) is None


@pytest.mark.parametrize(
    ("one", "other"), [("low_grade", "Low grade"), ("low-grade", "low_grade"), ("ER_+", "er +")]
)
def test_labels_that_differ_in_how_words_are_joined_have_one_form(one, other):
    assert plain_label(one) == plain_label(other)
    assert find_variants([one, other], form=plain_label) == (one, other)
    assert find_variants([one, other]) is None


@pytest.mark.parametrize(("one", "other"), [("3-4", "34"), ("3_4", "34"), ("-1", "1")])
def test_labels_whose_numbers_differ_have_two_forms(one, other):
    assert plain_label(one) != plain_label(other)


def test_a_character_that_cannot_be_seen_is_named():
    assert hidden_character("plain text") is None
    assert hidden_character("a\u00a0b") is None
    assert hidden_character("a\tb") == "control character u+0009"
    assert hidden_character("\ufefftumor") == "zero width no-break space"
    assert hidden_character("\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645") is None


@pytest.mark.parametrize(
    ("one", "other", "equal"),
    [
        ("9876543210000001", "9876543210000002", False),
        ("007", "+7.00", True),
        ("0.50", "0,5", True),
        ("-1", "1", False),
        ("100", "1", False),
        ("0", "0.0", True),
    ],
)
def test_numbers_are_equal_if_all_their_digits_are(one, other, equal):
    assert (plain_form(one) == plain_form(other)) is equal
