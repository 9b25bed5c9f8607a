"""What does a frozen encoder say of every news, computed once? A memory-mapped table beside the data, reused by every experiment.

Its name holds a hash of everything it depends on (weights, pooling, preprocessing, content), so a stale table is never served.
"""

import hashlib
from pathlib import Path

import numpy as np
import torch

from nrms.items.encoders import Encoder
from nrms.runtime import atomic, progress


def fingerprint(encoder: Encoder, content: str) -> str:
    """Twelve hex digits that change with the weights, the pooling, the preprocessing, or the content named by `content`."""
    digest = hashlib.sha256(repr((type(encoder).__name__, encoder.pool.how, encoder.preprocessing, content)).encode())
    for name, tensor in sorted(encoder.model.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes() if tensor.dim() else repr(tensor.item()).encode())
    return digest.hexdigest()[:12]


@torch.inference_mode()
def cached(encoder: Encoder, content: str, folder: Path, name: str, batch: int = 256) -> np.ndarray:
    """Pooled vectors (N + 1, W) float32 of all items, memory-mapped; from `folder` if it has them, else computed now in bounded memory.

    Row 0 is zero. Items without content have the vector of blank content if the encoder knows one, else zeros.
    """
    path = folder / f"{name}-{fingerprint(encoder, content)}.npy"
    if not path.exists():
        encoder.eval()
        present = encoder.present.nonzero()[:, 0]
        order = present[encoder.lengths[present].argsort()]
        width = encoder.project.in_features
        with atomic(path) as part:
            table = np.lib.format.open_memmap(part, "w+", np.float32, (len(encoder.present), width))
            absent = (~encoder.present).nonzero()[1:, 0]  # but padding
            if len(absent) and encoder.has_blank:
                table[absent.cpu().numpy()] = encoder.features(absent[:1]).float().cpu().numpy()
            for ids in progress(order.split(batch), f"features of {name}"):
                table[ids.cpu().numpy()] = encoder.features(ids).float().cpu().numpy()
            table.flush()
            del table
    return np.load(path, mmap_mode="r")
