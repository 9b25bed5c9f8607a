"""How does one look at user after user? Pickers in a live notebook, and one user's page where nobody is there to pick.

The page is an output of its own, which the pickers replace: a notebook that was saved, executed by papermill or turned into HTML shows it as it was
last, and never a picker without a kernel behind it.
"""

import timeit
import traceback
from collections.abc import Sequence
from functools import cache

import ipywidgets as widgets
import numpy as np
from IPython.display import HTML, display

from nrms import NrmsError
from nrms.data.examples import typical
from nrms.models.load import models_of
from nrms.runtime import errors
from nrms.runtime.progress import is_live
from nrms.runtime.run_record import Run
from nrms.runtime.templates import render
from nrms.serve.item_cards import compare
from nrms.serve.one_user import Ranking, Served, open_run

MAX_USERS_OFFERED = 5000  # by the picker; any other can be typed
CANDIDATES = {"what they were shown": True, "the whole catalogue": False}


class Browser:
    """Finished models of one data set, opened when they are first asked for, and the page of a user."""

    def __init__(self, dataset: str, runs: Sequence[Run], k: int = 10):
        self.runs = models_of(dataset)
        names = {run.folder: name for name, run in self.runs.items()}
        self.first = [names[run.folder] for run in runs]
        self.served = cache(lambda name: open_run(self.runs[name]))
        self.k = k

    @property
    def somebody(self) -> str:
        """A user whose history and slate fit a screen."""
        test = self.served(self.first[0]).test
        return str(test.user[typical(test)])

    def page(self, user: object, names: Sequence[str], slate_only: bool = True) -> str:
        """HTML of a user of the test part, for these models; ranked is what the user was shown, or the whole catalogue."""
        models, rankings = [self.served(name) for name in names], []
        for model in models:
            reader = model.reader(user=user)
            rankings.append(model.rank(reader, self.k, reader.slate if slate_only and len(reader.slate) else None))
        return compare(models, rankings)

    def show(self, user: object = None) -> None:
        """Displays the page of a user, by default of `somebody`; before it, where a person looks on, the pickers."""
        user = str(self.somebody if user is None else user)
        page = self.page(user, self.first)
        if not is_live():
            display(HTML(page))
            return
        pickers, box = self.pickers(user)
        note = render("serve/no_pickers.html.j2")  # which is shown where widgets are not known
        display({**box._repr_mimebundle_(), "text/html": note}, raw=True)
        handle = display(HTML(page), display_id=True)

        def update(_: object = None) -> None:
            message = pickers["message"]
            message.value = "…"
            names = [pickers[side].value for side in ("left", "right") if pickers[side].value is not None]
            try:
                handle.update(HTML(self.page(pickers["user"].value, names, CANDIDATES[pickers["among"].value])))
                message.value = ""
            except NrmsError as error:
                message.value = str(error)
            except Exception as error:  # nobody sees a callback's traceback: the page would just stop answering
                traceback.print_exc()
                kind = type(error).__name__
                message.value = errors.meaning(kind, str(error)) or f"This cannot be shown, by a fault of the program: {kind}: {error}"

        for name in ("user", "left", "right", "among"):
            pickers[name].observe(update, "value")

    def pickers(self, user: str) -> tuple[dict[str, widgets.Widget], widgets.Widget]:
        """{name: picker} and the box that they stand in."""
        model, style = self.served(self.first[0]), {"style": {"description_width": "4rem"}}
        users = list(model.users)[:MAX_USERS_OFFERED]
        left, right = self.first[0], self.first[1] if len(self.first) > 1 else None
        among = list(CANDIDATES) if model.config.data.protocol == "impressions" else list(CANDIDATES)[1:]
        pickers = {
            "user": widgets.Combobox(value=user, options=users, description="user", placeholder="type to search", continuous_update=False, **style),
            "left": widgets.Dropdown(options=list(self.runs), value=left, description="A", **style),
            "right": widgets.Dropdown(options=[("none", None), *((n, n) for n in self.runs)], value=right, description="B", **style),
            "among": widgets.Dropdown(options=among, description="ranked", **style),
        }
        box = widgets.Box(list(pickers.values()), layout={"flex_flow": "wrap"})
        pickers["message"] = widgets.Label()
        return pickers, widgets.VBox([box, pickers["message"]])


def speed(served: Served, ranking: Ranking, calls: int = 20) -> str:
    """How long one call takes for this reader, reasons included, beside the multiplications that its scores need."""
    times = timeit.repeat(lambda: served.rank(ranking.reader), number=1, repeat=calls)
    items, width, clicks = len(served.tables.items) - 1, served.vectors.shape[1], len(ranking.reader.history)
    million, typical_ms = (clicks + 1) * items * width / 1e6, 1000 * float(np.median(times))
    return (
        f"({clicks} + 1) · {items:,} · {width} = {million:,.1f} million multiplications. Measured on {served.vectors.device.type}: "
        f"{typical_ms:.1f} ms a call with all reasons, the median of {calls}; opening the model took {served.seconds:.1f} s, once."
    )
