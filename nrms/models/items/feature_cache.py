"""What do frozen parts of encoders give for every item, computed once? Memory-mapped tables beside the data, reused by every experiment.

A table's name holds a hash of everything it depends on (weights, pooling, preprocessing, content), so a stale one is never served.
"""

import hashlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from nrms.models.items.encoders import Encoder
from nrms.runtime.files import atomic, new_table
from nrms.runtime.locks import locked
from nrms.runtime.progress import progress


def encoder_digest(encoder: Encoder, content: str, kind: object = None) -> str:
    """Twelve hex digits that change with the weights, the pooling, the preprocessing, the `kind` of table, or the content named by `content`."""
    digest = hashlib.sha256(repr((type(encoder).__name__, encoder.pooling, encoder.content.facts, content, kind)).encode())
    for name, tensor in sorted(encoder.model.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes() if tensor.dim() else repr(tensor.item()).encode())
    return digest.hexdigest()[:12]


def kept(path: Path, write: Callable[[Path], None]) -> np.ndarray:
    """The table at `path`, memory-mapped; written now, under another name until it is complete, unless it is there."""
    if not path.exists():
        with locked(path):
            if not path.exists():  # another process may have written it meanwhile
                with atomic(path) as part:
                    write(part)
    return np.load(path, mmap_mode="r")


def table_of(encoder: Encoder, path: Path, values: Callable[[torch.Tensor], torch.Tensor], batch: int) -> np.ndarray:
    """The table (N + 1, ...) at `path` of `values` of all items, written in bounded memory.

    Row 0 is zero. Items without content have the row of blank content if the encoder knows one, else zeros.
    """

    def write(part: Path) -> None:
        present, absent = encoder.present.nonzero()[:, 0], (~encoder.present).nonzero()[1:, 0]  # the first is padding
        shape = values(torch.cat([present, absent])[:1]).shape[1:]
        table = new_table(part, np.float32, (len(encoder.present), *shape))
        if len(absent) and encoder.content.has_blank:
            table[absent.cpu().numpy()] = values(absent[:1]).float().cpu().numpy()
        order = present[encoder.lengths[present].argsort()]
        for ids in progress(order.split(batch), f"features {path.stem.rsplit('-', 1)[0]}"):
            table[ids.cpu().numpy()] = values(ids).float().cpu().numpy()
        table.flush()

    return kept(path, write)


@torch.inference_mode()
def cached(encoder: Encoder, content: str, folder: Path, name: str, batch: int = 256) -> np.ndarray:
    """Pooled vectors (N + 1, W) of all items."""
    return table_of(encoder, folder / f"{name}-{encoder_digest(encoder.eval(), content)}.npy", encoder.features, batch)


@torch.inference_mode()
def cached_layers(encoder: Encoder, content: str, folder: Path, name: str, batch: int = 256) -> np.ndarray:
    """Pooled hidden states (N + 1, layers + 1, W) of all items: the embeddings, then what leaves each layer, the last one as `cached` has it."""

    def pooled(ids: torch.Tensor) -> torch.Tensor:
        layers, mask = encoder.states(ids, output_hidden_states=True)
        return torch.stack([encoder.pool(h, mask) for h in layers], 1)

    return table_of(encoder, folder / f"{name}-layers-{encoder_digest(encoder.eval(), content, 'layers')}.npy", pooled, batch)
