"""One training: the model as it starts, the rows it sees and is judged on, and what of it is kept.

Axes: n rows, O scores.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from embedcache.encoders.linear import product_type
from embedcache.encoders.loading import find_type
from embedcache.encoders.trainable import TrainableTrunk
from embedcache.encoders.transformer import TransformerEncoder
from embedcache.encoding import Encoding
from embedcache.errors import HeadError
from embedcache.storage.store import Store
from heads.data.features import Rows, Standardisation
from heads.data.sampling import EpochSampler
from heads.data.standardised_rows import StandardisedRows
from heads.data.target import Codes
from heads.finetune.batch import Batch, FeatureInputs, InputSource, Mask, Mixture, TokenInputs
from heads.finetune.ground import dropout_rates
from heads.finetune.journal import Journal, Judgement, last_checkpoint
from heads.finetune.lora import add_adapters
from heads.finetune.material import Material
from heads.finetune.model import FinetuneModel, Products
from heads.finetune.options import FinetuneOptions
from heads.finetune.order import Order, Ticket
from heads.finetune.positions import PositionInputs
from heads.finetune.processes import Processes
from heads.finetune.rates import parameter_groups
from heads.finetune.trackers import trackers_at
from heads.fitting import Fitted, Problem, Record
from heads.fitting import Progress as Told
from heads.perceptron.mlp import first_heads, prepare
from heads.perceptron.mlp_model import MLPModel
from heads.perceptron.mlp_training import RESCALING_ROWS, rescaling
from heads.perceptron.schedule import rate
from heads.running.fit import Recipe
from heads.splitting.splits import TRAIN, VAL
from heads.splitting.task import Task

MASKS = 1
"""Seeds what is hidden beside what is mixed."""


@dataclass(frozen=True)
class Setting:
    """What a training needs to know."""

    store: Store
    """Features of the encoder before it is trained."""
    material: Material
    task: Task
    encoding: Encoding
    options: FinetuneOptions
    recipe: Recipe
    work: Path
    """Folder of its checkpoints."""
    processes: Processes
    told: Told


class Workshop:
    """Model, inputs and regime of a training, put together."""

    def __init__(self, setting: Setting) -> None:
        self.setting, self.task = setting, setting.task
        self.device = setting.processes.device
        options, recipe = setting.options, setting.recipe
        self.train, self.val, self.stop = (self.task.part(part) for part in (TRAIN, VAL, recipe.stop_on.part))
        memory = recipe.memory_bytes if options.mode == "frozen" else 0
        train, val, stop = self.task.fitted_to(recipe.stop_on)
        problem = Problem(setting.store, train, val, recipe.select, recipe.seed, self.device, memory, stop=stop)
        start = None if recipe.start is None else recipe.start.head
        assert start is None or isinstance(start, MLPModel)
        self.regime, self.standardisation = prepare(problem, options.head, start)
        head = first_heads(problem, options.head, self.regime, options.head.grid(), start)
        trunk = self._trunk() if options.trains_encoder else None
        self.products = self._products()
        self.model = FinetuneModel(
            trunk,
            setting.encoding.readout,
            head,
            self.standardisation,
            self.regime.loss,
            options.head.dropout[0],
            self.products,
        ).to(self.device)
        self.inputs = self._inputs(trunk, memory)
        self.units = self.inputs.units(self.train)

    def _trunk(self) -> TrainableTrunk:
        """The layers that are trained."""
        options, encoder = self.setting.options, self._encoder
        assert encoder.weights is not None
        stop = max(block.layer for block in self.setting.encoding.readout.blocks)
        first = stop - options.top_layers if options.mode == "top" else 0
        rates = dropout_rates(encoder, options)
        trunk = TrainableTrunk.of(encoder.weights, rates=rates, first=first, stop=stop, recompute=options.recompute)
        if options.lora is not None:
            add_adapters(trunk, options.lora, self.setting.recipe.seed)
        return trunk

    @property
    def _encoder(self) -> TransformerEncoder:
        encoder = self.setting.encoding.encoder
        assert isinstance(encoder, TransformerEncoder)
        return encoder

    def _products(self) -> Products:
        """A frozen encoder's head multiplies as `heads train --head mlp` does, any other as was asked for."""
        if self.setting.options.mode == "frozen":
            return Products(torch.float32, product_type(torch.bfloat16, self.device))
        asked = find_type(self.setting.options.precision, self.device)
        return Products(asked, asked)

    def _inputs(self, trunk: TrainableTrunk | None, memory: int) -> InputSource:
        setting, task = self.setting, self.task
        if trunk is None:
            drawn = torch.float32 if self.regime.mixup.active else self.products.head
            return FeatureInputs(
                StandardisedRows(setting.store, task.rows, self.standardisation, self.device, memory, drawn)
            )
        material, mask = setting.material, Mask.of(self._encoder, setting.options.mask)
        letters, states = material.letters, material.states(trunk.first)
        if letters is None:
            return TokenInputs(material.tokens, setting.encoding, trunk, self.device, mask, states)
        return PositionInputs(letters.rows, setting.encoding, trunk, self.device, mask, states, positions=letters)

    @property
    def order(self) -> Order:
        """Which rows each step takes, counted among the training rows, or which records of them."""
        options, processes, units = self.setting.options, self.setting.processes, self.units
        lengths = None if options.batch_tokens is None else units.lengths
        sampler = self.regime.sampler if units.sizes is None else EpochSampler.plain(len(units.sizes))
        return Order(
            sampler, self._seeds, len(units.lengths), options.head.batch_size, lengths, options.batch_tokens or 0,
            units.sizes, processes.index, processes.count,
        )  # fmt: skip

    @property
    def _seeds(self) -> tuple[int, int]:
        return self.setting.recipe.seed, self.setting.options.head.seeds[0]

    @property
    def dropout_seed(self) -> int:
        """The one of `heads train --head mlp`."""
        _, drop = np.random.SeedSequence(list(self._seeds)).spawn(2)
        return int(drop.generate_state(1)[0])

    def batch(self, ticket: Ticket) -> Batch:
        """What one step sees."""
        regime, options = self.regime, self.setting.options
        rows = self.units.rows_of(ticket.rows)
        own = self.units.places_of(ticket.own, ticket.rows)
        hide = np.random.default_rng((*ticket.seed, ticket.process, MASKS)) if options.mask else None
        inputs = self.inputs.inputs(self.train[rows[own]], hide)
        truth = regime.train.truth(regime.loss, torch.from_numpy(rows).to(self.device))
        mixture = None
        if regime.mixup.active:
            mix = regime.mixup.draw(len(rows), np.random.default_rng(ticket.seed))
            mixture = Mixture(mix, own, truth, ticket.weight > 0)
        return Batch(rows[own], inputs, truth[torch.from_numpy(own).to(self.device)], mixture, ticket.weight)

    def ids(self, positions: Rows) -> Sequence[str]:
        """Ids of training rows."""
        rows = self.task.rows[self.train[positions]]
        return [str(name) for name in self.setting.store.ids[rows]]

    # judging

    @torch.no_grad()
    def scores(self, positions: Codes) -> torch.Tensor:
        """Scores (n, O) of rows of the task, each process its share of them."""
        processes = self.setting.processes
        out_nO = torch.zeros(len(positions), self.model.head.sizes[-1])
        self.model.eval()
        found = []
        for part in list(self.inputs.parts(positions))[processes.index :: processes.count]:
            found.append((part, self.model.scores(self.inputs.inputs(positions[part])).cpu()))
        for part, scores in (one for own in processes.gather(found) for one in own):
            out_nO[part] = scores
        return out_nO

    def judge(self) -> Judgement:
        """Metric and loss of the validation rows as the model is, and the metric of the rows that stop."""
        regime, scores_nO = self.regime, self._finite_scores(self.val)
        scale, shift = self.rescaling()
        truth = regime.val.truth(regime.loss, slice(None)).cpu()
        loss = float(regime.loss(scores_nO[None], truth[None])[0])
        value = regime.metric(regime.val, scores_nO, scale, shift)
        if not regime.stops_apart:
            return Judgement(value, loss)
        return Judgement(value, loss, regime.metric(regime.stop, self._finite_scores(self.stop), scale, shift))

    def _finite_scores(self, positions: Codes) -> torch.Tensor:
        scores_nO = self.scores(positions)
        bad_n = ~torch.isfinite(scores_nO).all(1)
        if bad_n.any():
            row = int(self.task.rows[positions[int(bad_n.nonzero()[0])]])
            raise HeadError(
                f"the scores of row {row} are not finite numbers, the training has gone astray: give lower --lr and "
                "--head-lr"
            )
        return scores_nO

    def rescaling(self) -> tuple[float, float]:
        """Scale and shift that bring scores to the units of the target."""
        regime = self.regime
        if regime.loss.regression != "correlation" or regime.loss.target != "regression":
            return regime.scale, regime.shift
        positions = np.arange(0, len(self.train), -(-len(self.train) // RESCALING_ROWS))
        truth_n = regime.train.values[torch.from_numpy(positions).to(self.device)].cpu().double()
        return rescaling(self.scores(self.train[positions])[:, 0].double(), truth_n, regime.scale, regime.shift)

    def fitted_head(self) -> MLPModel:
        """The head as it is saved."""
        scale, shift = self.rescaling()
        head = self.model.head.head(0).cpu()
        at_rest: Standardisation = self.standardisation.on("cpu")
        return MLPModel(at_rest, head, self.regime.loss.target, self.regime.loss.quantiles, scale, shift)


def train_model(workshop: Workshop, report: str) -> Fitted:
    """Train to the end, or go on from the last checkpoint, and keep the best epoch; the model has its weights then."""
    from heads.finetune.trainer import Course, FinetuneTrainer, best_of, load_best

    setting, options = workshop.setting, workshop.setting.options
    head = options.head
    course = Course(
        workshop.order,
        workshop.batch,
        workshop.judge,
        workshop.ids,
        parameter_groups(workshop.model, options),
        lambda step, steps: rate(head.schedule, step, steps, head.warmup),
        workshop.dropout_seed,
        options.save_steps,
        setting.told,
    )
    journal = Journal(setting.recipe.select, head.patience)
    with trackers_at(setting.work / "logs", options.report_to if setting.processes.first else (), report):
        trainer = FinetuneTrainer(workshop.model, _arguments(workshop, report), course, journal)
        trainer.run(last_checkpoint(setting.work))
    setting.processes.wait()
    best = best_of(setting.work)
    assert best is not None
    load_best(workshop.model, setting.work)
    history = tuple(trainer.journal.records)
    return Fitted(workshop.fitted_head(), (_trial(workshop, best[0], history),), 0, history, _notes(workshop, best))


def _trial(workshop: Workshop, epoch: int, history: Sequence[Record]) -> Record:
    options, trunk = workshop.setting.options, workshop.model.trunk
    best = next(record for record in history if record["epoch"] == epoch)
    learned = sum(parameter.numel() for parameter in workshop.model.parameters() if parameter.requires_grad)
    return {
        "mode": options.mode,
        "layers": None if trunk is None else trunk.stop - trunk.first,
        "lora": None if options.lora is None else options.lora.rank,
        "trained": learned,
        "lr": options.lr if options.trains_encoder else None,
        "head_lr": options.head.lr[0],
        "weight_decay": options.weight_decay if options.trains_encoder else options.head.weight_decay[0],
        "dropout": options.head.dropout[0],
        **{name: value for name, value in best.items() if name.endswith(f"_{workshop.setting.recipe.select}")},
        "best_epoch": epoch,
        "epochs": len(history),
    }


def _notes(workshop: Workshop, best: tuple[int, float]) -> tuple[str, ...]:
    select, epochs = workshop.setting.recipe.select, workshop.setting.options.head.epochs
    if not np.isfinite(best[1]):
        return (f"{select} is not defined on the {workshop.setting.recipe.stop_on.words}: the first epoch was taken",)
    # training rows are fitted the better the longer they train
    if best[0] == epochs > 1 and workshop.setting.recipe.stop_on.part != TRAIN:
        return (f"the best epoch is the last of {epochs}: more --epochs may do better",)
    return ()


def _arguments(workshop: Workshop, report: str) -> Any:
    """transformers' own arguments: what it does for us, and nothing beside."""
    from transformers import TrainingArguments

    setting, options, products = workshop.setting, workshop.setting.options, workshop.products
    cuda = workshop.device.type == "cuda"
    arguments = TrainingArguments(
        output_dir=str(setting.work),
        num_train_epochs=options.head.epochs,
        per_device_train_batch_size=1,
        gradient_accumulation_steps=options.accumulate,
        # what trackers are told; the optimiser has a rate and a decay for each group
        learning_rate=options.lr if options.trains_encoder else options.head.lr[0],
        weight_decay=options.weight_decay if options.trains_encoder else options.head.weight_decay[0],
        max_grad_norm=options.clip,
        fp16=products.encoder == torch.float16,
        eval_strategy="no",
        save_strategy="no",
        save_total_limit=2,
        logging_strategy="steps",
        logging_steps=max(1, workshop.order.batches // options.accumulate // 20),
        logging_nan_inf_filter=False,
        report_to=list(options.report_to) or "none",
        run_name=report,
        seed=setting.recipe.seed % 2**32,
        use_cpu=not cuda,
        disable_tqdm=True,
        dataloader_pin_memory=False,
        remove_unused_columns=False,
        ddp_find_unused_parameters=False,
        ddp_backend=None if setting.processes.count == 1 else "nccl" if cuda else "gloo",
        log_level="error",
        log_level_replica="error",
    )
    if setting.processes.count == 1:
        arguments._n_gpu = min(arguments._n_gpu, 1)  # several GPUs are shared by torchrun, not by threads
    return arguments
