import pytest

from parfocal import audit as audit_module
from parfocal import compare as comparison
from parfocal.compare import Row
from parfocal.compare.table import Result


@pytest.mark.parametrize("command", ["compare", "audit"])
def test_help_shows_an_example(parfocal, command):
    assert f"Example: parfocal {command}" in parfocal(command, "--help")[1]


def test_the_table_is_printed_and_failed_models_are_listed(parfocal, monkeypatch, tmp_path):
    asked = []

    def compare(cohort, candidates, out, **options):
        asked.append(
            ([candidate.name for candidate in candidates], options["seeds"], options["metric"])
        )
        (out / "results.md").write_text("the table\n")
        (out / "report.html").write_text("the page")
        return [Row(Result("mean")), Row(Result("max", reason="it broke"))]

    monkeypatch.setattr(comparison, "compare", compare)
    code, out, err = parfocal(
        *("compare", "cohort.csv", "--models", "mean,max", "--out", tmp_path),
        *("--seeds", "2", "--metric", "accuracy", "--epochs", "1"),
    )
    assert asked == [(["mean", "max"], 2, "accuracy")]
    assert code == 1
    assert out == f"the table\n\n{tmp_path / 'report.html'}: open it in a browser\n"
    assert err == "parfocal: 1 of 2 models failed:\nparfocal: max: it broke\n"


def test_an_unknown_model_is_a_line(parfocal, tmp_path):
    code, _, err = parfocal("compare", "c.csv", "--models", "mean,abmill", "--out", tmp_path)
    assert code == 1
    assert err.startswith("parfocal: unknown recipe 'abmill'; known: abmil, ")


def test_what_an_audit_found_is_told_in_a_line(parfocal, monkeypatch, tmp_path):
    class Found:
        summary, failed, slides = "3 slides: all the same", (), (1, 2, 3)

    monkeypatch.setattr(audit_module, "audit", lambda *arguments, **options: Found())
    code, out, _ = parfocal("audit", "run", "cohort.csv", "--out", tmp_path)
    assert (code, out) == (0, f"3 slides: all the same; see {tmp_path / 'audit.json'}\n")
