import pytest

from parfocal import audit as audit_module
from parfocal import compare as comparison
from parfocal.compare import ComparisonRow, ModelResult


@pytest.mark.parametrize("command", ["compare", "audit"])
def test_help_shows_an_example(parfocal, command):
    assert f"Example: parfocal {command}" in parfocal(command, "--help")[1]


def test_the_table_is_printed_and_failed_models_are_listed(parfocal, monkeypatch, tmp_path):
    calls = []

    def compare(cohort, candidates, out, **options):
        calls.append(
            ([candidate.name for candidate in candidates], options["seeds"], options["metric"])
        )
        (out / "results.md").write_text("the table\n")
        (out / "report.html").write_text("the page")
        return [
            ComparisonRow(ModelResult("mean")),
            ComparisonRow(ModelResult("max", reason="it broke")),
        ]

    monkeypatch.setattr(comparison, "compare", compare)
    code, out, err = parfocal(
        *("compare", "cohort.csv", "--models", "mean,max", "--out", tmp_path),
        *("--seeds", "2", "--metric", "accuracy", "--epochs", "1"),
    )
    assert calls == [(["mean", "max"], 2, "accuracy")]
    assert code == 1
    assert out == "the table\n\n"
    assert err == (
        "parfocal: 1 of 2 models failed:\nparfocal: max: it broke\n"
        "Next: to retry what failed, run the same command again; then open "
        f"{tmp_path / 'report.html'} in a browser\n"
    )


def test_an_unknown_model_is_refused_in_one_line(parfocal, tmp_path):
    code, _, err = parfocal("compare", "c.csv", "--models", "mean,abmill", "--out", tmp_path)
    assert code == 2
    assert err.startswith("parfocal: --models: unknown recipe 'abmill'; known: abmil, ")


def test_the_summary_of_an_audit_is_printed(parfocal, monkeypatch, tmp_path):
    class Summary:
        summary, failed, slides, agreement = "3 slides: all the same", (), (1, 2, 3), None

    monkeypatch.setattr(audit_module, "audit", lambda *arguments, **options: Summary())
    code, out, _ = parfocal("audit", "run", "cohort.csv", "--out", tmp_path)
    assert (code, out) == (0, f"3 slides: all the same; wrote {tmp_path / 'audit.json'}\n")
