import re

import pytest

from parfocal.settings import SettingsError, load_settings


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("train.epoch=3", "unknown train setting 'epoch'; known: epochs, patience,"),
        ("train.epoch=3", "Did you mean epochs?"),
        (
            "trian.epochs=3",
            "unknown section 'trian'; known: slide, encoder, model, train. Did you mean t",
        ),
        ("model.kk=3", "unknown zoommil setting 'kk'; known: dim, k, sigma"),
        ("model.num_magnifications=2", "unknown zoommil setting 'num_magnifications'"),
        (
            "model.name=zommil",
            "unknown model 'zommil'; known: zoommil, ",
        ),
        ("train.epochs=many", "train.epochs: 'many' is refused: input should be a valid integer"),
        (
            "train.epochs=0",
            "train.epochs: 0 is refused: input should be greater than or equal to 1",
        ),
        (
            "model.heads=triple",
            "model zoommil: heads='triple' is unknown",
        ),
        ("model.k=[3]", "model zoommil: k=[3] has 1 numbers, and 3 magnifications are 2 zooms"),
        ("slide.tissue=blue", "slide.tissue: 'blue' is refused"),
        ("slide.children=some", "slide.children: 'some' is refused"),
        ("encoder.runtime=gpu", "encoder.runtime: 'gpu' is refused"),
        ("slide.magnifications=10,2.5", "slide.magnifications: [10, 2.5] do not ascend"),
        ("slide.magnifications=[]", "slide.magnifications: [] do not ascend"),
        ("slide.magnifications=0,5", "slide.magnifications: [0, 5] do not ascend"),
        ("slide.magnifications=5,inf", "slide.magnifications: [5, inf] do not ascend"),
        ("slide.magnifications=5,12", "slide.magnifications: [5, 12] are not whole multiples"),
        ("slide.magnifications=5,6", "slide.magnifications: [5, 6] are not whole multiples"),
        ("slide.patch_size=0", "slide.patch_size: 0 pixels are no patch"),
        ("slide.min_tissue=10", "slide.min_tissue: 10 is no share; give one from 0 to 1."),
        ("slide.magnifications=a,b", "slide.magnifications.0: 'a' is refused"),
        ("train.epochs", "'train.epochs' is not section.key=value, as train.epochs=3."),
        ("epochs=3", "'epochs=3' is not section.key=value"),
        ("train.epochs=[", "'train.epochs=[': the value is not YAML"),
    ],
)
def test_a_wrong_value_is_refused_in_one_line(override, message):
    with pytest.raises(SettingsError, match=re.escape(message)) as caught:
        load_settings("zoommil", overrides=[override])
    assert "\n" not in str(caught.value)


def test_a_model_of_one_magnification_refuses_several():
    with pytest.raises(
        SettingsError, match=r"\[5, 10\], and model mean looks at one only; give one"
    ):
        load_settings("mean", overrides=["slide.magnifications=5,10"])


def test_a_warm_up_without_a_cosine_is_refused():
    with pytest.raises(SettingsError, match=r"train\.warmup=0\.2 is of the cosine, and the sched"):
        load_settings("mean", overrides=["train.warmup=0.2"])
