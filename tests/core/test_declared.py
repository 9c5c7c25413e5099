"""Networks of any make: what was declared is what can be removed, and costs what really runs."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings, strategies
from torch import Tensor, nn

from pruning.core.cost import CostModel
from pruning.core.declare import DeclaredUnits, attention_heads, conv_channels, gated_units, linear_units
from pruning.core.declared import DeclaredNetwork
from pruning.core.extraction import extract
from pruning.core.masking import Masker
from pruning.core.structure import Structure
from tests.counter import count_macs


class Attention(nn.Module):
    """Self-attention with a width of heads of its own, written out."""

    def __init__(self, width: int, num_heads: int, head_dim: int) -> None:
        super().__init__()
        self.num_heads, self.head_dim = num_heads, head_dim
        self.query, self.key, self.value = (nn.Linear(width, num_heads * head_dim) for _ in range(3))
        self.output = nn.Linear(num_heads * head_dim, width)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (layer(x).unflatten(2, (self.num_heads, self.head_dim)).transpose(1, 2)
                   for layer in (self.query, self.key, self.value))  # fmt: skip
        weights = (q @ k.transpose(2, 3) / self.head_dim**0.5).softmax(dim=3)
        return self.output((weights @ v).transpose(1, 2).flatten(2))


class Net(nn.Module):
    """A convolutional front end with every kind of layer between, attention, and three feed-forward modules."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 6, 3, 2)
        self.norm1 = nn.BatchNorm2d(6)
        self.depthwise = nn.Conv2d(6, 6, 3, 1, 1, groups=6)
        self.conv2 = nn.Conv2d(6, 4, 3, 2)
        self.flat = nn.Linear(4 * 4, 12)
        self.attention = Attention(12, 3, 5)
        self.up = nn.Linear(12, 20)
        self.between = nn.LayerNorm(20)
        self.down = nn.Linear(20, 12)
        self.gate, self.value, self.back = nn.Linear(12, 8), nn.Linear(12, 8, bias=False), nn.Linear(8, 12)
        self.both, self.out = nn.Linear(12, 14), nn.Linear(7, 5)
        self.transposed = nn.ConvTranspose1d(5, 6, 2, 2)
        self.last = nn.Conv1d(6, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv2(self.depthwise(torch.relu(self.norm1(self.conv1(x[:, None])))))
        y = self.flat(y.transpose(1, 2).flatten(2))
        y = y + self.attention(y)
        y = y + self.down(self.between(torch.relu(self.up(y))))
        y = y + self.back(torch.sigmoid(self.gate(y)) * self.value(y))
        y = self.out(nn.functional.glu(self.both(y)))
        return self.last(torch.relu(self.transposed(y.transpose(1, 2)))).transpose(1, 2)


def declared_units(model: Net) -> list[DeclaredUnits]:
    return [
        conv_channels(model, "conv1", ["conv1"], ["conv2"], ["norm1", "depthwise"]),
        conv_channels(model, "conv2", ["conv2"], ["flat"]),
        attention_heads(model, "heads", 3, "attention.query", "attention.key", "attention.value", "attention.output",
                        ["attention.num_heads"]),
        linear_units(model, "hidden", ["up"], ["down"], ["between"], minimum=2),
        gated_units(model, "gated", "gate", "value", "back"),
        gated_units(model, "fused", "both", "both", "out"),
        conv_channels(model, "transposed", ["transposed"], ["last"]),
    ]  # fmt: skip


@pytest.fixture
def network() -> DeclaredNetwork:
    torch.manual_seed(0)
    model = Net().double()
    model.norm1.running_mean.normal_()
    model.norm1.running_var.uniform_(0.5, 2)
    example = torch.randn(1, 33, 20, dtype=torch.float64)
    return DeclaredNetwork(model.eval(), declared_units(model), [example])


@settings(max_examples=25, deadline=None)
@given(choice=strategies.randoms(use_true_random=False))
def test_extracted_equals_masked_and_costs_what_the_terms_say(choice: Callable[..., float]) -> None:
    torch.manual_seed(0)
    model = Net().double().eval()
    network = DeclaredNetwork(model, declared_units(model), [torch.randn(1, 33, 20, dtype=torch.float64)])
    groups = network.unit_groups()
    structure = Structure.dense(groups)
    kept = {
        group.name: structure.groups[group.name].with_kept(
            choice.sample(range(group.size), choice.randint(group.minimum, group.size))  # type: ignore[attr-defined]
        )
        for group in groups
    }
    structure = Structure(kept).resolved(groups)
    x = torch.randn(2, 41, 20, dtype=torch.float64)
    with torch.no_grad(), Masker(network, groups).applied(structure.masks()):
        masked = model(x)
    small = extract(network, structure)
    with torch.no_grad():
        assert torch.allclose(small(x), masked, atol=1e-10)
    costs = CostModel(groups, network.cost_terms()).structure_cost(structure)
    assert costs["size"] == sum(parameter.numel() for parameter in small.parameters())
    assert costs["macs"] == count_macs(lambda: small(*network.example))


def test_the_dense_network_costs_what_it_is(network: DeclaredNetwork) -> None:
    costs = CostModel(network.unit_groups(), network.cost_terms()).dense
    assert costs["size"] == sum(parameter.numel() for parameter in network.parameters())
    assert costs["macs"] == count_macs(lambda: network(*network.example))


def test_modules_of_the_small_network_say_their_sizes(network: DeclaredNetwork) -> None:
    groups = network.unit_groups()
    structure = Structure({name: units.with_kept(range(2)) for name, units in Structure.dense(groups).groups.items()})
    small = extract(network, structure.resolved(groups)).get_submodule("network")
    described = "\n".join(repr(module) for module in small.children())
    assert "Conv2d(1, 2, kernel_size=(3, 3), stride=(2, 2))" in described
    assert "Conv2d(2, 2, kernel_size=(3, 3), stride=(1, 1), padding=(1, 1), groups=2)" in described
    assert "BatchNorm2d(2, " in described and "LayerNorm((2,)" in described
    assert "Linear(in_features=12, out_features=4, bias=True)" in described and "ConvTranspose1d(5, 2" in described
    assert small.attention.num_heads == 2 and network.network.attention.num_heads == 3  # type: ignore[union-attr]


class Tied(nn.Module):
    """An embedding whose weight is also that of the output layer."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(11, 4)
        self.up, self.down = nn.Linear(4, 6), nn.Linear(6, 4)
        self.output = nn.Linear(4, 11, bias=False)
        self.output.weight = self.embedding.weight

    def forward(self, tokens: Tensor) -> Tensor:
        return self.output(self.down(torch.relu(self.up(self.embedding(tokens)))))


def test_shared_weights_count_once_and_stay_shared() -> None:
    model = Tied().eval()
    tokens = torch.arange(5)[None]
    network = DeclaredNetwork(model, [linear_units(model, "hidden", ["up"], ["down"])], [tokens])
    costs = CostModel(network.unit_groups(), network.cost_terms()).dense
    assert costs["size"] == sum(parameter.numel() for parameter in model.parameters())
    assert costs["macs"] == count_macs(lambda: model(tokens))
    (group,) = network.unit_groups()
    small = extract(network, Structure.from_masks([group], {group.name: torch.tensor([1.0, 0, 1, 0, 0, 1])}))
    inner = small.get_submodule("network")
    assert isinstance(inner, Tied) and inner.output.weight is inner.embedding.weight
    assert inner.up.out_features == 3


@pytest.mark.parametrize(
    ("declare", "message"),
    [
        (lambda m: linear_units(m, "x", ["up"], ["nothing"]), "the network has no module nothing"),
        (lambda m: linear_units(m, "x", ["up"], ["flat"]), "x: flat has 16 inputs, which 20 units do not divide"),
        (lambda m: linear_units(m, "x", ["up", "gate"], ["down"]), "x: gate has 8 outputs, not 20 units of 1 width"),
        (lambda m: linear_units(m, "x", [], ["down"]), "x: name at least one layer that writes"),
        (lambda m: linear_units(m, "x", ["attention"], ["down"]), "attention has no weight"),
        (lambda m: linear_units(m, "x", ["up"], ["down"], ["norm1"]), "x: norm1 works on 6 units, not 20"),
        (lambda m: linear_units(m, "x", ["conv1"], ["depthwise"]), "x: depthwise has no weight of outputs"),
        (lambda m: gated_units(m, "x", "out", "out", "down"), "x: out has 5 outputs, which are not two equal halves"),
        (lambda m: attention_heads(m, "x", 2, "attention.query", "attention.key", "attention.value",
                                   "attention.output", []), "x: attention.query has 15 outputs, not 2 units"),
        (lambda m: attention_heads(m, "x", 5, "attention.query", "attention.key", "attention.value",
                                   "attention.output", ["attention.num_heads"]), "attention.num_heads is not 5"),
    ],
)  # fmt: skip
def test_declarations_that_do_not_fit_are_named(declare: Callable[[Net], DeclaredUnits], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        declare(Net())


def test_two_groups_cannot_own_the_same_entries() -> None:
    model = Net()
    twice = [linear_units(model, name, ["up"], ["down"], ["between"]) for name in ("one", "two")]
    with pytest.raises(ValueError, match="one and two both own entries of axis 0 of up.weight"):
        DeclaredNetwork(model, twice)


class Recurrent(nn.Module):
    """A pruned feed-forward module before a layer whose products cannot be counted."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.down, self.recurrent = nn.Linear(4, 6), nn.Linear(6, 4), nn.GRU(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.recurrent(self.down(torch.relu(self.up(x))))[0]


def test_products_that_cannot_be_counted_are_no_number() -> None:
    model = Recurrent()
    network = DeclaredNetwork(model, [linear_units(model, "hidden", ["up"], ["down"])], [torch.randn(1, 3, 4)])
    assert network.uncounted == ["recurrent"]
    network.check()
    dense = CostModel(network.unit_groups(), network.cost_terms()).dense
    assert dense["size"] == sum(parameter.numel() for parameter in model.parameters()) and math.isnan(dense["macs"])


class Wrong(nn.Module):
    """Every way to read units that a declaration may forget."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how = how
        self.up, self.down, self.norm, self.other = nn.Linear(4, 6), nn.Linear(6, 4), nn.BatchNorm1d(6), nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        y = self.up(x)
        if self.how == "softmax":
            y = y.softmax(dim=-1)
        elif self.how == "norm":
            y = self.norm(y)
        elif self.how == "mean":
            y = y + y.mean(dim=-1, keepdim=True)
        return self.down(y) + (self.other(y) if self.how == "reader" else 0)


@pytest.mark.parametrize(
    ("how", "message"),
    [("softmax", "computes something else"), ("mean", "computes something else"), ("norm", "does not run"),
     ("reader", "does not run")],
)  # fmt: skip
def test_declarations_that_are_not_whole_are_found_before_training(how: str, message: str) -> None:
    torch.manual_seed(0)
    model = Wrong(how)
    network = DeclaredNetwork(model, [linear_units(model, "hidden", ["up"], ["down"])], [torch.randn(3, 4)])
    with pytest.raises(ValueError, match=f"^hidden: without half of its units the network {message}"):
        network.check()
    assert model.training and model.up.weight.dtype == torch.float32, "the check works on a copy"


def test_a_right_declaration_passes(network: DeclaredNetwork) -> None:
    network.check()


def test_what_is_no_list_is_named() -> None:
    model = Net()
    with pytest.raises(ValueError, match="x: writers, readers and between are lists of names, got a string"):
        linear_units(model, "x", "up", ["down"])
    with pytest.raises(ValueError, match="the network has no module dwon; did you mean down"):
        linear_units(model, "x", ["up"], ["dwon"])
    with pytest.raises(TypeError, match="example must be the list of the network's arguments, got a tensor"):
        DeclaredNetwork(model, [], torch.randn(1, 33, 20))


class Simple(nn.Module):
    """Two linear layers; ``output`` says in which form the result is returned."""

    def __init__(self, output: Callable[[Tensor, Tensor], object], joint: bool = False) -> None:
        super().__init__()
        self.a, self.b, self.output, self.joint = nn.Linear(6, 8), nn.Linear(8, 5), output, joint

    def forward(self, x: Tensor) -> object:
        h = self.a(x).relu()
        return self.output(x, self.b(h / (1 + h.sum(dim=-1, keepdim=True)) if self.joint else h))


def simple(network: nn.Module, *example: object) -> DeclaredNetwork:
    return DeclaredNetwork(network, [linear_units(network, "h", ["a"], ["b"])], example or (torch.randn(1, 7, 6),))


@pytest.mark.parametrize(
    "output",
    [
        lambda x, y: y,
        lambda x, y: (x, y),
        lambda x, y: (torch.tensor([3]), [y]),
        lambda x, y: {"features": x, "logits": y},
        lambda x, y: y.sum(),
    ],
)
def test_all_outputs_are_compared(output: Callable[[Tensor, Tensor], object]) -> None:
    """Units that are normalised together are found wherever the result stands among the outputs."""
    simple(Simple(output)).check()
    with pytest.raises(ValueError, match="h: without half of its units the network computes something else"):
        simple(Simple(output, joint=True)).check()


def test_a_network_without_numbers_is_refused() -> None:
    with pytest.raises(ValueError, match="the network returns no floating-point tensor"):
        simple(Simple(lambda x, y: y.argmax(dim=-1))).check()


def test_code_that_takes_the_first_units_is_found() -> None:
    class Prefix(Simple):
        """Scales the units that there are by a list for all."""

        def forward(self, x: Tensor) -> object:
            h = self.a(x).relu()
            return self.b(h * torch.arange(8, dtype=h.dtype)[: h.shape[-1]])

    with pytest.raises(ValueError, match="computes something else"):
        simple(Prefix(lambda x, y: y)).check()


def test_units_of_shared_tensors_are_declared_by_all_names() -> None:
    class Tied(Simple):
        """A third layer has the weight of the first."""

        def __init__(self) -> None:
            super().__init__(lambda x, y: y)
            self.c, self.d = nn.Linear(6, 8), nn.Linear(8, 5)
            self.c.weight = self.a.weight

        def forward(self, x: Tensor) -> object:
            return self.b(self.a(x).relu()) + self.d(self.c(x).tanh())

    network = Tied()
    with pytest.raises(ValueError, match="a.weight is also c.weight: declare the same units of both"):
        simple(network)
    whole = DeclaredNetwork(network, [linear_units(network, "h", ["a", "c"], ["b", "d"])], [torch.randn(1, 7, 6)])
    whole.check()


def test_layers_that_are_used_twice() -> None:
    """Under one of their names only, units are refused; under both, they cost once."""

    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(6, 8), nn.Linear(8, 6)

        def forward(self, x: Tensor) -> Tensor:
            return x + self.b(self.a(x).relu())

    block = Block()
    network = nn.Sequential(block, block)
    example = [torch.randn(1, 7, 6)]
    with pytest.raises(ValueError, match="0.a.weight is also 1.a.weight"):
        DeclaredNetwork(network, [linear_units(network, "h", ["0.a"], ["0.b"])], example)
    whole = DeclaredNetwork(network, [linear_units(network, "h", ["0.a", "1.a"], ["0.b", "1.b"])], example)
    whole.check()
    costs = CostModel(whole.unit_groups(), whole.cost_terms()).dense
    assert costs["size"] == sum(parameter.numel() for parameter in network.parameters())
    assert costs["macs"] == count_macs(lambda: network(*example))


def test_networks_that_do_not_run_in_double_precision_are_checked_in_their_own() -> None:
    class Single(Simple):
        def forward(self, x: Tensor) -> object:
            return self.b(self.a(x.float()).relu())

    simple(Single(lambda x, y: y)).check()
    with pytest.raises(ValueError, match="the network does not run on the example"):
        simple(Simple(lambda x, y: y), torch.randn(1, 7, 5)).check()


def test_the_modes_of_modules_stay() -> None:
    network = Simple(lambda x, y: y)
    network.train()
    network.a.eval()
    simple(network).cost_terms()
    assert network.training and network.b.training and not network.a.training


def test_weight_norm_that_cannot_be_copied_is_named() -> None:
    network = Simple(lambda x, y: y)
    network.other = torch.nn.utils.weight_norm(nn.Linear(6, 6))
    network.output = lambda x, y: y + network.other(x).sum()
    with pytest.raises(ValueError, match=r"cannot be copied .*; use torch.nn.utils.parametrizations.weight_norm"):
        simple(network).check()
