from pathlib import Path


def test_convert_prints_what_was_changed_and_lists_slides_without_a_file(parfocal, tmp_path: Path):
    (tmp_path / "slides").mkdir()
    for name in ("a.svs", "b.svs"):
        (tmp_path / "slides" / name).touch()
    table, out = tmp_path / "table.csv", tmp_path / "cohort.csv"
    table.write_text("case_id,slide_id,label\nP,a,x\nQ,b,y\nR,c,y\n")
    command = ("cohort", "convert", table, "--slides", tmp_path / "slides", "--out", out)
    found = parfocal(*command)
    assert found.code == 1
    assert found.out.splitlines() == [
        "table.csv: CLAM",
        "renamed: case_id = patient_id",
        f"2 slides of 2 patients: x 1, y 1; wrote {out}",
    ]
    assert f"Next: parfocal train {out} --out run\n" in found.err
    assert "parfocal: 1 slides have no file: c\n" in found.err
    assert parfocal(*command, "--partial").code == 0


def test_a_wrong_use_of_convert_is_refused_on_one_line(parfocal, tmp_path: Path):
    table = tmp_path / "table.csv"
    table.write_text("case_id,slide_id,label\nP,a,x\n")
    found = parfocal("cohort", "convert", table, "--out", tmp_path / "a.csv", "--from", "slideflow")
    assert found.code == 2
    assert "slideflow" in found.err
    found = parfocal("cohort", "convert", tmp_path / "none.csv", "--out", tmp_path / "a.csv")
    assert found.code == 1
    assert found.err == f"parfocal: {tmp_path / 'none.csv'}: no such file.\n"
