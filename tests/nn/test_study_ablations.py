"""The study of the recipe's parts: what each variant changes, and what a quick run saves."""

from __future__ import annotations

import csv
import dataclasses
from pathlib import Path

import pytest
import torch
from torch import nn

import nn_bridge as nb
from tests.scripts import caption, fits, module, saved, study

pytestmark = pytest.mark.nn

STUDY = module("studies/ablations.py")


def test_a_variant_changes_what_it_says_and_nothing_else() -> None:
    recipe = nb.Recipe(0.87)
    known = STUDY.variants(recipe, 100.0)
    assert known[STUDY.WHOLE].recipe is recipe
    for name, variant in known.items():
        if name == STUDY.WHOLE:
            continue
        changed = {
            field.name
            for field in dataclasses.fields(recipe)
            if repr(getattr(variant.recipe, field.name)) != repr(getattr(recipe, field.name))
        }
        assert changed and (len(changed) == 1 or changed == {"price_limit", "price_rate"}), name
        assert variant.remove == variant.recipe.remove and name.startswith(variant.part)
    mutation = known["dynamics: replicator, mutation at first"].recipe.dynamics
    assert [mutation.rate(time) for time in (0.0, 100.0, 200.0, 300.0)] == [
        STUDY.MUTATION,
        STUDY.MUTATION / 2,
        0,
        0,
    ]


def test_weight_decay_acts_in_the_layers_that_are_named_alone() -> None:
    model = nb.population_mlp((4, 5, 3, 2))
    before = [parameter.detach().clone() for parameter in model.parameters()]
    optimizer = STUDY.DecayedLayers(
        weight_decay=0.5, learning_rate=0.1, momentum=0.0, decayed=(1,)
    ).optimizer(model)
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    for k, (old, new) in enumerate(zip(before, model.parameters(), strict=True)):
        torch.testing.assert_close(new, old * (0.95 if k in (2, 3) else 1.0))
    x, y = torch.randn(64, 4), torch.randint(0, 2, (64,))
    course = STUDY.DecayedLayers(epochs=2, batch_size=16, warm_up=1, hold=1.0, decayed=(0, 2))
    trained = nb.Recipe(0.5, course=course, start=0.25).train(model, x, y)  # the smaller network keeps to it
    assert sum(trained.living) == 4 and isinstance(trained.model, nn.Module)
    torch.testing.assert_close(trained.before(x), trained.model(x))


def test_a_quick_run_compares_with_the_whole_recipe_of_the_same_seed(tmp_path: Path) -> None:
    chosen = ("--variant", "price: tri", "--variant", "weight decay: none")
    printed, _ = study("ablations", tmp_path, "--smoke", *chosen)
    assert fits(printed, "ablations")
    data, rows = saved(tmp_path, "ablations")
    names = [STUDY.WHOLE, "price: triangle, size of its own", "weight decay: none"]
    assert [row["variant"] for row in rows] == names == data.variant.values.tolist()
    whole, triangle, undecayed = rows
    for row in (whole, undecayed):
        living = [int(width) for width in row["living"].split("-")]
        assert sum(living) == 12 and float(row["fraction_removed"]) == pytest.approx(0.875)
        first, second = living
        assert int(row["parameters"]) == 785 * first + (first + 1) * second + (second + 1) * 10
        over = float(row["accuracy"]) - float(row["accuracy_scratch"])
        assert float(row["over_scratch"]) == pytest.approx(over, abs=1e-12)
    assert triangle["accuracy_scratch"] == "nan" and float(whole["over_whole"]) == 0
    for row in rows:
        difference = float(row["accuracy"]) - float(whole["accuracy"])
        assert float(row["over_whole"]) == pytest.approx(difference, abs=1e-12)
    with (tmp_path / "ablations_summary.csv").open(newline="") as file:
        summary = list(csv.DictReader(line for line in file if not line.startswith("#")))
    assert [row["runs"] for row in summary] == ["1"] * 3
    assert "87 % of the hidden neurons" in caption("ablations", tmp_path)


@pytest.mark.parametrize("option", [("--variant", "luck"), ("--control", "luck"), ("--remove", "1")])
def test_what_cannot_be_is_refused_by_name(option: tuple[str, str], tmp_path: Path) -> None:
    _, said = study("ablations", tmp_path, "--smoke", *option, code=2)
    assert f"{option[0].strip('-')} is" in said
