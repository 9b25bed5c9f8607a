"""What do frozen parts of encoders say of every news, computed once? Memory-mapped tables beside the data, reused by every experiment.

A table's name holds a hash of everything it depends on (weights, pooling, preprocessing, content), so a stale one is never served.
"""

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch

from nrms.files import atomic, locked, new_table
from nrms.items.content import States, Titles
from nrms.items.encoders import Encoder
from nrms.items.tuning import states_below
from nrms.progress import progress


def fingerprint(encoder: Encoder, content: str, kind: object = None) -> str:
    """Twelve hex digits that change with the weights, the pooling, the preprocessing, the `kind` of table, or the content named by `content`."""
    digest = hashlib.sha256(repr((type(encoder).__name__, encoder.pool.how, encoder.content.facts, content, kind)).encode())
    for name, tensor in sorted(encoder.model.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes() if tensor.dim() else repr(tensor.item()).encode())
    return digest.hexdigest()[:12]


def fill(encoder: Encoder, path: Path, shape: tuple[int, ...], values: Callable[[torch.Tensor], torch.Tensor], batch: int) -> np.ndarray:
    """The table (N + 1, ...) at `path`, memory-mapped; written now, in bounded memory, unless it is there.

    Row 0 is zero. Items without content have the row of blank content if the encoder knows one, else zeros.
    """
    if not path.exists():
        with locked(path):
            if not path.exists():  # another process may have written it meanwhile
                write_table(encoder, path, shape, values, batch)
    return np.load(path, mmap_mode="r")


def write_table(encoder: Encoder, path: Path, shape: tuple[int, ...], values: Callable[[torch.Tensor], torch.Tensor], batch: int) -> None:
    present = encoder.present.nonzero()[:, 0]
    order = present[encoder.lengths[present].argsort()]
    with atomic(path) as part:
        table = new_table(part, np.float32, (len(encoder.present), *shape))
        absent = (~encoder.present).nonzero()[1:, 0]  # but padding
        if len(absent) and encoder.content.has_blank:
            table[absent.cpu().numpy()] = values(absent[:1]).float().cpu().numpy()
        for ids in progress(order.split(batch), f"features {path.stem.rsplit('-', 1)[0]}"):
            table[ids.cpu().numpy()] = values(ids).float().cpu().numpy()
        table.flush()
        del table


@torch.inference_mode()
def cached(encoder: Encoder, content: str, folder: Path, name: str, batch: int = 256) -> np.ndarray:
    """Pooled vectors (N + 1, W) of all items."""
    path = folder / f"{name}-{fingerprint(encoder.eval(), content)}.npy"
    return fill(encoder, path, (encoder.project.in_features,), encoder.features, batch)


@torch.inference_mode()
def cached_layers(encoder: Encoder, content: str, folder: Path, name: str, batch: int = 256) -> np.ndarray:
    """Pooled hidden states (N + 1, layers + 1, W) of all items: the embeddings, then what leaves each layer, the last one as `cached` has it."""

    def pooled(ids: torch.Tensor) -> torch.Tensor:
        layers, mask = encoder.states(ids, output_hidden_states=True)
        return torch.stack([encoder.pool(h, mask) for h in layers], 1)

    path = folder / f"{name}-layers-{fingerprint(encoder.eval(), content, 'layers')}.npy"
    if path.exists():
        return np.load(path, mmap_mode="r")
    return fill(encoder, path, tuple(pooled(encoder.present.nonzero()[:1, 0]).shape[1:]), pooled, batch)


@torch.inference_mode()
def cached_states(encoder: Encoder, depth: int, content: str, folder: Path, name: str, batch: int = 256) -> States:
    """The states of all items that layer number `depth` is given, without padding. Where blank content may be asked for, it is kept once for all."""
    path = folder / f"{name}-below{depth}-{fingerprint(encoder.eval(), content, depth)}.npy"
    present, absent = encoder.present.nonzero()[:, 0], (~encoder.present).nonzero()[1:, 0]  # the first is padding
    blank = absent[:1] if encoder.content.has_blank else absent[:0]
    asked = torch.cat([blank, present])
    asked = asked[encoder.lengths[asked].argsort(stable=True)]
    first, mask = states_below(encoder, asked[:1], depth)
    tokens = encoder.lengths if isinstance(encoder.content, Titles) else torch.full_like(encoder.lengths, mask.shape[1])
    size = torch.zeros_like(tokens).index_copy(0, asked, tokens[asked])
    begin = torch.zeros_like(tokens).index_copy(0, asked, tokens[asked].cumsum(0) - tokens[asked])
    if not path.exists():
        with locked(path):
            if not path.exists():  # another process may have written it meanwhile
                write_states(encoder, depth, path, (int(size.sum()), first.shape[-1]), asked.split(batch), name)
    if len(blank):
        size[absent], begin[absent] = size[blank], begin[blank]
    return States(np.load(path, mmap_mode="r"), begin, size, encoder.content)


def write_states(encoder: Encoder, depth: int, path: Path, shape: tuple[int, int], parts: Sequence[torch.Tensor], name: str) -> None:
    with atomic(path) as part:
        table, done = new_table(part, np.float32, shape), 0
        for ids in progress(parts, f"states below layer {depth} of {name}"):
            states, mask = states_below(encoder, ids, depth)
            found = states[mask].float().cpu().numpy()  # one item after the other
            table[done : done + len(found)] = found
            done += len(found)
        table.flush()
        del table
