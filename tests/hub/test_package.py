"""What is published names no slide, no patient and no file, and predicts as the run does."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from tests.hub.conftest import FINGERPRINT, SECRETS

from parfocal.hub.package import build_package, public_encoder
from parfocal.hub.repository import HubError
from parfocal.models.checkpoint import Checkpoint
from parfocal.predict.slide import predict


@pytest.fixture
def files(run: Path, evaluation: Path) -> dict[str, bytes]:
    package = build_package(
        run, name="hf:lab/model", evaluation=evaluation, license_id="apache-2.0"
    )
    return package.files


def test_the_files_are_those_that_the_hub_expects(files: dict[str, bytes]):
    assert set(files) == {"README.md", "config.json", "model.safetensors", "settings.yaml"}


def test_nothing_that_names_a_slide_a_patient_or_a_place_is_published(
    files: dict[str, bytes], run: Path
):
    kept = b"".join(path.read_bytes() for path in run.iterdir())
    assert all(secret.encode() in kept for secret in SECRETS)  # the run has them all
    for name, content in files.items():
        found = [secret for secret in SECRETS if secret.encode() in content]
        assert found == [], name
        assert str(run.parent).encode() not in content


def test_fingerprints_are_published_only_if_asked_for_and_without_ids(run: Path):
    config = build_package(run, name="x", fingerprints=True).files["config.json"]
    assert json.loads(config)["training"]["fingerprints"] == {FINGERPRINT: FINGERPRINT}
    assert b"KRAMER" not in config


def test_the_published_folder_predicts_as_the_run_does(
    files: dict[str, bytes], run: Path, slide: Path, tmp_path: Path
):
    folder = tmp_path / "published"
    folder.mkdir()
    for name, content in files.items():
        (folder / name).write_bytes(content)
    published, trained = Checkpoint.load(folder), Checkpoint.load(run)
    encoders = published.load_encoders()
    here = predict(slide, replace(trained, encoders=published.encoders), encoder=encoders)
    there = predict(slide, published)
    assert there.probabilities == here.probabilities
    assert there.regions == here.regions
    assert published.weights_hash == trained.weights_hash
    assert published.settings_hash == trained.settings_hash


def test_the_settings_train_again_without_paths(files: dict[str, bytes]):
    settings = yaml.safe_load(files["settings.yaml"])
    assert settings["train"]["init_from"] is None
    assert settings["train"]["labels"] == ["normal", "tumor"]
    assert settings["encoder"] == {**settings["encoder"], "name": "tiny", "weights": None}
    assert settings["model"]["k"] == 2


def test_the_card_says_what_the_model_is_and_how_well_it_does(files: dict[str, bytes]):
    card = files["README.md"].decode()
    _, header, text = card.split("---\n", 2)
    matter = yaml.safe_load(header)
    assert matter["license"] == "apache-2.0"
    assert matter["library_name"] == "parfocal"
    (result,) = matter["model-index"][0]["results"]
    assert {"type": "auroc_macro", "name": "macro AUROC", "value": 0.875} in result["metrics"]
    for line in (
        "# zoommil: normal, tumor",
        "    parfocal predict hf:lab/model slide.svs --out predictions",
        "| part | normal | tumor |",
        "| train | 2 of 2 | 1 of 1 |",  # S-KRAMER-01 and S-BRAUN-01; S-KRAMER-02
        "| test | 1 of 1 | 1 of 1 |",
        "1 slide could not be read and was left out.",
        "On 2 slides (normal 1, tumor 1) of part `test` of the cohort, with 95% intervals over "
        "patients.",
        "| macro AUROC | 0.875 (0.750 to 0.938) |",
        "| recall of normal | 0.875 (0.750 to 0.938) |",
        "| recall of tumor | undefined |",
        "Mean per slide: 40 patches (25% of those with tissue), 21.5 GMAC, 0.5 s on the machine of "
        "the evaluation.",
        "| 2.5x, 10x | tiny | 32 |",
        "Epoch 7 of a run with seed 3",
    ):
        assert line in text
    assert "not a medical device" in text
    assert "Apache-2.0" in text  # license of the encoder


def test_a_run_without_an_evaluation_has_a_card_that_says_so(run: Path):
    package = build_package(run, name="x")
    card = package.files["README.md"].decode()
    assert "## Evaluation\n\nNone was given." in card
    assert "model-index" not in card


def test_an_evaluation_inside_the_run_is_found(run: Path, evaluation: Path):
    evaluation.rename(run / "evaluation")
    assert "0.875" in build_package(run, name="x").files["README.md"].decode()


def test_an_evaluation_of_another_model_is_refused(run: Path, evaluation: Path):
    content = json.loads((evaluation / "metrics.json").read_text())
    content["model"]["weights_sha256"] = "0"
    (evaluation / "metrics.json").write_text(json.dumps(content))
    with pytest.raises(HubError, match="an evaluation of another model; give one of this run"):
        build_package(run, name="x", evaluation=evaluation)


@pytest.mark.parametrize(
    ("content", "reason"),
    [("{}", "cannot be read"), ('{"format_version": 2}', "damaged"), ("[", "cannot be read")],
)
def test_a_damaged_evaluation_is_refused(run: Path, evaluation: Path, content: str, reason: str):
    (evaluation / "metrics.json").write_text(content)
    with pytest.raises(HubError, match=reason):
        build_package(run, name="x", evaluation=evaluation)


def test_a_missing_evaluation_is_an_error(run: Path, tmp_path: Path):
    with pytest.raises(HubError, match=r"no metrics\.json; give the folder"):
        build_package(run, name="x", evaluation=tmp_path)


def test_the_notes_say_what_was_left_out(run: Path):
    notes = "\n".join(build_package(run, name="x").notes)
    assert "ids of 4 slides and 3 patients, and all paths" in notes
    assert "fingerprints of 1 slide files" in notes
    assert "the address of the encoder service" in notes


def test_an_encoder_from_a_local_folder_is_named_after_its_weights(untrained: Checkpoint):
    spec = replace(untrained.encoders[0], name="timm:local-dir:/home/ann/uni", weights_hash="ab12")
    assert public_encoder(spec).name == "timm:local-dir:encoder-ab12"


def test_an_encoder_whose_name_is_a_path_is_refused(untrained: Checkpoint):
    with pytest.raises(HubError, match="the name is a path of this machine"):
        public_encoder(replace(untrained.encoders[0], name="/home/ann/uni"))
