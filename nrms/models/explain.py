"""What does a model do? Its sizes, what it makes of one item and one batch, its time and memory, estimated and measured, for notebooks."""

import time
from typing import NamedTuple

import pandas as pd
import torch
from pandas.io.formats.style import Styler

from nrms.config.resolved import Config
from nrms.data.batches import Batch
from nrms.models.items.encoders import Frozen, ImageEncoder, TextEncoder
from nrms.models.items.ids import IdTable
from nrms.models.recommender import Recommender, distinct
from nrms.models.warm_start import MAX_NAMES_SHOWN, WarmStart
from nrms.runtime.notebook_output import code, readable
from nrms.runtime.run_record import Run


def batch_rows(news, batch, rows: int = 2) -> Styler:
    """The first rows of a training batch: the click, what it is to beat, and how much history stands before it."""
    lines = []
    for r in range(min(rows, len(batch))):
        mask, clicked = batch.candidate_mask[r], batch.clicked[r]
        slate = batch.candidates if batch.candidates.dim() == 1 else batch.candidates[r]
        line = {"clicked": news.name(int(batch.target[r]))}
        for i, (other, exists) in enumerate(zip(slate[~clicked][:4], mask[~clicked][:4], strict=True), 1):
            line[f"not clicked {i}"] = news.name(other) if exists else "(masked: there are no more)"
        line["candidates in all"] = int(mask.sum())
        line["history"] = int(batch.history_mask[batch.history_id[r]].sum() if batch.position is None else batch.position[r])
        lines.append(line)
    return readable(pd.DataFrame(lines).T)


def economy(model, batch, encoded: int) -> str:
    """How many items one step encodes, beside what the ordinary way would encode: every history of every row, every candidate."""
    if model.users.is_graph:
        return f"This step reads the vectors of all {encoded:,} items and of all users, for its graph; the batch has {len(batch):,} rows."
    history = batch.history_mask[batch.history_id] if batch.position is None else batch.history_mask  # one pass serves all rows of a window
    count = int(history.sum()) + int(batch.candidate_mask.sum() if batch.candidates.dim() == 2 else len(batch.candidates))
    return (
        f"This batch has {count:,} places in {len(batch):,} rows, filled by {encoded:,} different items: taking each once saves a factor of "
        f"{count / encoded:.1f}."
    )


def tokens(model: Recommender, title: str) -> str:
    """What the text encoder of a recommender reads of a title, in Markdown."""
    encoder = next((encoder for name, encoder in model.items.encoders.items() if name in ("text", "joint")), None)
    if encoder is None:
        return "This experiment reads no text."
    if not hasattr(encoder, "tokenizer"):
        return "The text encoder is frozen: its vectors were made once and are looked up."
    pieces = encoder.tokenizer.convert_ids_to_tokens(encoder.tokenizer(title)["input_ids"])
    read = pieces[: encoder.title_tokens]
    return f"{code(' '.join(read))}: {len(pieces)} pieces, of which {len(read)} are read."


def tuning(model) -> Styler:
    """What of each encoder learns: the report of its tuning, or what the table in its place says."""
    lines = {name: str(encoder.what_learns if hasattr(encoder, "what_learns") else encoder.report) for name, encoder in model.items.encoders.items()}
    return readable(pd.DataFrame({"what learns": lines}))


def transfer(warm: WarmStart | None) -> Styler:
    """What came along from the checkpoint that a recommender starts from, what was left there, and what is fresh."""
    if warm is None:
        return readable(pd.DataFrame({"from elsewhere": {"nothing": "there is no start: weights are fresh, or as their encoders came"}}))
    kinds = {
        "stays": "taken, and stays as it came",
        "learns": "taken, and learns on",
        "fresh": "not taken, and learns: fresh, or as its encoder came",
        "bound": "left there: bound to the items or users of those data",
        "unfit": "left there: nothing here has its name and shape",
    }
    lines = {}
    for kind, about in kinds.items():
        names = getattr(warm, kind)
        rest = ", ..." if len(names) > MAX_NAMES_SHOWN else ""
        lines[about] = {"tensors": len(names), "names": ", ".join(names[:MAX_NAMES_SHOWN]) + rest}
    return readable(pd.DataFrame(lines).T.rename_axis(f"from {warm.origin}"))


def sizes(model: Recommender) -> Styler:
    """Parameters of a recommender by learning-rate group and module."""
    lines = []
    for group, parameters in model.groups().items():
        ids = {id(p) for p in parameters}
        for name, module in (("items", model.items), ("users", model.users)):
            if count := sum(p.numel() for p in module.parameters() if id(p) in ids):
                lines.append({"group": group, "module": name, "parameters": f"{count:,}"})
    return readable(pd.DataFrame(lines, columns=["group", "module", "parameters"]).set_index("group"))


def estimate_encoder(encoder, config: Config, modality: str) -> tuple[str, int] | None:
    """Formula and number of the large weights of an item encoder; None where no short formula has them."""
    d, q = config.dim, config.query_dim
    if isinstance(encoder, IdTable):
        return "(N + 1) D", len(encoder.known) * d
    if isinstance(encoder, Frozen):
        w = encoder.table.shape[-1]
        formula, total = "depth W² + W D", len(encoder.hidden) * w * w + w * d
        if isinstance(encoder.table, torch.nn.Parameter):
            formula, total = f"{formula} + (N + 1) W", total + encoder.table.numel()
        return formula, total
    if not isinstance(encoder, (TextEncoder, ImageEncoder)) or config.tuning_of(modality) not in ("full", "lora"):
        return None
    facts = encoder.model.config
    try:
        w, f, layers = facts.hidden_size, facts.intermediate_size, facts.num_hidden_layers
        total = layers * (4 * w * w + 2 * w * f) + w * d + (w * q if config.pooling == "attention" else 0)
        if isinstance(encoder, TextEncoder):
            return "layers (4 W² + 2 W F) + (words + places) W + W D + W Q", total + (facts.vocab_size + facts.max_position_embeddings) * w
        patches = (facts.image_size // facts.patch_size) ** 2
        return "layers (4 W² + 2 W F) + (3 P² + patches) W + W D + W Q", total + (3 * facts.patch_size**2 + patches) * w
    except AttributeError:  # a model that is not made of such layers
        return None


def estimate_users(config: Config) -> tuple[str, int] | None:
    """Formula and number of the large weights of a user encoder; None where no short formula has them."""
    d, layers = config.dim, config.layers
    return {
        "nrms": ("3 D² + D Q", 3 * d * d + d * config.query_dim),
        "sasrec": ("12 D² layers + (L + 1) D", 12 * d * d * layers + (config.history + 1) * d),
        "bert4rec": ("12 D² layers + (L + 1) D", 12 * d * d * layers + (config.history + 1) * d),
        "gru4rec": ("6 D² layers", 6 * d * d * layers),
    }.get(config.users if config.fusion != "late" else "")


def parameters(model: Recommender, config: Config) -> Styler:
    """Parameters of every part: estimated by a formula of its large matrices, where a short one has them, and counted."""
    parts = {f"items: {name}": (e, estimate_encoder(e, config, name)) for name, e in model.items.encoders.items()}
    parts |= {"items: fusion": (model.items.fusion, None), f"users: {config.users}": (model.users, estimate_users(config))}
    lines = {}
    for name, (module, estimate) in parts.items():
        if counted := sum(p.numel() for p in module.parameters()):
            formula, about = estimate or ("no short formula", 0)
            off = f"{about / counted - 1:+.1%}" if about else ""
            lines[name] = {"formula": formula, "estimated": f"{about:,}" if about else "", "counted": f"{counted:,}", "estimate is off by": off}
    return readable(pd.DataFrame(lines).T)


@torch.inference_mode()
def shapes(model: Recommender, batch: Batch) -> Styler:
    """What flows through the model for one batch, with the letters of its shapes and the numbers they have here."""
    model.eval()
    if model.users.is_graph:
        table = model.table()
        final = model.users.views(table)["final"]
        lines = [("vectors of all items", "(N + 1, W)", table.shape), ("the same and all users, after the graph", "(N + 1 + users, W)", final.shape)]
        scores = model(batch).scores
    else:
        ids, index = distinct(batch)
        vectors = model.items(ids)
        states, scores = model.states_and_scores(vectors, index, batch)
        gathered = (*batch.history.shape, vectors.shape[1])
        lines = [("items of the batch, each once", "(U,)", ids.shape), ("their vectors", "(U, D)", vectors.shape)]
        lines += [("histories, gathered", "(R, L, D)", gathered), ("user states", "(R, D), with by-place states (R, L + 1, D)", states.shape)]
    lines += [("candidates", "(B, C), or (C,) where all rows have the same", batch.candidates.shape), ("scores", "(B, C)", scores.shape)]
    return readable(pd.DataFrame([(a, b, str(tuple(c))) for a, b, c in lines], columns=["what", "letters", "here"]).set_index("what"))


@torch.inference_mode()
def vector(model: Recommender, news, item: int, most: int = 6) -> str:
    """One item as the model's item tower has it: its first numbers, its length, and what each modality gave."""
    model.eval()
    device = model.items.lengths.device
    ids = torch.tensor([item], device=device)
    v = model.items(ids)[0].float().cpu()
    parts, present = model.items.modality_vectors(ids)
    sources = []
    for modality, part, has in zip(model.items.encoders, parts[0], present[0], strict=True):
        sources.append(f"{modality} of length {part.float().norm().item():.2f}" if has else f"no {modality}")
    numbers = ", ".join(f"{x:+.2f}" for x in v[:most]) + (", ..." if len(v) > most else "")
    return f"{code(news.name(item))} becomes v = [{numbers}]: {len(v)} numbers, length {v.norm().item():.2f}. Made of {'; '.join(sources)}."


class Pass(NamedTuple):
    """One forward pass of a batch, and nothing of what lies between: no gradients, no vectors."""

    scores: torch.Tensor  # (B, C)
    encoded: int  # different items
    seconds: float


@torch.inference_mode()
def forward(model: Recommender, batch: Batch) -> Pass:
    """The scores of a batch, and how long they take. `shapes` of the same batch first, and the time is not that of a first pass."""
    model.eval()
    began = time.perf_counter()
    scores, encoded, _ = model(batch)
    scores.sum().item()  # waits for the device
    return Pass(scores, encoded, time.perf_counter() - began)


def speed(seconds: float, run: Run) -> str:
    """Time and memory of a run, estimated and measured, in Markdown. seconds: of a forward pass here; a backward one takes about two more."""
    record, estimated = run.record, 3 * seconds
    measured = 60 * record["minutes"] / max(record["steps"], 1)
    weights = 16 * record["trainable"] / 2**20
    return (
        f"**Time**: estimated {estimated * 1000:.0f} ms a step here, three times a forward pass; measured {measured * 1000:.0f} ms on "
        f"{record['device']}, validation and saving included. **Memory**: weights, gradients and the two moments of Adam take 16 bytes for each of "
        f"{record['trainable']:,} trained parameters, {weights:,.0f} MB; the process held {record['peak_mb']:,} MB at most. What lies between are "
        "activations, the data, and the libraries themselves."
    )
