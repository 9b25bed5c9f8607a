"""One line that says how far a thing is, wherever it runs."""

import logging

import nbformat.v4 as nb
import papermill
import pytest
from nbconvert.preprocessors import CoalesceStreamsPreprocessor

CELL = """
import time
from nrms.runtime import progress
progress.EVERY = 0.3
for _ in progress.progress(range(20), "counting", delay=0, mininterval=0.1):
    time.sleep(0.1)
print("after")
"""


@pytest.fixture(scope="module")
def executed(tmp_path_factory):
    """What a papermill that was started by hand saves, and the lines of its log."""
    folder, lines = tmp_path_factory.mktemp("progress"), []
    nbformat = nb.new_notebook(cells=[nb.new_code_cell(CELL)], metadata={"kernelspec": {"name": "python3", "language": "python", "display_name": ""}})
    (folder / "in.ipynb").write_text(nb.writes(nbformat))
    handler = logging.Handler()
    handler.emit = lambda record: lines.append(record.getMessage())
    logger = logging.getLogger("papermill")
    before = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        saved = papermill.execute_notebook(str(folder / "in.ipynb"), None, log_output=True, progress_bar=False)
    finally:
        logger.removeHandler(handler)
        logger.setLevel(before)
    return saved, lines


def test_the_log_of_papermill_shows_how_far_it_is(executed):
    """Now and then a line with another share, the last one with all of it."""
    shares = [line.split("counting: ")[1].split("%")[0].strip() for line in executed[1] if "counting: " in line]
    assert 3 <= len(shares) <= 10 and len(set(shares)) >= 3 and shares[-1] == "100"


def test_the_saved_notebook_shows_the_last_line(executed):
    """As JupyterLab and nbconvert show it: each line over the one before; what is printed afterwards stands below."""
    cell = CoalesceStreamsPreprocessor().preprocess_cell(executed[0].cells[-1], {}, 0)[0]
    lines = "".join(output["text"] for output in cell.outputs if output.output_type == "stream" and output.name == "stdout").splitlines()
    assert len(lines) == 2 and "100%" in lines[0] and lines[1] == "after"
