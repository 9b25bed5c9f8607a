"""How does a recommender learn? One loop: batch, loss, step, log, now and then validate and save.

Weights are fp32, compute is bf16 where the hardware has it. Data order and negatives are functions of (seed, epoch), dropout's random state is
saved, so a killed run that is started again ends with the same numbers. Under torchrun several processes share each batch (runtime/distributed.py).
The parts of the loop (losses, gradients, checks, checkpoints) are in training/.
"""

import json
import time

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState

from nrms import NrmsError, Stopped
from nrms.config.arguments import read_config
from nrms.config.resolved import Config, check_start
from nrms.data.batches import Batch, ahead
from nrms.data.prepare import Tables, load
from nrms.data.samplers import ClickSampler, PairSampler, SequenceSampler
from nrms.data.tables import Impressions, Split
from nrms.evaluation.protocols import PROTOCOLS
from nrms.evaluation.ranking import evaluate_model
from nrms.models.build import build
from nrms.models.recommender import Recommender
from nrms.models.users import USERS
from nrms.models.warm_start import warm_start
from nrms.runtime import distributed
from nrms.runtime.environment import peak_mb, seed_everything, torch_threads
from nrms.runtime.progress import progress
from nrms.runtime.run_record import Bystander, Run, now, recorded, run_folder
from nrms.runtime.signals import stop_request
from nrms.runtime.terminal import command
from nrms.training.gradients import backward, chance_of
from nrms.training.launch import launch
from nrms.training.learning_checks import Movement, check_loss, check_losses, check_movement
from nrms.training.resume import random_states, resume, save
from nrms.training.vector_reuse import VectorReuse

LOG_LINES = 60  # of a run's training log, about


def learning_rate(step: int, steps: int, warmup: float, decay: bool = True) -> float:
    """Share of the peak rate at `step` of `steps`: rises linearly over the first `warmup` share, then falls to 0 or, without decay, stays."""
    rising = max(1, round(warmup * steps))
    return min((step + 1) / rising, (steps - step) / max(1, steps - rising) if decay else 1.0)


def sampler_of(config: Config, split: Split, size: int) -> ClickSampler | SequenceSampler:
    """What draws the training batches: clicks of impressions, or windows of a log. size: N + 1."""
    options = {name: getattr(config, name) for name in ("batch_size", "negatives", "history", "seed")}
    if config.data.protocol == "impressions":
        return ClickSampler(split.train, by_reader=config.by_reader, **options)
    options |= {name: getattr(config, name) for name in ("candidates", "mask_history", "mask_same")}
    options |= {"size": size, "popularity": config.log_popularity}
    users = USERS[config.users]
    sampler = PairSampler if users.is_graph else SequenceSampler
    hidden = 0.0 if users.is_causal else config.hidden
    return sampler(split.train, per_position=users.per_position, hidden=hidden, needs_history=users.MIN_HISTORY > 0, **options)


def validate(model: Recommender, valid: Impressions, config: Config) -> float:
    """Mean of the protocol's main metric on `valid`. Raises NrmsError when all scores of each impression are equal, or none can be judged."""
    ranking = evaluate_model(model, valid, config)
    if ranking.is_flat():
        raise NrmsError("Training was stopped: the model gives all candidates of an impression the same score, so it ranks nothing.")
    values = ranking.metrics()[ranking.protocol.main]
    if np.isnan(values).all():
        raise NrmsError("Training was stopped: in every validation impression all candidates were clicked or none, so no AUC can be computed.")
    return float(np.nanmean(values))


def set_up(config: Config, tables: Tables, run: Run) -> tuple[Recommender, torch.optim.Optimizer, Accelerator]:
    """Model, optimizer and accelerator of a run that begins or goes on, with its facts in run.json."""
    if config.device == "cuda" and not torch.cuda.is_available():
        raise NrmsError("device is cuda, but this machine has no GPU that torch can use; give device auto or cpu.")
    on_gpu = config.device != "cpu" and torch.cuda.is_available()
    bf16 = config.precision == "bf16" or (config.precision == "auto" and on_gpu and torch.cuda.is_bf16_supported())
    AcceleratorState._reset_state(True)  # it is global: without this a second run in one kernel could not choose another precision
    accelerator = Accelerator(mixed_precision="bf16" if bf16 else "no", cpu=config.device == "cpu")
    seed_everything(config.seed)
    with distributed.main_process_first():  # it makes caches that the others read
        model = build(config, tables, accelerator.device)
    warm = warm_start(model, config)
    rates = {"encoder": config.encoder_lr, "head": config.lr}
    groups = [{"params": group, "name": name, "peak": rates[name], "lr": rates[name]} for name, group in model.groups().items() if group]
    optimizer = torch.optim.AdamW(groups, weight_decay=config.weight_decay)
    encoders = model.items.encoders
    facts = {"tuning": {name: str(encoder.report) for name, encoder in encoders.items() if hasattr(encoder, "report")}}
    if warm:
        facts["brought"] = warm.facts()
    facts["params"] = sum(p.numel() for p in model.parameters()) + sum(encoder.made_by for encoder in encoders.values())
    facts["trainable"] = sum(p.numel() for group in groups for p in group["params"])
    run.update(precision="bf16" if bf16 else "fp32", device=str(accelerator.device), **facts)
    if distributed.process_index():  # all begin with the same weights; then each has dropout of its own
        torch.manual_seed(config.seed + 1_000_003 * distributed.process_index())
    # evaluation mode: gradients are added up by runtime/distributed.py, for every loss, two passes, and tables of which a process reads a part
    return accelerator.prepare_model(model, evaluation_mode=True), accelerator.prepare_optimizer(optimizer), accelerator


def train(config: Config, *, force: bool = False) -> Run:
    """Trains what `config` says, into its run folder, and keeps the weights that validate best in checkpoint/best.safetensors.

    A run that is trained already with the same values and data is left alone unless `force`; one that was interrupted goes on.
    Raises NrmsError when a guard stops it; run.json then says `failed` and why. Raises Stopped when this process was asked to end.
    """
    if config.checkpoint:
        raise NrmsError(f"{config.checkpoint} is given to be evaluated, not to be trained: use notebooks/eval.ipynb or `python -m nrms evaluate`.")
    check_start(config)
    distributed.join()
    with distributed.main_process_first():
        tables = load(config.dataset, config.data)
    run = (Bystander if distributed.process_index() else Run)(run_folder(config.dataset, config.name, config.seed))
    identity = config.identity(tables.manifest["tables"])
    same = all(run.record.get(k) == identity[k] for k in ("hash", "data"))
    trained = same and run.record.get("trained") and (run.folder / "checkpoint" / "best.safetensors").exists()
    if distributed.broadcast_object(trained and not force):
        if run.status in ("failed", "dead", "stopped"):  # what failed came after training
            run.update(status="trained", error=None)
        return run
    if (not same or force) and not distributed.process_index():
        run.check_free()
        for name in ("best", "last"):
            (run.folder / "checkpoint" / f"{name}.safetensors").unlink(missing_ok=True)
    if config.processes > distributed.process_count() == 1:
        launch(config, run)
        return run
    with torch_threads(config.threads) as threads:
        run.begin(**identity, processes=distributed.process_count(), threads=threads)
        distributed.barrier()
        with recorded(run), distributed.watched():
            fit(config, tables, run)
    return run


class Training:
    """A run while it learns. state: its counts, the best step so far, and what else a process that goes on must know."""

    def __init__(self, config: Config, tables: Tables, run: Run):
        self.config, self.run, self.split = config, run, tables.split(config.data)
        self.model, self.optimizer, self.accelerator = set_up(config, tables, run)
        self.sampler = sampler_of(config, self.split, len(tables.items))
        length = len(self.sampler)  # steps of an epoch
        if not length:
            raise NrmsError("There is nothing to train on: no train impression has a click.")
        self.steps, self.rising = config.epochs * length, round(config.warmup * config.epochs * length)
        self.validates = {round(length * i / config.validations) for i in range(1, config.validations + 1)}  # after which steps of an epoch
        self.reuse = None
        if config.reuse_steps:
            self.reuse = VectorReuse(self.model.items, items=len(tables.items), steps=config.reuse_steps, patience=self.steps / 20)
        new = {"objective": config.objective, "step": 0, "best_valid": -1.0, "best_step": 0, "encoded": 0, "samples": 0, "seconds": 0.0}
        self.state = resume(run, self.model, self.optimizer) or new
        run.rewind(self.state["step"])
        self.facts = {"config": config.model_dump(), "content": tables.content_digest, "log": tables.log_digest}
        self.checked = False  # whether the weights have been seen to move as they should
        self.clock, self.saved = time.perf_counter() - self.state["seconds"], time.perf_counter()
        self.bar = progress(what=f"training {config.name}", total=self.steps, initial=self.state["step"], unit=" steps")

    def learn(self) -> None:
        """All epochs that are left, or until patience has run out. Raises Stopped, with everything saved, when this process is told to end."""
        with stop_request() as self.stop:
            if line := self.state.pop("unjudged", None):
                self.validate_and_save(line)
            while self.state["step"] < self.steps:
                epoch, begin = divmod(self.state["step"], len(self.sampler))
                if not begin and self.config.patience and self.state["step"] - self.state["best_step"] >= self.config.patience * len(self.sampler):
                    break
                self.learn_epoch(epoch, begin)
        self.bar.close()

    def learn_epoch(self, epoch: int, begin: int) -> None:
        """One epoch from its step `begin` on: a step for each batch, now and then a line of the log, a validation, a checkpoint."""
        self.model.on_epoch_start([self.config.seed, epoch], resumed=begin > 0)
        batches = ahead(self.sampler.epoch(epoch, begin), pin=self.accelerator.device.type == "cuda")
        for i, batch in enumerate(batches, begin + 1):
            validates = i in self.validates
            line = self.step(batch.to(self.accelerator.device), validates or (self.state["step"] + 1) % max(1, self.steps // LOG_LINES) == 0)
            if validates:
                self.validate_and_save(line)
            elif line:
                self.log(line)
            end = distributed.any_of(self.stop.is_set())
            if distributed.any_of(time.perf_counter() - self.saved > 60 * self.config.save_minutes) or (end and not validates):
                self.save(self.state, distributed.gather_objects(random_states()))
            if end:
                raise self.ended()

    def step(self, batch: Batch, logged: bool) -> dict | None:
        """Moves the weights by one batch and counts it in `state`. Returns, if `logged`, a line of the training log: counts so far (step, encoded
        items, samples, seconds), losses, gradient norm, rate and movement by group.

        Raises NrmsError when a loss is no number, the first one is not that of equal scores, or a group of weights does not move as it should.
        """
        config, state = self.config, self.state
        for group in self.optimizer.param_groups:
            group["lr"] = group["peak"] * learning_rate(state["step"], self.steps, config.warmup, config.decay)
        self.model.train()
        self.optimizer.zero_grad()
        losses, encoded = backward(self.model, batch, config, self.accelerator, self.reuse)
        if "chance" not in state:
            state["chance"] = chance_of(config, batch)
        spread = 1 / config.temperature if self.model.users.scores_are_cosines else 0.0
        check_loss(losses[config.objective].item(), state["chance"], state["step"], knows=bool(config.start), spread=spread)
        check_losses(losses, state["step"])
        norm = self.accelerator.clip_grad_norm_(self.model.parameters(), config.clip)
        movement = Movement({g["name"]: g["params"] for g in self.optimizer.param_groups}) if logged else None
        self.optimizer.step()
        encodes = any(e.encodes for e in self.model.items.encoders.values())
        state |= {"step": state["step"] + 1, "encoded": state["encoded"] + encoded * encodes, "samples": state["samples"] + len(batch)}
        state["seconds"] = time.perf_counter() - self.clock
        self.bar.update()
        if not movement:
            return None
        moved = movement.measure()
        if not self.checked and state["step"] > min(self.rising, self.steps - 1):
            check_movement(moved, self.optimizer)
            self.checked = True
        line = {k: state[k] for k in ("step", "encoded", "samples", "seconds")} | {"loss": {k: loss.item() for k, loss in losses.items()}}
        groups = {g["name"]: {"lr": g["lr"], **moved[g["name"]]} for g in self.optimizer.param_groups}
        line |= {"gradient_norm": float(norm), "groups": groups, "samples_per_second": state["samples"] / state["seconds"]}
        return line | ({"drift": self.reuse.drift} if self.reuse else {})

    def validate_and_save(self, line: dict) -> None:
        """Validates, logs and saves; asked to end meanwhile, it leaves judging the weights as they are to the process that goes on."""
        state, rng = self.state, distributed.gather_objects(random_states())
        try:
            with self.stop.at_once(not distributed.process_index()):  # the others wait for process 0, or find that it has ended
                valid = validate(self.model, self.split.valid, self.config)
        except BaseException:
            if not self.stop.is_set():
                raise
            self.save(state | {"unjudged": line}, rng)
            raise self.ended() from None
        if valid > state["best_valid"]:
            state |= {"best_valid": valid, "best_step": state["step"]}
        metric = PROTOCOLS[self.config.data.protocol].label
        self.bar.set_postfix_str(f"loss {line['loss'][self.config.objective]:.3f}, valid {metric} {valid:.3f}")
        self.log(line, valid=valid)
        state["seconds"] = time.perf_counter() - self.clock
        self.save(state, rng, best=self.facts if state["best_step"] == state["step"] else None)

    def log(self, line: dict, **more: float) -> None:
        self.run.log(epoch=self.state["step"] / len(self.sampler), **line, **more)

    def save(self, state: dict, rng: list, best: dict | None = None) -> None:
        save(self.run, self.model, self.optimizer, state, rng, best)
        self.saved = time.perf_counter()

    def ended(self) -> Stopped:
        step = self.state["step"]
        return Stopped(f"Training was asked to end and saved step {step} of {self.steps}; the same command goes on from there.")


def fit(config: Config, tables: Tables, run: Run) -> None:
    """Trains, and records it in run.json."""
    training = Training(config, tables, run)
    training.learn()
    state = training.state
    counts = {k: state[k] for k in ("best_valid", "best_step", "chance", "samples", "encoded")}
    if not counts["encoded"] and config.modalities != ["ids"]:  # frozen: each item once, in whatever run came first
        counts["encoded"] = len(tables.items) - 1
    run.update(status="trained", error=None, trained=now(), steps=state["step"], minutes=state["seconds"] / 60, peak_mb=peak_mb(), **counts)
    distributed.barrier()
    if not distributed.process_index():
        (run.folder / "checkpoint" / "last.safetensors").unlink()


def main(arguments: list[str] | None = None) -> None:
    """`python -m nrms.train EXP`: training without a notebook, for machines that have nothing but what learning needs."""
    run = train(read_config(__doc__ or "", arguments))
    distributed.barrier()
    if not distributed.process_index():
        print(json.dumps({k: run.record[k] for k in ("status", "best_valid", "steps", "samples", "encoded", "minutes", "peak_mb", "device")}))
        print(f"wrote {run.folder}")
    distributed.leave()


if __name__ == "__main__":
    command(main)
