"""A prediction says where its resolution is not that of nominal magnifications in training."""

from dataclasses import replace

from parfocal.models.checkpoint import Checkpoint
from parfocal.predict.nominal import nominal_notes


def trained_on(
    trained: Checkpoint, tool: str, mpps: dict[str, list[float]] | None = None
) -> Checkpoint:
    training = replace(trained.training, feature_tool=tool, feature_mpps=mpps or {})
    return replace(trained, training=training)


def test_nothing_is_said_of_features_by_parfocal(untrained: Checkpoint):
    assert nominal_notes(untrained, 0.2) == ()


def test_true_resolutions_of_the_training_are_compared(untrained: Checkpoint):
    mpps = {"2.5": [3.9, 4.0, 4.1], "10": [0.91, 0.93, 0.94]}
    (note,) = nominal_notes(trained_on(untrained, "TRIDENT", mpps), 0.25)
    assert note == (
        "The model was trained on features by TRIDENT, whose magnifications are nominal: 10x was "
        "truly 0.93 µm/px (0.91 to 0.94) in the training, and this slide is read at 1."
    )
    mpps["10"] = [0.93, 1.0, 1.01]
    assert nominal_notes(trained_on(untrained, "TRIDENT", mpps), 0.25) == ()


def test_without_them_the_resolution_that_trident_would_read_is_computed(untrained: Checkpoint):
    trained = trained_on(untrained, "TRIDENT")
    assert nominal_notes(trained, 0.25) == ()  # 40x
    (note,) = nominal_notes(trained, 0.2257)
    assert "10x of this scan is 0.903 µm/px there, and it is read at 1" in note
    assert nominal_notes(trained_on(untrained, "STAMP"), 0.2257) == ()
