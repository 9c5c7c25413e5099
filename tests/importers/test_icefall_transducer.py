"""icefall's Conformer transducers: equal outputs after conversion, and units in the checkout's own modules.

Always with the stand-in in ``tests/icefall``, and with icefall itself if ``ICEFALL_DIR`` names a checkout.
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from pruning import registry
from pruning.core import low_rank
from pruning.core.cost import CostModel
from pruning.core.extraction import extract
from pruning.core.masking import Masker
from pruning.core.prunable import plain
from pruning.core.structure import Structure
from pruning.core.units import WIDTH, check_groups
from pruning.core.views import view_for
from pruning.errors import UserError
from pruning.importers.icefall_transducer import converted, form_of
from pruning.models.conformer_units import MODULE_KINDS, UNIT_KINDS
from pruning.models.transducer import Transducer
from tests.icefall import networks
from tests.icefall.networks import LATER, PLACES, PRUNED, REWORKED, STATELESS
from tests.models.test_conformer_units import random_masks, relative_difference

Place = Callable[[], Path]


def ours(state: dict[str, Tensor]) -> Transducer:
    form = form_of(state, {}, "x.pt")
    model = Transducer(form.config)
    model.load_state_dict(converted(state, form, model.state_dict(), "x.pt"))
    return model.eval()


def foreign(directory: Path, recipe: str = REWORKED) -> Transducer:
    """Return the transducer with icefall's own encoder."""
    network = networks.encoder(directory, recipe)
    model = ours(networks.state(network, recipe))
    own = Transducer(dataclasses.replace(model.config, icefall=networks.modules(directory, recipe)))
    weights = {name: value for name, value in model.state_dict().items() if not name.startswith("encoder.")}
    weights.update({f"encoder.network.{name}": value for name, value in network.state_dict().items()})
    own.load_state_dict(weights)
    return own.eval()


def features() -> tuple[Tensor, Tensor]:
    lengths = torch.tensor([90, 61])
    x = torch.randn(2, 90, 80, generator=torch.Generator().manual_seed(1))
    x[1, 61:] = 0.0  # in icefall, the first convolution of reworked encoders sees one frame beyond the end
    return x, lengths


@pytest.mark.parametrize("recipe", [STATELESS, PRUNED, REWORKED, *LATER])
@pytest.mark.parametrize("place", PLACES)
@torch.no_grad()
def test_outputs_are_equal(place: Place, recipe: str) -> None:
    directory = networks.having(place(), recipe)
    network = networks.encoder(directory, recipe)
    state = networks.state(network, recipe)
    model = ours(state)
    x, lengths = features()
    theirs, their_lengths = network(x, lengths)
    encoded = model(x, lengths)
    output = encoded.output
    if recipe in (STATELESS, PRUNED):
        output = model.joiner.encoder_proj(output)
    assert torch.equal(encoded.lengths, their_lengths)
    for n, length in enumerate(their_lengths.tolist()):
        assert relative_difference(output[n, :length], theirs[n, :length]) < 1e-5


def embedded(state: dict[str, Tensor], tokens: list[int]) -> Tensor:
    """Compute the decoder's output after a context of two, from icefall's tensors."""
    scale = state.get("decoder.embedding.scale", torch.zeros(())).exp()
    table = state["decoder.embedding.weight"] * scale
    context = torch.stack([table[token] if token >= 0 else torch.zeros_like(table[0]) for token in tokens])
    weight = state["decoder.conv.weight"][:, 0] * state.get("decoder.conv.weight_scale", torch.zeros(())).exp()
    return (context.T * weight).sum(dim=1)


def linear(state: dict[str, Tensor], name: str, x: Tensor) -> Tensor:
    weight, bias = state[f"{name}.weight"], state[f"{name}.bias"]
    if f"{name}.weight_scale" in state:
        weight, bias = weight * state[f"{name}.weight_scale"].exp(), bias * state[f"{name}.bias_scale"].exp()
    return weight @ x + bias


@pytest.mark.parametrize("recipe", [STATELESS, PRUNED, REWORKED])
@torch.no_grad()
def test_decoder_joiner_and_simple_heads(recipe: str) -> None:
    """Compared with the formulas of each recipe's model.py."""
    network = networks.encoder(networks.STAND_IN, recipe)
    state = networks.state(network, recipe)
    model = ours(state)
    x, lengths = features()
    am = network(x, lengths)[0][0, 4]
    encoded = model(x, lengths).output[0, 4]
    for tokens in ([-1, 0], [0, 7], [3, 7]):
        lm = embedded(state, tokens)
        if recipe == STATELESS:
            logits = linear(state, "joiner.output_linear", (am + lm).tanh())
        elif recipe == PRUNED:
            lm = linear(state, "decoder.output_linear", lm.relu())
            inner = linear(state, "joiner.inner_linear", (am + lm).tanh())
            logits = linear(state, "joiner.output_linear", inner.relu())
            assert torch.allclose(model.simple_am(encoded), am, atol=1e-5)
        else:
            lm = lm.relu()
            both = linear(state, "joiner.encoder_proj", am) + linear(state, "joiner.decoder_proj", lm)
            logits = linear(state, "joiner.output_linear", both.tanh())
            assert torch.allclose(model.simple_am(encoded), linear(state, "simple_am_proj", am), atol=1e-5)
            assert torch.allclose(model.simple_lm(lm), linear(state, "simple_lm_proj", lm), atol=1e-5)
        decoded = model.decoder(torch.tensor([tokens]), pad=False)[0, 0]
        assert relative_difference(model.joiner(encoded, decoded), logits) < 1e-5
        if recipe == PRUNED:
            assert torch.allclose(model.simple_lm(decoded), lm, atol=1e-5)


@torch.no_grad()
def test_the_simple_heads_of_one_that_was_trained_without_follow_its_joiner() -> None:
    model = ours(networks.state(networks.encoder(networks.STAND_IN, STATELESS), STATELESS))
    encoded, decoded = 1e-3 * torch.randn(32), 1e-3 * torch.randn(networks.JOINER)
    model.joiner.encoder_proj.bias.zero_()
    simple = model.simple_am(encoded) + model.simple_lm(decoded)
    of_projection = model.simple_am.bias - model.joiner.output.bias  # its bias, which existed at conversion
    assert torch.allclose(simple - of_projection, model.joiner(encoded, decoded), atol=1e-4)


@pytest.mark.parametrize("place", PLACES)
@torch.no_grad()
def test_icefalls_own_decoder_and_joiner(place: Place) -> None:
    directory = place()
    if directory == networks.STAND_IN:
        pytest.skip("the stand-in has encoders alone")
    network = networks.encoder(directory, REWORKED)
    state = networks.state(network, REWORKED)
    model = ours(state)
    decoder, joiner = networks.classes(directory, REWORKED, "decoder", "joiner")
    theirs = decoder.Decoder(vocab_size=networks.VOCABULARY, decoder_dim=networks.DECODER, blank_id=0, context_size=2)
    theirs.load_state_dict({name[8:]: value for name, value in state.items() if name.startswith("decoder.")})
    join = joiner.Joiner(32, networks.DECODER, networks.JOINER, networks.VOCABULARY)
    join.load_state_dict({name[7:]: value for name, value in state.items() if name.startswith("joiner.")})
    tokens = torch.tensor([[0, 5, 9], [0, 2, 2]])
    decoded = theirs(tokens)
    assert torch.allclose(model.decoder(tokens, pad=True), decoded, atol=1e-6)
    x, lengths = features()
    am = network(x, lengths)[0][:, :3]
    logits = join(am[:, :, None], decoded[:, None])
    assert relative_difference(model.joiner(am[:, :, None], decoded[:, None]), logits) < 1e-5


@pytest.mark.parametrize("place", PLACES)
def test_a_checkouts_modules_declare_all_units(place: Place) -> None:
    model = foreign(place())
    check_groups(model, model.unit_groups())
    assert {group.kind for group in model.unit_groups()} == {*UNIT_KINDS, *MODULE_KINDS}
    flat = plain(model)
    assert isinstance(flat, Transducer) and flat.config.icefall is None
    assert [group.name for group in flat.unit_groups()] == [group.name for group in model.unit_groups()]
    counted = CostModel(model.unit_groups(), model.cost_terms(70)).dense
    assert counted["size"] == sum(parameter.numel() for parameter in flat.encoder.parameters())


@pytest.mark.parametrize("kind", [*UNIT_KINDS, *MODULE_KINDS, WIDTH, "all"])
@pytest.mark.parametrize("place", PLACES)
@torch.no_grad()
def test_masked_equals_extracted(place: Place, kind: str) -> None:
    directory = place()
    model = foreign(directory)
    x, lengths = features()
    dense = model(x, lengths)
    for seed in range(2):
        kinds = (*UNIT_KINDS, *MODULE_KINDS, WIDTH) if kind == "all" else (kind,)
        view = view_for(model, kinds)
        check_groups(model, view.unit_groups())
        masks = random_masks(view, seed, kinds, 0.6)
        structure = Structure.from_masks(view.unit_groups(), masks)
        with Masker(model, view.unit_groups()).applied(structure.masks()):
            masked = model(x, lengths)
        small = extract(model, structure)
        assert isinstance(small, Transducer) and small.config.icefall is None
        cut = small(x, lengths)
        valid = torch.arange(cut.output.shape[1]) < cut.lengths[:, None]
        kept = list(structure.groups["encoder.width"].kept) if WIDTH in kinds else slice(None)
        assert relative_difference(cut.output[valid], masked.output[valid][:, kept]) < 1e-4
        assert relative_difference(masked.output[valid], dense.output[valid]) > 1e-3
        again = registry.build(registry.describe(small))
        again.load_state_dict(small.state_dict(), strict=True)


@pytest.mark.parametrize("place", PLACES)
def test_gradients_reach_masks_and_the_checkouts_weights(place: Place) -> None:
    model = foreign(place()).train()
    group = next(group for group in model.unit_groups() if group.kind == "ffn")
    mask = torch.ones(group.size, requires_grad=True)
    with Masker(model, model.unit_groups()).applied({group.name: mask}):
        model(*features()).output.square().mean().backward()
    assert mask.grad is not None and (mask.grad != 0).any()
    weight = model.get_parameter(group.masks[0].tensor)
    assert weight.grad is not None and weight.grad.abs().sum() > 0


@pytest.mark.parametrize("recipe", [REWORKED, "pruned_transducer_stateless5"])
@pytest.mark.parametrize("place", PLACES)
@torch.no_grad()
def test_layers_of_a_checkouts_modules(place: Place, recipe: str) -> None:
    """Layer outputs for distillation; in training too, the last one is the output."""
    directory = networks.having(place(), recipe)
    model = foreign(directory, recipe)
    x, lengths = features()
    theirs, own = model(x, lengths, return_layers=True), plain(model)(x, lengths, return_layers=True)
    assert len(theirs.layers) == len(own.layers) == 4
    for one, other in zip(theirs.layers, own.layers):
        assert relative_difference(one[0], other[0]) < 1e-4
    model.train()
    assert not getattr(model.encoder.network.encoder, "combiner", torch.nn.Module().eval()).training


@pytest.mark.parametrize("place", PLACES)
@torch.no_grad()
def test_low_rank_of_a_checkouts_network(place: Place) -> None:
    model = foreign(place())
    factored = low_rank.factorise(model, low_rank.linear_names(model))
    x, lengths = features()
    assert relative_difference(factored(x, lengths).output[0], model(x, lengths).output[0]) < 1e-4


def test_nothing_of_a_checkout_stays_importable() -> None:
    before = list(sys.path)
    networks.encoder(networks.STAND_IN, REWORKED)
    assert sys.path == before and not {"conformer", "scaling"} & set(sys.modules)


def test_tensors_that_are_missing_or_unknown_are_named() -> None:
    state = networks.state(networks.encoder(networks.STAND_IN, REWORKED), REWORKED)
    form = form_of(state, {}, "x.pt")
    network = Transducer(form.config).state_dict()
    for change, named in (
        ({"encoder.encoder.layers.1.feed_forward.4.bias": None}, r"no tensor .*\.layers\.1\.feed_forward\.4"),
        ({"encoder.encoder.layers.1.feed_forward.4.bias_scale": None}, r"no tensor .*feed_forward\.4\.bias_scale"),
        ({"decoder.embedding.scale": None}, r"no tensor decoder\.embedding\.scale"),
        ({"encoder.encoder.layers.1.extra": torch.zeros(1)}, r"contains encoder\.encoder\.layers\.1\.extra"),
        ({"joiner.output_linear.bias_scale": torch.zeros(2)}, r"several values in .*bias_scale"),
        ({"joiner.output_linear.extra_scale": torch.zeros(1)}, r"contains joiner\.output_linear\.extra_scale"),
        ({"encoder.encoder.layers.1.self_attn.out_proj.bias": torch.zeros(9)}, r"layers\.1\..*\(9,\), but .*\(32,\)"),
    ):  # fmt: skip
        other = {name: value for name, value in {**state, **change}.items() if value is not None}
        with pytest.raises(UserError, match=named):
            converted(other, form, network, "x.pt")
    for of_training in ("decoder_giga.embedding.weight", "encoder.encoder.combiner.linear.0.weight"):
        converted({**state, of_training: torch.zeros(3, 4)}, form, network, "x.pt")


@torch.no_grad()
def test_weights_of_half_precision_and_features_of_another_size() -> None:
    for recipe in (STATELESS, PRUNED, REWORKED):
        state = networks.state(networks.encoder(networks.STAND_IN, recipe), recipe)
        half = {name: tensor.half() if tensor.is_floating_point() else tensor for name, tensor in state.items()}
        assert {p.dtype for p in ours(half).parameters()} == {torch.float32}
    place = "encoder.encoder_embed.out.weight"
    for bins, left in ((40, 9), (64, 15), (80, 19), (100, 24), (120, 29)):
        other = {**state, place: torch.zeros(state[place].shape[0], state[place].shape[1] // 19 * left)}
        assert form_of(other, {}, "x.pt").config.encoder.feature_dim == bins
        assert form_of(other, {"feature_dim": bins + 1}, "x.pt").config.encoder.feature_dim == bins + 1


def test_a_network_of_post_norms_is_refused() -> None:
    state = networks.state(networks.encoder(networks.STAND_IN, STATELESS), STATELESS)
    for name in ("weight", "bias"):
        del state[f"encoder.after_norm.{name}"]
    with pytest.raises(UserError, match="normalize_before"):
        form_of(state, {}, "x.pt")


@pytest.mark.parametrize(
    ("change", "settings", "named"),
    [
        ({"encoder.encoder.layers.0.self_attn.pos_bias_u": None}, {}, "pos_bias_u"),
        ({"decoder.embedding.weight": torch.zeros(4)}, {}, r"decoder\.embedding\.weight with 1 dimensions"),
        ({"encoder.encoder.layers.0.conv_module.depthwise_conv.weight": torch.zeros(32, 1, 6)}, {}, "kernel size 6"),
        ({}, {"feature_dim": 40}, "feature_dim of 40"),
        ({"encoder.encoder_embed.conv.9.weight": torch.zeros(4, 4, 3, 3)}, {}, "4 convolutions"),
        ({}, {"causal_convolution": True}, "causal_convolution"),
        ({}, {"blank_id": 1}, "x.pt was trained with token 1 as blank, but blank must be token 0; train it with"),
    ],
)
def test_networks_that_are_not_known_are_refused(change: dict, settings: dict, named: str) -> None:
    state = networks.state(networks.encoder(networks.STAND_IN, REWORKED), REWORKED)
    other = {name: value for name, value in {**state, **change}.items() if value is not None}
    with pytest.raises(UserError, match=named):
        form_of(other, settings, "x.pt")


@pytest.mark.parametrize("recipe", ["recipe", "../other/recipe", "{tmp_path}/other/recipe"])
def test_code_that_a_checkpoint_names_is_not_executed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, recipe: str
) -> None:
    """Such code may come with the checkpoint; only code of a checkout that the user has named is executed."""
    monkeypatch.delenv("ICEFALL_DIR", raising=False)
    for name in ("checkout", "other"):
        (tmp_path / name / "icefall").mkdir(parents=True)
        (tmp_path / name / "recipe").mkdir()
        harm = f"import os\nos.mkdir({str(tmp_path / 'harm')!r})\n"
        (tmp_path / name / "recipe" / "conformer.py").write_text(harm)
    config = ours(networks.state(networks.encoder(networks.STAND_IN, REWORKED), REWORKED)).config
    modules = {"directory": str(tmp_path / "checkout"), "recipe": recipe.format(tmp_path=tmp_path)}
    values = {**dataclasses.asdict(config), "icefall": modules}
    with pytest.raises(UserError, match="code in .*/checkout, which would be executed; .* export ICEFALL_DIR="):
        registry.build({"type": "transducer", "config": values})
    if recipe != "recipe":
        monkeypatch.setenv("ICEFALL_DIR", str(tmp_path / "checkout"))
        with pytest.raises(UserError, match="is not a folder inside a checkout"):
            registry.build({"type": "transducer", "config": values})
    assert not (tmp_path / "harm").exists()


def test_a_checkout_that_is_none_or_has_changed_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = ours(networks.state(networks.encoder(networks.STAND_IN, REWORKED), REWORKED)).config
    monkeypatch.delenv("ICEFALL_DIR", raising=False)

    def build(directory: Path) -> Transducer:
        return Transducer(dataclasses.replace(config, icefall=networks.modules(directory, REWORKED)))

    with pytest.raises(UserError, match="is not a checkout of icefall"):
        build(tmp_path)
    place = tmp_path / networks.RECIPES / REWORKED
    place.mkdir(parents=True)
    (tmp_path / "icefall").mkdir()
    with pytest.raises(UserError, match=r"has no .*pruned_transducer_stateless2/conformer\.py"):
        build(tmp_path)
    (place / "conformer.py").write_text("import a_package_that_is_not_there\n")
    with pytest.raises(UserError, match=r"cannot import .*a_package_that_is_not_there"):
        build(tmp_path)
    (place / "conformer.py").write_text("class Conformer:\n    def __init__(self, width):\n        pass\n")
    with pytest.raises(UserError, match="cannot build Conformer in"):
        build(tmp_path)
    for text, named in (("import sys\nsys.exit(3)\n", r"cannot import .*SystemExit: 3"),
                        ("x = = 1\n", "cannot import .*SyntaxError"),
                        ("class Zipformer:\n    pass\n", "has no class Conformer")):  # fmt: skip
        (place / "conformer.py").write_text(text)
        with pytest.raises(UserError, match=named):
            build(tmp_path)
    source = (networks.STAND_IN / networks.RECIPES / REWORKED / "conformer.py").read_text()
    (place / "conformer.py").write_text(source.replace("norm_final", "norm_last"))
    (place / "scaling.py").write_text((networks.STAND_IN / networks.RECIPES / REWORKED / "scaling.py").read_text())
    for name in ("__init__.py", "oracle.py"):
        (tmp_path / "icefall" / name).write_text((networks.STAND_IN / "icefall" / name).read_text())
    with pytest.raises(UserError, match=r"norm_(final|last)"):
        build(tmp_path)
