"""What one of several processes does in tests/test_processes.py: losses, gradients and metrics of some experiments, written by process 0.

python tests/several.py FILE        alone, or under torchrun
"""

import sys
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from safetensors.torch import save_file

from nrms.config import resolve
from nrms.config.parameters import GRAPHS
from nrms.data.prepare import load
from nrms.evaluation.ranking import evaluate_model
from nrms.models.build import build
from nrms.runtime import distributed
from nrms.train import sampler_of
from nrms.training.gradients import backward

SMALL = {"dim": 16, "heads": 2, "query_dim": 8, "history": 12, "batch_size": 7, "device": "cpu"}
CASES = (  # losses by impression and by place, with shared candidates, drawn ones and in-batch ones, with terms by reader and by node, in two passes
    ("exp4", "newsroom-tiny", {}),
    ("exp4", "newsroom-tiny", {"encode_at_once": 16}),
    ("exp3_gate", "newsroom-tiny", {}),
    ("exp2_pointwise", "newsroom-tiny", {}),
    ("idrec_sasrec", "movies", {}),
    ("idrec_sasrec", "movies", {"candidates": "batch", "log_popularity": True}),
    ("idrec_sasrec_bce", "movies", {}),
    ("idrec_bert4rec", "movies", {}),
    ("missrec", "movies", {"terms": {"interest_norm": 1.0, "interest_overlap": 1.0}, "repeats": True}),
    ("bm3", "movies", {}),
    ("freedom", "movies", {}),
    ("alignrec", "movies", {"terms": {"cca": 0.1, "uia": 0.1, "uniform": 0.1, "similarity": 0.1, "l2": 0.1}}),
)


def main(path: Path) -> None:
    distributed.join()
    found: dict[str, torch.Tensor] = {}
    for number, (exp, dataset, given) in enumerate(CASES):
        config = resolve(exp, dataset, **SMALL | given)
        with distributed.main_process_first():
            tables = load(dataset, config.data)
            torch.manual_seed(0)
            model = build(config, tables).eval()  # without dropout, which each process has of its own
        if config.users not in GRAPHS:  # so that only what is done differs, not how sums are rounded; graphs compute in 32 bits whatever they get
            model = model.double()
        split, accelerator = tables.split(config.data), Accelerator(cpu=True)
        model.on_epoch_start([0, 0], resumed=False)
        whole = next(sampler_of(config, split, len(tables.items)).epoch(0))
        for name, batch in (("batch", whole), ("reader", whole.of_histories(0, 1)[0])):  # of one reader most processes have nothing
            model.zero_grad()
            parts, _ = backward(model, batch, config, accelerator, None)
            found |= {f"{number}.{name}.loss.{k}": v for k, v in parts.items()}
            found |= {f"{number}.{name}.gradient.{k}": p.grad.clone() for k, p in model.named_parameters() if p.grad is not None}
        ranking = evaluate_model(model, split.valid, config)
        arrays = {k: v for k, v in vars(ranking).items() if isinstance(v, np.ndarray)}
        found |= {f"{number}.judged.{k}": torch.from_numpy(v).clone() for k, v in {**ranking.metrics(), **arrays}.items()}
    if not distributed.process_index():
        save_file(found, path)
    distributed.barrier()
    distributed.leave()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
