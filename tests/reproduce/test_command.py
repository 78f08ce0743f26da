from parfocal import reproduce as package
from parfocal.dataset.readers import Made


def test_help_shows_an_example(parfocal):
    assert "Example: parfocal reproduce zoommil-camelyon16" in parfocal("reproduce", "--help")[1]


def test_a_dry_run_prints_the_plan(parfocal, monkeypatch, tmp_path):
    asked = []

    def plan(reproduction, data, out, *, seeds, device):
        asked.append((reproduction.name, reproduction.epochs, data, out, seeds, device))
        return package.Plan("jsma-bach", ("12 slides.",), (), 0)

    monkeypatch.setattr(package, "plan", plan)
    code, out, _ = parfocal(
        *("reproduce", "jsma-bach", "--data", tmp_path, "--dry-run", "--out", tmp_path / "out"),
        *("--seeds", "2", "--epochs", "7", "--device", "cpu"),
    )
    assert asked == [("jsma-bach", 7, tmp_path, tmp_path / "out", 2, "cpu")]
    assert code == 0
    assert out.startswith("# jsma-bach\n\n12 slides.\n\n| step | times |")


def test_failed_experiments_and_damaged_slides_are_told_to_the_shell(
    parfocal, monkeypatch, tmp_path
):
    asked = []

    def run(reproduction, data, out, **options):
        asked.append((reproduction.name, reproduction.by_hand, options["seeds"]))
        (out / "table.md").write_text("the table\n")
        made = Made((), (), 0, {"a.tif": "a.tif: cut short"}, ())
        return package.Reproduced(made, 2, {"abmil": "it broke"})

    monkeypatch.setattr(package, "reproduce", run)
    code, out, err = parfocal(
        *("reproduce", "zoommil-bright", "--data", tmp_path, "--out", tmp_path),
        *("--encoder", "tiny", "--set", "abmil:model.dropout=0"),
    )
    assert asked == [("zoommil-bright", ("abmil:model.dropout=0", "encoder tiny"), 3)]
    assert (code, out) == (1, "the table\n\n")
    assert err == (
        "parfocal: 1 of 2 experiments failed:\nparfocal: abmil: it broke\n"
        "parfocal: a.tif: cut short\n"
    )
