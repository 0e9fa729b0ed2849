"""What a run has written of one class alone goes with it, and nothing else of its files."""

import json
from pathlib import Path

from making.checkpoints import trained_state
from pfm.forgetting.figures import figure_files, without_figures
from pfm.forgetting.ledger import LEDGER, read
from pfm.model.checkpoint import save_checkpoint
from pfm.runlog import RunLog
from pfm.storage import write_json
from pfm_export.erasing import erase_everywhere

MODES = {"full_bank": 0.5, "class_1": 0.25, "class_2": 0.125, "class_12": 0.75}


def run_folder(folder: Path) -> Path:
    folder.mkdir()
    save_checkpoint(folder / "colours_seed_0_1.pt", trained_state())
    write_json(folder / "colours_seed_0_accuracies.json", {name: [value] for name, value in MODES.items()})
    with RunLog(folder / "colours_seed_0_log.jsonl", is_main=True) as log:
        log.write("step", step=1, loss=0.5)
        log.write("epoch", epoch=1, accuracies=MODES)
    write_json(folder / "other_accuracies.json", {"class_2": [0.5]})
    return folder


def test_figures_of_a_class_go_with_it_when_a_run_is_erased_from(tmp_path: Path) -> None:
    folder = run_folder(tmp_path / "run")
    first_line = (folder / "colours_seed_0_log.jsonl").read_bytes().splitlines()[0]
    erase_everywhere([folder], ["blue"])
    accuracies = json.loads((folder / "colours_seed_0_accuracies.json").read_text())
    assert accuracies == {name: [value] for name, value in MODES.items() if name != "class_2"}
    lines = (folder / "colours_seed_0_log.jsonl").read_bytes().splitlines()
    assert lines[0] == first_line
    assert list(json.loads(lines[1])["accuracies"]) == ["full_bank", "class_1", "class_12"]
    figures = read(folder / LEDGER)[-1]["figures"]
    assert figures == ["colours_seed_0_accuracies.json", "colours_seed_0_log.jsonl"]
    assert "class_2" in (folder / "other_accuracies.json").read_text()  # of a run that is not here


def test_a_file_without_figures_of_the_class_keeps_its_bytes() -> None:
    content = b'{"class_12":[0.5]}'
    assert without_figures(content, [2]) == content


def test_a_line_that_was_cut_off_goes_where_it_names_the_class() -> None:
    content = b'{"a": 1}\n{"accuracies": {"class_2": 0.1'
    assert without_figures(content, [2]) == b'{"a": 1}\n'
    assert without_figures(content, [3]) == content


def test_files_of_figures_are_those_of_the_run(tmp_path: Path) -> None:
    folder = run_folder(tmp_path / "run")
    found = figure_files([folder / "colours_seed_0_1.pt", folder / "colours_seed_0_best.pt", folder / "x.pt"])
    assert [path.name for path in found] == ["colours_seed_0_accuracies.json", "colours_seed_0_log.jsonl"]
