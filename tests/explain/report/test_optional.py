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
def test_a_report_that_fails_is_told_with_what_writes_it_again(old, caplog, error, reason):
    with optional_report(old, retry_command="parfocal report run"):
        raise error
    assert caplog.messages == [
        f"{old} could not be written ({reason}); all else is. Try again: parfocal report run"
    ]


def test_an_earlier_report_is_not_left_to_be_taken_for_the_new_one(old):
    with optional_report(old, retry_command=""):
        raise KeyError
    assert not old.exists()


def test_who_interrupts_is_obeyed(old):
    with pytest.raises(KeyboardInterrupt), optional_report(old, retry_command=""):
        raise KeyboardInterrupt
