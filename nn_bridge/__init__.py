"""The bridge from a training network to the selection dynamics of `evodyn`."""

from evodyn.core.extras import extra

with extra("nn", user="nn_bridge"):
    from nn_bridge.certificates import Balance, balance, loss_fall, penalty
    from nn_bridge.checkpoints import Progress, load_checkpoint, save_checkpoint
    from nn_bridge.datasets import Dataset, load_dataset, load_fashion_mnist, load_mnist
    from nn_bridge.layers import (
        PopulationLayer,
        PopulationLinear,
        population_layers,
        population_mlp,
        populations,
    )
    from nn_bridge.populate import populate
    from nn_bridge.prices import Priced, Triangle, group_costs
    from nn_bridge.recording import Record, Recorder
    from nn_bridge.removal.compact import compact
    from nn_bridge.removal.cost import Cost, cost
    from nn_bridge.removal.exports import export_onnx
    from nn_bridge.removal.files import load_compact, save_compact
    from nn_bridge.removal.prune import PruneReport, prune, prune_to_sparsity
    from nn_bridge.selector import Selector
    from nn_bridge.shedding.course import Course
    from nn_bridge.shedding.recipe import Recipe, Trained
    from nn_bridge.signals import Benefit, Contribution, Magnitude, Signal, Taylor
    from nn_bridge.training import accuracy, shuffled, train_epoch

__all__ = [
    "Balance",
    "Benefit",
    "Contribution",
    "Cost",
    "Course",
    "Dataset",
    "Magnitude",
    "PopulationLayer",
    "PopulationLinear",
    "Priced",
    "Progress",
    "PruneReport",
    "Recipe",
    "Record",
    "Recorder",
    "Selector",
    "Signal",
    "Taylor",
    "Trained",
    "Triangle",
    "accuracy",
    "balance",
    "compact",
    "cost",
    "export_onnx",
    "group_costs",
    "load_checkpoint",
    "load_compact",
    "load_dataset",
    "load_fashion_mnist",
    "load_mnist",
    "loss_fall",
    "penalty",
    "populate",
    "population_layers",
    "population_mlp",
    "populations",
    "prune",
    "prune_to_sparsity",
    "save_checkpoint",
    "save_compact",
    "shuffled",
    "train_epoch",
]
