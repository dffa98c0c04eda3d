"""Algorithm 1, and checkpoints that go on bit for bit."""

from __future__ import annotations

import contextlib
import copy
import hashlib
import io
import math
import pickle
import random
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import evodyn as ed
from evodyn.core.atomic import replacing
from nn_bridge import (
    Contribution,
    Progress,
    Selector,
    accuracy,
    compact,
    load_checkpoint,
    load_compact,
    load_mnist,
    population_layers,
    population_mlp,
    prune_to_sparsity,
    save_checkpoint,
    save_compact,
    shuffled,
    train_epoch,
)
from nn_bridge.checkpoints import previous

pytestmark = pytest.mark.nn


CONFIG = {"step_size": 0.01, "widths": [784, 16, 8, 10]}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return load_mnist(tmp_path_factory.mktemp("data")).first(1024, 500)


class Training:
    """A small run on real digits."""

    def __init__(self, dynamics: ed.Dynamics | None = None, *, seed: int = 0) -> None:
        self.model: Any = population_mlp((784, 16, 8, 10), seed=seed)
        self.optimizer: Any = torch.optim.SGD(self.model.parameters(), lr=0.05, momentum=0.9)
        self.selector = Selector(
            self.model,
            dynamics or ed.Replicator(signal_clip=0.1),
            Contribution(smoothing=0.9, relative=True),
            0.01,
        )
        self.order = torch.Generator().manual_seed(seed)

    def epoch(self, data: Any, **options: Any) -> float:
        x, y = shuffled(data.train_images, data.train_labels, self.order)
        return train_epoch(self.model, x, y, self.optimizer, self.selector, batch_size=64, **options)

    def step(self, data: Any) -> None:
        """Take one step, after which the optimiser and the selector have states."""
        x, y = data.train_images[:64], data.train_labels[:64]
        train_epoch(self.model, x, y, self.optimizer, self.selector, batch_size=64)

    def everything(self) -> bytes:
        """Return all that a checkpoint holds of the run, in bytes."""
        parts = (self.model, self.optimizer, self.selector)
        numpy_state: Any = np.random.get_state(legacy=False)  # noqa: NPY002
        generators = (self.order.get_state(), torch.get_rng_state(), str(numpy_state), str(random.getstate()))
        content = io.BytesIO()
        torch.save([part.state_dict() for part in parts] + list(generators), content)
        return content.getvalue()

    def save(self, path: Path, epoch: int, config: Any = CONFIG) -> None:
        progress = Progress(epoch, 16 * epoch, {"loss": [0.5] * epoch, "masses": self.selector.masses})
        save_checkpoint(
            path,
            self.model,
            self.optimizer,
            self.selector,
            progress=progress,
            config=config,
            generators={"order": self.order},
        )

    def load(self, path: Path, config: Any = CONFIG) -> Progress | None:
        return load_checkpoint(
            path, self.model, self.optimizer, self.selector, config=config, generators={"order": self.order}
        )

    def state(self) -> dict[str, bytes]:
        return {name: value.numpy().tobytes() for name, value in self.model.state_dict().items()}


def test_a_run_learns(data: Any) -> None:
    training = Training()
    losses = [training.epoch(data) for _ in range(4)]
    assert losses == sorted(losses, reverse=True)
    assert accuracy(training.model, data.test_images, data.test_labels) > 0.7
    assert training.selector.steps == 4 * 16
    assert training.model.training


def test_the_mean_loss_is_that_of_the_samples(data: Any) -> None:
    model = population_mlp((784, 4, 10))
    still = torch.optim.SGD(model.parameters(), lr=0.0)
    x, y = data.train_images[:100], data.train_labels[:100]  # the last minibatch is smaller
    expected = nn.functional.cross_entropy(model(x), y).item()
    assert train_epoch(model, x, y, still, batch_size=64) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("labels", [9, 8, 5, 0, 13])
def test_images_without_their_labels_are_refused_before_the_first_step(labels: int) -> None:
    model = population_mlp((3, 4, 2))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    before = copy.deepcopy(model.state_dict())
    # In minibatches of 4 the first two fit, and the ninth label would be broadcast over the last four images.
    images, classes = torch.ones(12, 3), torch.zeros(labels, dtype=torch.int64)
    message = f"images holds 12 samples and labels {labels}; expected as many labels"
    with pytest.raises(ValueError, match=message):
        train_epoch(model, images, classes, optimizer, batch_size=4)
    with pytest.raises(ValueError, match=message):
        accuracy(model, images, classes, batch_size=4)
    with pytest.raises(ValueError, match=message):
        shuffled(images, classes, torch.Generator())
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert model.training


def test_epochs_without_samples_or_batches_are_refused() -> None:
    model = population_mlp((3, 4, 2))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with pytest.raises(ValueError, match="at least one"):
        train_epoch(model, torch.ones(0, 3), torch.ones(0), optimizer)
    x, y = torch.ones(2, 3), torch.zeros(2, dtype=torch.int64)
    with pytest.raises(ValueError, match="batch_size is 0"):
        train_epoch(model, x, y, optimizer, batch_size=0)
    with pytest.raises(ValueError, match="batch_size is 0"):
        accuracy(model, x, y, batch_size=0)


def test_weights_and_masses_use_the_same_gradients_in_either_order(data: Any) -> None:
    x, y = data.train_images[:64], data.train_labels[:64]
    states = []
    for weights_first in (True, False):
        training = Training()
        nn.functional.cross_entropy(training.model(x), y).backward()
        updates = [training.optimizer.step, training.selector.step]
        for update in updates if weights_first else updates[::-1]:
            update()
        states.append(training.state())
    assert states[0] == states[1]


def test_fresh_gradients_are_those_at_the_updated_weights(data: Any) -> None:
    x, y = data.train_images[:64], data.train_labels[:64]
    training, fresh = Training(), Training()
    for run, option in ((training, False), (fresh, True)):
        train_epoch(run.model, x, y, run.optimizer, run.selector, batch_size=64, fresh_gradients=option)
    assert torch.equal(training.model[0].weight, fresh.model[0].weight)
    # The second pass by hand.
    by_hand = Training()
    nn.functional.cross_entropy(by_hand.model(x), y).backward()
    by_hand.optimizer.step()
    by_hand.selector.clear()
    nn.functional.cross_entropy(by_hand.model(x), y).backward()
    by_hand.selector.step()
    assert torch.equal(fresh.selector.masses, by_hand.selector.masses)
    assert not torch.equal(training.selector.masses, fresh.selector.masses)


def test_replicator_and_normalised_growth_are_one_dynamics_while_the_cap_is_not_binding(data: Any) -> None:
    runs = [Training(ed.Replicator()), Training(ed.NormalizedGrowth(mass_cap=24.0))]
    for run in runs:
        run.epoch(data)
    assert runs[0].state() == runs[1].state()
    assert not torch.equal(runs[0].selector.masses, torch.ones(24, dtype=torch.float64))
    # And a cap that binds tells them apart.
    bound = Training(ed.NormalizedGrowth(mass_cap=23.9))
    bound.epoch(data)
    assert bound.state() != runs[0].state()


def test_shuffling_keeps_images_with_their_labels(data: Any) -> None:
    tags = torch.arange(len(data.train_labels))
    order, _ = shuffled(tags, tags, torch.Generator().manual_seed(1))
    x, y = shuffled(data.train_images, data.train_labels, torch.Generator().manual_seed(1))
    assert torch.equal(x, data.train_images[order]) and torch.equal(y, data.train_labels[order])
    assert sorted(order.tolist()) == tags.tolist() and not torch.equal(order, tags)


def test_a_resumed_run_is_the_uninterrupted_one_bit_for_bit(data: Any, tmp_path: Path) -> None:
    whole = Training()
    for _ in range(4):
        whole.epoch(data)
    first = Training()
    for _ in range(2):
        first.epoch(data)
    first.save(tmp_path / "run.pt", 2)
    second = Training(seed=9)  # other weights and another order, all to be replaced
    progress = second.load(tmp_path / "run.pt")
    assert progress is not None and (progress.epoch, progress.step) == (2, 32)
    assert progress.history["loss"] == [0.5, 0.5]
    assert torch.equal(progress.history["masses"], first.selector.masses)
    for _ in range(2):
        second.epoch(data)
    assert second.state() == whole.state()
    assert second.selector.steps == whole.selector.steps
    # The test can fail: without the smoothed signal the masses go elsewhere.
    third = Training(seed=9)
    third.load(tmp_path / "run.pt")
    third.selector._smoothed = None
    for _ in range(2):
        third.epoch(data)
    assert third.state() != whole.state()


def test_the_global_generators_resume_too(tmp_path: Path) -> None:
    training = Training()
    training.save(tmp_path / "run.pt", 0)
    expected = (torch.rand(3).tolist(), np.random.rand(3).tolist(), random.random())  # noqa: NPY002
    training.load(tmp_path / "run.pt")
    again = (torch.rand(3).tolist(), np.random.rand(3).tolist(), random.random())  # noqa: NPY002
    assert again == expected


@pytest.mark.parametrize("damage", ["truncated", "flipped", "empty", "no checkpoint", "missing"])
def test_a_damaged_checkpoint_falls_back_on_the_one_before_and_says_so(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "run.pt"
    training = Training()
    assert training.load(path) is None
    training.save(path, 1)
    training.save(path, 2)
    content = bytearray(path.read_bytes())
    if damage == "truncated":
        path.write_bytes(content[:-10])
    elif damage == "flipped":
        content[len(content) // 2] ^= 1
        path.write_bytes(content)
    elif damage == "missing":
        path.unlink()
    else:
        path.write_bytes(b"" if damage == "empty" else b"hello")
    if damage == "missing":  # a kill between the two renames: nothing is wrong
        progress = training.load(path)
    else:
        with pytest.warns(UserWarning, match=r"run\.pt is damaged.*run\.previous\.pt, is used"):
            progress = training.load(path)
    assert progress is not None and progress.epoch == 1
    previous(path).write_bytes(b"gone")
    if damage == "missing":
        path.write_bytes(b"gone too")
    with pytest.raises(ValueError, match="Expected a readable checkpoint"):
        training.load(path)


def test_a_damaged_checkpoint_never_replaces_the_one_before_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "run.pt"
    training = Training()
    training.save(path, 1)
    training.save(path, 2)
    path.write_bytes(path.read_bytes()[:-10])
    whole = previous(path).read_bytes()
    with monkeypatch.context() as patch:  # killed just before the new one is in place
        patch.setattr("nn_bridge.checkpoints.replacing", interrupted)
        with pytest.raises(KeyboardInterrupt):
            training.save(path, 2)
    assert previous(path).read_bytes() == whole
    training.save(path, 2)
    progress = training.load(path)
    assert progress is not None and progress.epoch == 2
    training.save(path, 3)  # and a whole one does
    assert previous(path).read_bytes() != whole


@contextlib.contextmanager
def interrupted(path: Path) -> Any:
    with replacing(path) as temporary:
        yield temporary
        raise KeyboardInterrupt


def test_lists_and_tuples_in_a_configuration_are_the_same(tmp_path: Path) -> None:
    training = Training()
    config = {"widths": (784, 16, 8, 10), "rate": np.float64(0.1)}
    training.save(tmp_path / "run.pt", 1, config)
    progress = training.load(tmp_path / "run.pt", {"rate": 0.1, "widths": [784, 16, 8, 10]})
    assert progress is not None and progress.epoch == 1


def test_what_could_not_be_read_back_is_not_saved(tmp_path: Path) -> None:
    training, path = Training(), tmp_path / "run.pt"
    training.save(path, 1)
    with pytest.raises(ValueError, match="config cannot be written as JSON"):
        training.save(path, 2, {"count": np.int64(3)})
    for history in ({"accuracy": [np.float64(0.9)]}, {"loss": lambda: 0.5}):
        with pytest.raises(
            ValueError, match=r"progress\.history holds something that could not be read back"
        ):
            save_checkpoint(
                path,
                training.model,
                training.optimizer,
                training.selector,
                progress=Progress(2, 0, history),
                config=CONFIG,
            )
    progress = training.load(path)
    assert progress is not None and progress.epoch == 1


def test_another_model_is_refused_and_left_as_it_is(tmp_path: Path) -> None:
    Training().save(tmp_path / "run.pt", 1)
    other = Training(seed=1)
    other.model = population_mlp((784, 16, 9, 10), seed=1)
    before = other.state()
    with pytest.raises(ValueError, match=r"hidden2\.masses: \(8,\) there, \(9,\) here"):
        other.load(tmp_path / "run.pt")
    assert other.state() == before


def test_another_format_version_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "run.pt"
    Training().save(path, 1)
    path.write_bytes(path.read_bytes().replace(b"checkpoint 1 ", b"checkpoint 9 ", 1))
    with pytest.raises(ValueError, match="format version 9"):
        Training().load(path)


def test_another_configuration_is_refused_field_by_field(tmp_path: Path) -> None:
    training = Training()
    training.save(tmp_path / "run.pt", 1)
    before = training.state()
    with pytest.raises(
        ValueError, match=r"decay: '\(absent\)' there, 0\.1 here; step_size: 0\.01 there, 0\.02 here"
    ) as e:
        training.load(tmp_path / "run.pt", {**CONFIG, "step_size": 0.02, "decay": 0.1})
    assert "widths" not in str(e.value)
    assert training.state() == before


def test_other_conditions_are_mentioned(tmp_path: Path) -> None:
    training, threads = Training(), torch.get_num_threads()
    training.save(tmp_path / "run.pt", 1)
    try:
        torch.set_num_threads(threads + 1)
        with pytest.warns(UserWarning, match=f"threads {threads} there, {threads + 1} here"):
            training.load(tmp_path / "run.pt")
    finally:
        torch.set_num_threads(threads)


def rewritten(path: Path, change: Any) -> None:
    """Change what a checkpoint holds and give it the right checksum."""
    state = torch.load(io.BytesIO(path.read_bytes().partition(b"\n")[2]), weights_only=True)
    changed = change(state)
    content = io.BytesIO()
    torch.save(state if changed is None else changed, content)
    digest = hashlib.sha256(content.getvalue()).hexdigest()
    path.write_bytes(f"nn_bridge checkpoint 1 {digest}\n".encode() + content.getvalue())


def put(*where: Any) -> Any:
    """Return a change that puts the last argument where the others say."""

    def change(state: Any) -> None:
        for key in where[:-2]:
            state = state[key]
        state[where[-2]] = where[-1]

    return change


def drop(*where: Any) -> Any:
    def change(state: Any) -> None:
        for key in where[:-1]:
            state = state[key]
        del state[where[-1]]

    return change


def twister(position: int = 0, words: int = 624) -> list[Any]:
    return ["MT19937", torch.zeros(words, dtype=torch.int64), position, 0, 0.0]


MOMENTUM = ("optimizer", "state", 0, "momentum_buffer")
CRAFTED = {
    "no dict": (lambda state: [1, 2], "it is"),
    "an entry missing": (drop("selector"), "it lacks selector"),
    "an unknown entry": (put("surprise", 1), "'surprise'"),
    "config a list": (put("config", [1]), "config is no dict"),
    "config with other keys": (put("config", {1: 2, "a": 3}), "config is no dict"),
    "progress without history": (drop("progress", "history"), "progress lacks history"),
    "progress with more": (put("progress", "speed", 3), "progress holds 'speed'"),
    "epoch negative": (put("progress", "epoch", -1), r"progress\.epoch is -1"),
    "epoch a word": (put("progress", "epoch", "two"), r"progress\.epoch is 'two'"),
    "history a list": (put("progress", "history", [1]), r"progress\.history is \[1\]"),
    "model a list": (put("model", [torch.ones(2)]), "model is"),
    "weights missing": (drop("model", "output.bias"), r"output\.bias: absent there"),
    "weights no tensor": (put("model", "output.bias", [0.0] * 10), r"output\.bias: \[0\.0.* there"),
    "weights in another precision": (
        put("model", "output.bias", torch.zeros(10, dtype=torch.float64)),
        r"output\.bias: \(10,\) float64 there, \(10,\) float32 here",
    ),
    "weights sparse": (
        put("model", "output.bias", torch.zeros(10).to_sparse()),
        r"output\.bias: .* not dense",
    ),
    "weights NaN": (put("model", "output.bias", torch.full((10,), math.nan)), r"output\.bias .* not finite"),
    "masses infinite": (
        put("model", "hidden2.masses", torch.full((8,), math.inf, dtype=torch.float64)),
        r"hidden2\.masses .* not finite",
    ),
    "masses negative": (
        put("model", "hidden2.masses", torch.full((8,), -1.0, dtype=torch.float64)),
        r"hidden2\.masses .* negative",
    ),
    "optimiser a list": (put("optimizer", []), r"optimizer is \[\]"),
    "optimiser of another class": (put("optimizer_class", "Adam"), "the optimiser Adam; expected SGD"),
    "no groups": (put("optimizer", "param_groups", []), "param_groups.* is of the parameters"),
    "groups no dicts": (put("optimizer", "param_groups", [3]), "param_groups.*expected a list of dicts"),
    "momentum's option missing": (drop("optimizer", "param_groups", 0, "momentum"), "lacks momentum"),
    "rate a word": (put("optimizer", "param_groups", 0, "lr", "fast"), r"\['lr'\] is 'fast'"),
    "rate NaN": (put("optimizer", "param_groups", 0, "lr", math.nan), r"\['lr'\] is not finite"),
    "rate negative": (put("optimizer", "param_groups", 0, "lr", -0.1), "refused by SGD"),
    "momentum of another shape": (put(*MOMENTUM, torch.zeros(3)), r"momentum_buffer'\] is \(3,\)"),
    "momentum NaN": (put(*MOMENTUM, torch.full((16, 784), math.nan)), "momentum_buffer'] is not finite"),
    "momentum missing": (drop(*MOMENTUM), "lacks momentum_buffer"),
    "momentum of no parameter": (put("optimizer", "state", 99, {}), r"holds the entries \[99\]"),
    "no selector": (put("selector", None), "without a selector"),
    "selector a number": (put("selector", 3), "selector is 3"),
    "selector's steps missing": (drop("selector", "steps"), "state lacks steps"),
    "selector's steps negative": (put("selector", "steps", -1), r"selector\['steps'\] is -1"),
    "selector's weight a word": (put("selector", "weight", "w"), r"selector\['weight'\] is 'w'"),
    "signal NaN": (put("selector", "smoothed", torch.full((24,), math.nan)), "smoothed'] is not finite"),
    "signal of other groups": (
        put("selector", "smoothed", torch.zeros(3)),
        "the selector refuses its state .smoothed of the state is",
    ),
    "signal no tensor": (put("selector", "smoothed", 3.0), "the selector refuses its state"),
    "signal a single number": (
        put("selector", "smoothed", torch.zeros(())),
        "the selector refuses its state",
    ),
    "generators a list": (put("generators", []), "generators is"),
    "generator short": (put("generators", "order", torch.zeros(3, dtype=torch.uint8)), "generators.'order'"),
    "generator no tensor": (put("generators", "order", b"seed"), "generators.'order'"),
    "torch's generator": (put("global_generators", "torch", torch.zeros(9)), "global_generators.'torch'"),
    "numpy's generator": (put("global_generators", "numpy", twister(words=3)), "global_generators.'numpy'"),
    "numpy's position": (put("global_generators", "numpy", twister(10**6)), "global_generators.'numpy'"),
    "python's generator": (put("global_generators", "python", [3, [1], None]), "global_generators.'python'"),
    "environment a word": (put("environment", "here"), "environment is 'here'"),
}


@pytest.fixture(scope="module")
def sound(data: Any, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A checkpoint whose optimiser and selector have states."""
    training, path = Training(), tmp_path_factory.mktemp("sound") / "run.pt"
    training.step(data)
    training.save(path, 1)
    return path.read_bytes()


@pytest.mark.parametrize("case", CRAFTED)
def test_what_no_run_saved_is_refused_by_name_and_changes_nothing(
    sound: bytes, data: Any, tmp_path: Path, case: str
) -> None:
    path, (change, message) = tmp_path / "run.pt", CRAFTED[case]
    path.write_bytes(sound)
    training = Training(seed=1)
    training.step(data)
    before = training.everything()
    rewritten(path, change)
    with pytest.raises(ValueError, match=rf"(?s)run\.pt cannot be resumed: (?=.*expected).*{message}"):
        training.load(path)
    assert training.everything() == before
    path.write_bytes(sound)
    assert training.load(path) is not None and training.everything() != before


@pytest.mark.parametrize("payload", [b"", b"not a pickle", pickle.dumps({"config": {}})])
def test_a_payload_that_is_no_checkpoint_is_refused(tmp_path: Path, payload: bytes) -> None:
    path = tmp_path / "run.pt"
    path.write_bytes(f"nn_bridge checkpoint 1 {hashlib.sha256(payload).hexdigest()}\n".encode() + payload)
    with pytest.raises(ValueError, match=r"run\.pt holds something else than a checkpoint"):
        Training().load(path)


def test_a_compressed_checkpoint_is_not_unpacked(sound: bytes, tmp_path: Path) -> None:
    path, packed = tmp_path / "run.pt", io.BytesIO()
    whole = zipfile.ZipFile(io.BytesIO(sound.partition(b"\n")[2]))
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in whole.namelist():
            archive.writestr(name, whole.read(name))
    payload = packed.getvalue()
    path.write_bytes(f"nn_bridge checkpoint 1 {hashlib.sha256(payload).hexdigest()}\n".encode() + payload)
    with pytest.raises(ValueError, match=r"run\.pt holds something else than a checkpoint .it is compressed"):
        Training().load(path)


def test_no_flipped_bit_of_a_checkpoint_goes_unnoticed(sound: bytes, tmp_path: Path) -> None:
    path, training, rng = tmp_path / "run.pt", Training(seed=1), np.random.default_rng(0)
    before = training.everything()
    header = sound.index(b"\n") + 1
    places = [*rng.integers(0, header, 40), *rng.integers(0, len(sound), 60)]
    for place in places:
        content = bytearray(sound)
        content[place] ^= 1 << int(rng.integers(8))
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"run\.pt"):
            training.load(path)
    assert training.everything() == before


OPTIMIZERS = {
    "SGD": lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9),
    "plain SGD": lambda p: torch.optim.SGD(p, lr=0.05),
    "Adam": lambda p: torch.optim.Adam(p, lr=0.01),
    "AdamW": lambda p: torch.optim.AdamW(p, lr=0.01, amsgrad=True),
    "RMSprop": lambda p: torch.optim.RMSprop(p, lr=0.01, momentum=0.5, centered=True),
    "Adagrad": lambda p: torch.optim.Adagrad(p, lr=0.01),
    "Adafactor": lambda p: torch.optim.Adafactor(p),
    "LBFGS": lambda p: torch.optim.LBFGS(p, lr=0.1, max_iter=3),
    "two groups": lambda p: torch.optim.Adam([{"params": p[:2], "lr": 0.1}, {"params": p[2:]}]),
    "a user's own": lambda p: Drift(p, speed=0.01),
}


class Drift(torch.optim.Optimizer):
    """A user's own, with a state of its own form and a constructor that has no default."""

    def __init__(self, params: Any, speed: float) -> None:
        super().__init__(params, {"speed": speed, "ceiling": math.inf})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            for p in group["params"]:
                seen = self.state[p].setdefault("seen", {"sum": torch.zeros(()), "count": 0})
                seen["count"] += 1
                seen["sum"] += p.grad.abs().sum()
                p -= group["speed"] * p.grad / seen["count"]


@pytest.mark.parametrize("saved", OPTIMIZERS)
def test_every_optimiser_resumes_and_none_takes_anothers_state(tmp_path: Path, saved: str) -> None:
    x, y = torch.rand(32, 6), torch.arange(32) % 3

    def start(name: str, seed: int) -> tuple[Any, Any]:
        model = population_mlp((6, 5, 4, 3), seed=seed)
        return model, OPTIMIZERS[name](list(model.parameters()))

    def step(model: Any, optimizer: Any) -> None:
        def closure() -> Any:
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(model(x), y)
            loss.backward()
            return loss

        closure()
        optimizer.step(closure if isinstance(optimizer, torch.optim.LBFGS) else None)

    path, (model, optimizer) = tmp_path / "run.pt", start(saved, 0)
    for _ in range(2):
        step(model, optimizer)
    save_checkpoint(path, model, optimizer, None, progress=Progress(1, 2), config={})
    step(model, optimizer)
    again = start(saved, 1)
    assert load_checkpoint(path, *again, None, config={}) == Progress(1, 2)
    step(*again)
    for name, value in model.state_dict().items():
        assert torch.equal(again[0].state_dict()[name], value)
    # Files of earlier releases do not say of which class the optimiser was.
    rewritten(path, drop("optimizer_class"))
    assert load_checkpoint(path, *start(saved, 1), None, config={}) == Progress(1, 2)
    for other in OPTIMIZERS:
        if {saved, other} in ({"SGD", "plain SGD"}, {saved}, {"Adam", "AdamW"}):
            continue
        model, optimizer = start(other, 1)
        fresh = str(optimizer.state_dict())
        before = {name: value.clone() for name, value in model.state_dict().items()}
        with pytest.raises(ValueError, match=r"run\.pt cannot be resumed"):
            load_checkpoint(path, model, optimizer, None, config={})
        assert str(optimizer.state_dict()) == fresh
        assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_a_checkpoint_of_sgd_is_not_one_of_adam(sound: bytes, tmp_path: Path) -> None:
    path, training = tmp_path / "run.pt", Training(seed=1)
    path.write_bytes(sound)
    training.optimizer = torch.optim.Adam(training.model.parameters())
    before = training.everything()
    with pytest.raises(ValueError, match=r"the optimiser SGD; expected Adam"):
        training.load(path)
    assert training.everything() == before


class Stubborn(Selector):
    """A user's own, which refuses in its own way."""

    def load_state_dict(self, state: Any) -> None:
        super().load_state_dict(state)
        if state["steps"]:
            raise KeyError("never")


def test_nothing_is_changed_where_a_users_own_part_refuses(sound: bytes, data: Any, tmp_path: Path) -> None:
    path, training = tmp_path / "run.pt", Training(seed=1)
    path.write_bytes(sound)
    training.selector = Stubborn(
        training.model, ed.Replicator(), Contribution(smoothing=0.9, relative=True), 0.01
    )
    before = training.everything()
    with pytest.raises(
        ValueError, match=r"run\.pt cannot be resumed: the selector refuses its state .'never'"
    ):
        training.load(path)
    assert training.everything() == before


def test_a_compacted_network_is_saved_and_goes_on(data: Any, tmp_path: Path) -> None:
    training = Training()
    training.epoch(data)
    prune_to_sparsity(training.model, 0.5)
    small = compact(training.model, training.optimizer)
    save_compact(small, tmp_path / "small.safetensors")
    path = tmp_path / "run.pt"
    save_checkpoint(path, small, training.optimizer, None, progress=Progress(1, 16), config=CONFIG)
    x, y = data.train_images, data.train_labels
    train_epoch(small, x, y, training.optimizer, batch_size=64)
    other = load_compact(tmp_path / "small.safetensors")
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.zero_()
    optimizer = torch.optim.SGD(other.parameters(), lr=0.3, momentum=0.1)
    assert load_checkpoint(path, other, optimizer, None, config=CONFIG) == Progress(1, 16)
    train_epoch(other, x, y, optimizer, batch_size=64)
    for name, value in small.state_dict().items():
        assert torch.equal(other.state_dict()[name], value)


def test_a_configuration_that_could_never_agree_is_not_saved(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="config cannot be written as JSON"):
        Training().save(tmp_path / "run.pt", 1, {"rates": [math.nan]})
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("name", ["hidden1.masses", "hidden2.weight"])
def test_a_state_that_is_not_finite_is_never_saved(tmp_path: Path, name: str, value: float) -> None:
    training = Training()
    training.save(tmp_path / "run.pt", 1)
    with torch.no_grad():
        training.model.state_dict()[name].view(-1)[3] = value
    with pytest.raises(ValueError, match=f"{name} of the model is not finite"):
        training.save(tmp_path / "run.pt", 2)
    progress = Training().load(tmp_path / "run.pt")
    assert progress is not None and progress.epoch == 1
    assert [f.name for f in tmp_path.iterdir()] == ["run.pt"]


def test_a_state_that_could_not_go_on_is_never_saved(data: Any, tmp_path: Path) -> None:
    def negative_masses(training: Training) -> None:
        training.model[0].masses[3] = -1.0

    def infinite_momentum(training: Training) -> None:
        training.optimizer.state[training.model[0].weight]["momentum_buffer"][3] = math.inf

    def no_rate(training: Training) -> None:
        training.optimizer.param_groups[0]["lr"] = math.nan

    def no_signal(training: Training) -> None:
        training.selector._smoothed[3] = math.nan  # type: ignore[index]

    for spoil, name in (
        (negative_masses, "hidden1.masses of the model is negative"),
        (infinite_momentum, r"optimizer\['state'\]\[0\]\['momentum_buffer'\] is not finite"),
        (no_rate, r"optimizer\['param_groups'\]\[0\]\['lr'\] is not finite"),
        (no_signal, r"selector\['smoothed'\] is not finite"),
    ):
        training = Training()
        training.step(data)
        spoil(training)
        with pytest.raises(ValueError, match=f"{name}.*expected.*nothing was saved"):
            training.save(tmp_path / "run.pt", 1)
    assert not list(tmp_path.iterdir())


def test_no_code_in_a_checkpoint_is_run(tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> Any:
            return (Path.touch, (tmp_path / "sprung",))

    content = io.BytesIO()
    torch.save({"config": Trap()}, content)
    payload = content.getvalue()
    header = f"nn_bridge checkpoint 1 {hashlib.sha256(payload).hexdigest()}\n".encode()
    (tmp_path / "run.pt").write_bytes(header + payload)
    with pytest.raises(ValueError, match="holds something else than a checkpoint"):
        Training().load(tmp_path / "run.pt")
    assert not (tmp_path / "sprung").exists()


def test_masses_of_the_layers_are_what_the_selector_saw(data: Any) -> None:
    training = Training()
    training.epoch(data)
    joint = torch.cat([layer.masses for layer in population_layers(training.model)])
    assert torch.equal(joint, training.selector.masses)
    # No clip bound and no cap: total mass is conserved by the map.
    unclipped = Training(ed.Replicator())
    unclipped.epoch(data)
    assert float(unclipped.selector.masses.sum()) == pytest.approx(24.0, rel=1e-13)
