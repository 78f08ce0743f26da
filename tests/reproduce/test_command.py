from parfocal import reproduce as package
from parfocal.dataset.readers import MadeCohort


def test_help_shows_an_example(parfocal):
    assert "Example: parfocal reproduce zoommil-camelyon16" in parfocal("reproduce", "--help")[1]


def test_a_dry_run_prints_the_plan(parfocal, monkeypatch, tmp_path):
    calls = []

    def plan(reproduction, data, out, *, seeds, device):
        calls.append((reproduction.name, reproduction.epochs, data, out, seeds, device))
        return package.Plan("jsma-bach", ("12 slides.",), (), 0)

    monkeypatch.setattr(package, "plan", plan)
    code, out, _ = parfocal(
        *("reproduce", "jsma-bach", "--data", tmp_path, "--dry-run", "--out", tmp_path / "out"),
        *("--seeds", "2", "--epochs", "7", "--device", "cpu"),
    )
    assert calls == [("jsma-bach", 7, tmp_path, tmp_path / "out", 2, "cpu")]
    assert code == 0
    assert out.startswith("# jsma-bach\n\n12 slides.\n\n| step | repeats |")


def test_failed_experiments_and_damaged_slides_make_the_exit_code_1(
    parfocal, monkeypatch, tmp_path
):
    calls = []

    def run(reproduction, data, out, **options):
        calls.append((reproduction.name, reproduction.changes, options["seeds"]))
        (out / "table.md").write_text("the table\n")
        made = MadeCohort((), (), 0, {"a.tif": "a.tif: cut short"}, ())
        return package.ReproductionResult(made, 2, {"abmil": "it broke"})

    monkeypatch.setattr(package, "reproduce", run)
    code, out, err = parfocal(
        *("reproduce", "zoommil-bright", "--data", tmp_path, "--out", tmp_path),
        *("--encoder", "tiny", "--set", "abmil:model.dropout=0"),
    )
    assert calls == [("zoommil-bright", ("abmil:model.dropout=0", "encoder tiny"), 3)]
    assert (code, out) == (1, "the table\n\n")
    assert err == (
        "parfocal: 1 of 2 experiments failed:\nparfocal: abmil: it broke\n"
        "Next: to retry what failed, run the same command again; then "
        f"open {tmp_path / 'page.html'} in a browser\n"
        "parfocal: a.tif: cut short\n"
    )
