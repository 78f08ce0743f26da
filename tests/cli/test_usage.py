"""Mistakes in a command: one line that says what is wrong and how to get help."""

import re
import shlex
from collections.abc import Callable
from pathlib import Path

import pytest

from command_result import CommandResult, assert_refused
from parfocal.slide.synthetic.painting import MPPS, SIZES

MISTAKES = [
    (
        ("calibrate", "a", "b", "--features"),
        "--features requires an argument. See `parfocal calibrate --help`.",
    ),
    (("--debug", "--no-such"), "there is no option --no-such. See `parfocal --help`."),
    (("inspect", "a", "--mpp", "abc"), "--mpp: 'abc' is invalid; use a number."),
    (
        ("train", "a", "--out", "b", "--epochs", "x"),
        "--epochs: 'x' is invalid; use a whole number.",
    ),
    (("train", "a", "--out", "b", "--epochs", "0"), "--epochs: '0' is invalid; use 1 or more."),
    (("view", "a", "--port", "70000"), "--port: '70000' is invalid; use 65535 or less."),
    (
        ("evaluate", "a", "b", "--out", "c", "--split", "tst"),
        "--split: 'tst' is not one of 'train', 'val', 'test', 'all'.",
    ),
    (
        ("inspect", "a", "--tissue-method", "ots"),
        "--tissue-method: 'ots' is not one of 'otsu', 'gray', 'all'.",
    ),
    (("inspect", "a", "--magnifications", "10,x"), "--magnifications: '10,x' is not a list like"),
    (
        ("extract", "a", "--out", "b", "--magnifications", "10", "--shard", "5/4"),
        "--shard: 5/4: there is no such shard; shards are counted from 1, so the first of 4 is",
    ),
    (
        ("predict", "a", "b", "--out", "c", "--shard", "0/4"),
        "--shard: 0/4: there is no such shard;",
    ),
    (
        ("evaluate", "a", "b", "--out", "c", "--shard", "3"),
        "--shard: 3: give the number of the shard and of all shards, such as 3/8.",
    ),
    (("train", "a"), "--out is missing."),
    (
        ("train", "a", "--out", "b", "--target", "age,"),
        "--target: 'age,' has a column without a name; separate names by commas.",
    ),
    (
        ("--verbose", "recipes"),
        "--verbose: give --version with it; for the traceback of an error, use --debug.",
    ),
    (("train",), "COHORT is missing."),
    (("train", "a", "b", "c", "--out", "d"), "unexpected extra argument: b c."),
    (("train", "a", "--outt", "b"), "there is no option --outt. Did you mean --out?"),
    (("trainn", "a"), "there is no command trainn. Did you mean 'train'?"),
    (("train", "a", "--resume=3"), "--resume does not take a value."),
    (("cohort", "bach", "a"), "--out: give --out, --download or both."),
    (("inspect", "a", "--mpp=-1"), "--mpp: -1 is outside 0.05 to 50 microns per pixel."),
    (("inspect", "a", "--magnifications", "10,5"), "--magnifications: [10, 5] do not ascend;"),
    (
        ("inspect", "a", "--ray", "bogus"),
        "--ray: 'bogus' is not known; use local, auto, off, or the address of a cluster (HOST",
    ),
    (("doctor", "--ray", "bogus"), "--ray: 'bogus' is not known;"),
    (
        ("evaluate", "a", "b", "--out", "c", "--gpus", "-1"),
        "--gpus: '-1' is not a list of GPUs; write their numbers, such as 0,1.",
    ),
    (
        ("predict", "a", "b", "--out", "c", "--budget", "share=5%", "--budget=patches=3"),
        "--budget is given 2 times; give it once.",
    ),
    (("cohort", "convert", "a", "--out", "b", "--out", "c"), "--out is given 2 times;"),
    (("train", "a", "--seed", "1", "--seed", "2", "--seed", "3"), "--seed is given 3 times;"),
    (
        ("evaluate", "a", "b", "--out", "c", "--budget", "share=200%"),
        "--budget: share=200%: a share of the patches is at most 100%.",
    ),
    (
        ("predict", "a", "b", "--out", "c", "--budget", "half"),
        "--budget: 'half': 'half' is not a unit; write patches=100, share=5%, seconds=2, macs=50G "
        "or settled.",
    ),
    (
        ("train", "a", "--out", "b", "--device", "gpu"),
        "--device: 'gpu' is not known; choose auto, cpu, cuda or cuda:1.",
    ),
    (
        ("calibrate", "a", "b", "--max-disagreement", "2"),
        "--max-disagreement: 2: give a share of slides above 0 and below 1.",
    ),
    (
        ("calibrate", "a", "b", "--min-probability", "1"),
        "--min-probability: 1: give a probability from 0 to below 1.",
    ),
    (
        ("compare", "a", "--models", "mean", "--out", "b", "--shares", "101"),
        "--shares: '101' is not a share of the patches in percent, above 0 and at most 100.",
    ),
    (
        ("compare", "a", "--models", "mean", "--out", "b", "--shares", "5,1,5"),
        "--shares: 5 is listed twice; list it once.",
    ),
    (
        ("train", "a", "--out", "b", "--target", "grade:bogus"),
        "--target: 'grade:bogus': there is no task 'bogus'; use classification, ordinal, "
        "multilabel, regression, such as grade:ordinal.",
    ),
    (
        ("train", "a", "--out", "b", "--submit", "slurm", "--time", "1:00:00"),
        "--time: '1:00:00' is no column of times; the time limit of a job is --time-limit 1:00:00.",
    ),
    (("train", "a", "--out", "b", "--model", "zoomil"), "--model: unknown recipe 'zoomil'; known"),
    (("synth", "a", "--slides", "2", "--seed", "0", "--size", "9"), "--size: '9' is invalid; use"),
    (
        ("synth", "a", "--slides", "2", "--seed", "0", "--mpp", "8"),
        "--mpp: '8' is invalid; use 2 or less.",
    ),
]


@pytest.mark.parametrize(("command", "message"), MISTAKES)
def test_a_mistake_is_described_on_one_line(
    parfocal: Callable[..., CommandResult], command: tuple[str, ...], message: str
):
    found = parfocal(*command)
    assert found.code == 2
    assert found.err.startswith(f"parfocal: {message}")
    assert found.err.count("\n") == 1
    assert found.err.endswith("--help`.\n")
    assert "Value error" not in found.err


WRONG = [
    ("inspect a --array 3", "--array needs --submit slurm."),
    ("train a --out b --submit slurm --task survival", "train.time: task survival needs"),
    ("train a --out b --submit slurm --set model.k=x", "model.k: 'x' is invalid"),
    ("extract a --out b --submit slurm --magnifications 10 --encoder nosuch", "--encoder"),
    ("compare a --out b --submit slurm --models mean --set model.k=x", "unknown mean setting"),
    ("inspect a --scratch-gb 5", "--scratch-gb 5 needs --scratch."),
    ("inspect a --out b.jsonl --submit slurm --time-limit soon", "--time-limit soon: write minut"),
    ("inspect a --out b.jsonl --submit slurm --sbatch x", "--sbatch 'x': write one option of sb"),
    (
        "inspect a --out b.jsonl --submit slurm --partition 'a b'",
        "--partition 'a b': sbatch does not",
    ),
    ("evaluate a b --out c --gpus-per-worker 1", "--gpus-per-worker needs --workers or --ray."),
    ("evaluate a b --out c --set model.k", "--set: 'model.k' is not SECTION.KEY=VALUE; write"),
    ("evaluate a b --out c --set train.k=3", "--set: 'train.k=3': the settings of section train"),
    ("predict a b --out c --patients d --outlines e", "--outlines: it is for predictions per"),
    ("predict a b --out c --patients d --in-flight 2", "--in-flight 2: patients are predicted one"),
    ("evaluate a b --out c --encoder-at 5=x,5x=y", "--encoder-at: '5=x,5x=y': 5x is listed twice"),
    ("evaluate a b --out c --features 5=x,5x=y", "--features: '5=x,5x=y': 5x is listed twice"),
    ("evaluate hf:a b --out c", "'hf:a' is not a repository; give hf:OWNER/NAME or hf:OWNER/NAME@"),
    ("push a hf:b", "'hf:b' is not a repository; give hf:OWNER/NAME"),
    ("compare a --models mean,mean --out b", "mean is listed twice; list a model once"),
    (
        "compare a --models mean --out b --metric x",
        "--metric x: a comparison of task classification",
    ),
    (
        "compare a --models mean --out b --shares 5",
        "--shares: none of the models zooms into patches",
    ),
    ("compare a --models mean --out b --encoder x", "--encoder: encoder 'x' is not known."),
    ("train a --out b --encoder x", "--encoder: encoder 'x' is not known."),
    ("train a --out b --threshold 2", "--threshold '2' is not one of: youden, sensitivity=0.95"),
    ("train a --out b --covariates a:x", "--covariates: covariate 'a:x': unknown kind 'x'"),
    (
        "train a --out b --fusion mean",
        "--fusion=mean joins the predictions for the slides of a pat",
    ),
    ("train a --out b --magnifications 9-2", "--magnifications: '9-2' is a range, but model zoom"),
    (
        "extract a --out b --magnifications 10 --encoder-output x",
        "--encoder-output 'x' is not known",
    ),
    (
        "extract a --out b --magnifications 10 --encoder 5=tiny",
        "--encoder: 5x has tiny, but the magnifications are 10; remove it, or change "
        "--magnifications.",
    ),
    ("probe a --encoders tiny,x --out b", "--encoders: encoder 'x' is not known."),
    ("probe a --encoders tiny,tiny --out b", "--encoders: tiny is listed twice; list it once."),
    ("probe a --encoders tiny, --out b", "--encoders: a name is empty; list names as A,B,C."),
    ("serve-encoder x", "NAME: encoder 'x' is not known."),
    ("encoders x", "encoder 'x' is not known."),
    ("reproduce x --data a --out b", "unknown table 'x'; use one of jsma-bach, "),
    ("reproduce jsma-bach --data a --out b --set x", "'x' is not SECTION.KEY=VALUE; write it as"),
    ("cohort bach a --download x", "--download: 'bach' cannot be downloaded; camelyon16 and"),
    (
        "synth a --slides 2 --seed 0 --tiles b --endpoint ordinal",
        "--endpoint needs painted texture",
    ),
]


UNUSABLE = [
    ("train none.csv --out run", "none.csv: no such file; give a cohort"),
    ("train none.csv --out run --workers 2", "none.csv: no such file; give a cohort"),
    ("inspect none.svs", "none.svs: no such slide, folder or cohort table. Check the path."),
    ("inspect none.svs --tissue none", "--tissue none: no such file or folder;"),
    ("view none", "none: no such file or folder; check the path."),
    ("train none.csv --out run --config a.yaml", "a.yaml: cannot be read (No such file"),
    ("compare none.csv --out run --models a.yaml", "a.yaml: cannot be read (No such file"),
]


@pytest.mark.parametrize(
    ("line", "message", "code"),
    [*((*each, 2) for each in WRONG), *((*each, 1) for each in UNUSABLE)],
)
def test_wrong_usage_and_unusable_files_have_codes_of_their_own_and_leave_nothing(
    parfocal: Callable[..., CommandResult],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    *,
    line: str,
    message: str,
    code: int,
):
    monkeypatch.chdir(tmp_path)
    found = parfocal(*shlex.split(line))
    assert_refused(found, code=code)
    assert found.err.startswith(f"parfocal: {message}")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("option", "limits"), [("--size", SIZES), ("--mpp", MPPS)])
def test_the_limits_of_synth_are_those_of_what_can_be_painted(
    parfocal: Callable[..., CommandResult], option: str, limits: tuple[float, float]
):
    for wrong, limit in zip((0, 1_000_000), limits, strict=True):
        found = parfocal("synth", "a", "--slides", 2, "--seed", 0, option, wrong)
        number = re.search(r"is invalid; use (\S+) or", found.err)
        assert number is not None, found.err
        assert float(number[1]) == limit


def test_without_arguments_the_help_is_printed(parfocal: Callable[..., CommandResult]):
    found = parfocal()
    assert found.code == 0
    assert "Classify whole-slide images by learning where to zoom." in found.out


WRONG_FILES = [
    (("report", "none", "--out", "r.pdf"), ".html or .htm"),
    (("inspect", "none", "--picture", "sheet.txt"), ".html or .png"),
    (("inspect", "none", "--out", "results.csv"), ".jsonl"),
    (("cohort", "bach", "none", "--out", "cohort.xlsx"), ".csv"),
]


@pytest.mark.parametrize(("command", "allowed"), WRONG_FILES)
def test_an_output_file_of_another_format_is_refused(
    parfocal: Callable[..., CommandResult],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    command: tuple[str, ...],
    allowed: str,
):
    monkeypatch.chdir(tmp_path)
    refusal = f"{command[-2]}: {command[-1]}: this kind of file cannot be written here"
    assert_refused(parfocal(*command), refusal, allowed, code=2)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "command",
    [
        ("evaluate", "run", "cohort.csv", "--out", "metrics.json"),
        ("train", "cohort.csv", "--out", "model.pt"),
        ("predict", "run", "a.svs", "--out", "predictions.csv"),
        ("extract", "cohort.csv", "--magnifications", "10", "--out", "features.h5"),
    ],
)
def test_the_name_of_a_file_is_refused_as_an_output_folder(
    parfocal: Callable[..., CommandResult],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    command: tuple[str, ...],
):
    monkeypatch.chdir(tmp_path)
    refusal = f"--out: {command[-1]}: this is the name of a file"
    assert_refused(parfocal(*command), refusal, "a folder.", code=2)
