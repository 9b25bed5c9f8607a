"""What tests/test_kills.py kills: a data set is made ready, a model trained on frozen vectors of a local encoder, judged, and the pages written.

python tests/killed.py FOLDER [N]       FOLDER: the log that the data set is made of; N: dies at the N-th touch of a file under NRMS_HOME
"""

import os
import signal
import sys
from pathlib import Path

WRITES = {"os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.truncate"}  # what Python says before it does them; `open` has its mode
VALUES = {"dim": 16, "heads": 2, "query_dim": 8, "batch_size": 7, "epochs": 12, "save_minutes": 0.0, "device": "cpu"}
touches = 0


def die_at(last: int) -> None:
    """This process kills itself just before it touches a file of its home for the `last` time."""
    home = os.environ["NRMS_HOME"]

    def hook(event: str, arguments: tuple) -> None:
        global touches
        writes = event in WRITES or (event == "open" and arguments[2] & (os.O_WRONLY | os.O_RDWR))
        if not writes or home not in str(arguments[0]):
            return
        touches += 1
        if touches == last:
            os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)


def main(source: Path) -> None:
    from nrms.config import resolve
    from nrms.data.prepare import prepare
    from nrms.evaluate import evaluate, evaluate_references
    from nrms.models.items.local_models import RECIPE
    from nrms.report.pages import index_page
    from nrms.runtime import data_folder
    from nrms.train import train

    RECIPE["shown"] = 1000  # what the encoder has learned does not matter here
    config = resolve("morec_ts_sasrec", "movies", name="killed", **VALUES)
    if not (data_folder("movies") / "manifest.json").exists():
        prepare("movies", config.data, source)
    train(config)
    evaluate(config)
    evaluate_references(config)
    index_page.write()


if __name__ == "__main__":
    die_at(int(sys.argv[2]) if len(sys.argv) > 2 else 0)
    main(Path(sys.argv[1]))
    print(touches)
