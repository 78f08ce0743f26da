from dataclasses import replace

import pytest

from parfocal.encoders.loading import load_encoder
from parfocal.encoders.per_magnification import encoder_text, in_dim_of, per_magnification


def test_one_value_is_used_at_all_magnifications():
    assert per_magnification(3, 2) == (3, 3)
    assert per_magnification([3, 4], 2) == (3, 4)
    assert per_magnification(None, 2) == per_magnification([], 2) == ()


def test_another_number_of_encoders_than_magnifications_is_refused():
    with pytest.raises(ValueError, match="2 encoders for 3 magnifications; give one encoder for"):
        per_magnification([3, 4], 3)


def test_encoders_are_named_as_the_option_takes_them():
    assert encoder_text([], [2.5]) is None
    assert encoder_text(["a", "a"], [2.5, 10]) == "a"
    assert encoder_text(["a", "timm:b"], [1.25, 10.0]) == "1.25=a,10=timm:b"


def test_a_model_gets_one_width_for_one_encoder_and_a_list_for_several():
    one = load_encoder("tiny").spec
    assert in_dim_of([]) == 0
    assert in_dim_of([one, one]) == 32
    assert in_dim_of([one, replace(one, name="other", dim=48)]) == [32, 48]
    assert in_dim_of([one, replace(one, name="other")]) == [32, 32]  # of other meaning
