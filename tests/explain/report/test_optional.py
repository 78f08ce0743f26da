import pytest

from parfocal.explain.report import ReportError, optional_report


@pytest.fixture
def old(tmp_path):
    (tmp_path / "report.html").write_text("of earlier results")
    return tmp_path / "report.html"


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (ReportError("no\nrun here"), "no run here"),
        (OSError(28, "No space left on device"), "OSError: [Errno 28] No space left on device"),
        (KeyError("auroc"), "KeyError: 'auroc'"),
    ],
)
def test_a_failed_report_is_logged_with_the_command_that_writes_it(old, caplog, error, reason):
    with optional_report(old, retry_command="parfocal report run"):
        raise error
    assert caplog.messages == [
        f"{old} could not be written ({reason}); all other results are complete. To try again: "
        "parfocal report run"
    ]


def test_a_report_of_earlier_results_is_deleted(old):
    with optional_report(old, retry_command=""):
        raise KeyError
    assert not old.exists()


def test_an_interrupt_is_not_caught(old):
    with pytest.raises(KeyboardInterrupt), optional_report(old, retry_command=""):
        raise KeyboardInterrupt
