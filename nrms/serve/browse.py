"""How does one look at user after user? Pickers in a live notebook, and one user's page where nobody is there to pick.

The page is an output of its own, which the pickers replace: a notebook that was saved, executed by papermill or turned into HTML shows it as it was
last, and never a picker without a kernel behind it.
"""

import time
import traceback
from collections.abc import Sequence

import ipywidgets as widgets
import numpy as np
from IPython.display import HTML, display

from nrms import NrmsError
from nrms.data.examples import typical
from nrms.models.load import models_of
from nrms.runtime import errors
from nrms.runtime.progress import is_live
from nrms.runtime.run_record import Run
from nrms.serve.item_cards import compare
from nrms.serve.one_user import Ranking, Served, open_run

MOST = 5000  # users that the picker offers; any other can be typed
AMONG = {"what they were shown": True, "the whole catalogue": False}


class Browser:
    """Finished models of one data set, opened when they are first asked for, and the page of a user."""

    def __init__(self, dataset: str, runs: Sequence[Run], k: int = 10):
        self.runs = models_of(dataset)
        self.first = [next(name for name, other in self.runs.items() if other.folder == run.folder) for run in runs]
        self.opened: dict[str, Served] = {}
        self.k = k

    def served(self, name: str) -> Served:
        if name not in self.opened:
            self.opened[name] = open_run(self.runs[name])
        return self.opened[name]

    @property
    def somebody(self) -> str:
        """A user whose history and slate fit a screen."""
        test = self.served(self.first[0]).test
        return str(test.user[typical(test)])

    def page(self, user: object, names: Sequence[str], shown: bool = True) -> str:
        """HTML of a user of the test part, for these models; ranked is what the user was shown, or the whole catalogue."""
        models = [self.served(name) for name in names]
        readers = [model.reader(user=user) for model in models]
        return compare(models, [m.rank(r, self.k, r.shown if shown and len(r.shown) else None) for m, r in zip(models, readers, strict=True)])

    def show(self, user: object = None) -> None:
        """Displays the page of a user, by default of `somebody`; before it, where a person looks on, the pickers."""
        user = str(self.somebody if user is None else user)
        page = self.page(user, self.first)
        if not is_live():
            display(HTML(page))
            return
        pickers, box = self.pickers(user)
        note = "<p>Pickers for users and models need ipywidgets in JupyterLab.</p>"
        display({**box._repr_mimebundle_(), "text/html": note}, raw=True)  # where widgets are not known, the note is shown
        handle = display(HTML(page), display_id=True)

        def update(_: object = None) -> None:
            said = pickers["said"]
            said.value = "…"
            names = [pickers[side].value for side in ("left", "right") if pickers[side].value is not None]
            try:
                handle.update(HTML(self.page(pickers["user"].value, names, AMONG[pickers["among"].value])))
                said.value = ""
            except NrmsError as error:
                said.value = str(error)
            except Exception as error:  # nobody sees a callback's traceback: the page would just stop answering
                traceback.print_exc()
                kind = type(error).__name__
                said.value = errors.meaning(kind, str(error)) or f"This cannot be shown, by a fault of the program: {kind}: {error}"

        for name in ("user", "left", "right", "among"):
            pickers[name].observe(update, "value")

    def pickers(self, user: str) -> tuple[dict[str, widgets.Widget], widgets.Widget]:
        """{name: picker} and the box that they stand in."""
        model, style = self.served(self.first[0]), {"description_width": "4rem"}
        left, right = self.first[0], self.first[1] if len(self.first) > 1 else None
        among = list(AMONG) if model.config.data.protocol == "impressions" else list(AMONG)[1:]
        made = {
            "user": widgets.Combobox(
                value=user, options=list(model.users)[:MOST], description="user", placeholder="type to search", continuous_update=False, style=style
            ),
            "left": widgets.Dropdown(options=list(self.runs), value=left, description="A", style=style),
            "right": widgets.Dropdown(options=[("none", None), *((n, n) for n in self.runs)], value=right, description="B", style=style),
            "among": widgets.Dropdown(options=among, description="ranked", style=style),
            "said": widgets.Label(),
        }
        return made, widgets.VBox([widgets.Box([made[n] for n in ("user", "left", "right", "among")], layout={"flex_flow": "wrap"}), made["said"]])


def speed(served: Served, ranking: Ranking, calls: int = 20) -> str:
    """How long one call takes for this reader, reasons included, beside the multiplications that its scores need."""
    times = []
    for _ in range(calls):
        began = time.perf_counter()
        served.rank(ranking.reader)
        times.append(time.perf_counter() - began)
    items, width, clicks = len(served.tables.items) - 1, served.vectors.shape[1], len(ranking.reader.history)
    million, typical_ms = (clicks + 1) * items * width / 1e6, 1000 * float(np.median(times))
    return (
        f"({clicks} + 1) · {items:,} · {width} = {million:,.1f} million multiplications. Measured on {served.vectors.device.type}: "
        f"{typical_ms:.1f} ms a call with all reasons, the median of {calls}; opening the model took {served.seconds:.1f} s, once."
    )
