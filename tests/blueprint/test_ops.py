"""Every op: what its row promises is what torch does, in each way that Esper runs it."""

from math import prod
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from esper.blueprint.ops import OPS, OpSpec, Shape
from esper.blueprint.rejection import BlueprintRejected, RejectionCode
from esper.compiler import LiveBytes
from tests.blueprint.cases import ATTENTION, CASES, CONV1, GRID, MAP, MISFITS, SEQUENCE

EACH_CASE = pytest.mark.parametrize(("name", "shapes", "args", "expected"), CASES)
BATCH = 2


def inputs_of(shapes: list[Shape], batch: int = BATCH) -> list[Tensor]:
    return [torch.randn(batch, *shape) for shape in shapes]


def weights_of(spec: OpSpec, shapes: list[Shape], args: dict[str, Any]) -> dict[str, Tensor]:
    return {
        parameter.name: torch.randn(parameter.shape) for parameter in spec.parameters(shapes, args)
    }


def as_written(
    spec: OpSpec, shapes: list[Shape], args: dict[str, Any], inputs: list[Tensor], **state: Any
) -> Tensor:
    """What the source of an op gives, in the body of a module that trains or does not."""
    module = nn.Module().train(state.pop("training", False))
    names: dict[str, Any] = {"torch": torch, "nn": nn, "self": module}
    if spec.source.layer is not None:
        names["layer"] = eval(spec.source.layer(shapes, args), dict(names))
        names["layer"].load_state_dict(state["weights"])
    operands = [f"value{position}" for position in range(len(inputs))]
    names |= dict(zip(operands, inputs, strict=True))
    written: Tensor = eval(spec.source.render(shapes, args, operands, "layer"), names)
    return written


def test_every_op_has_a_case() -> None:
    assert {name for name, *_ in CASES} == {row.name for row in OPS.values() if not row.internal}


@EACH_CASE
def test_the_promised_shape_is_the_real_one(
    name: str, shapes: list[Shape], args: dict[str, Any], expected: Shape
) -> None:
    spec = OPS[name]
    weights = weights_of(spec, shapes, args).values()
    for batch in (1, 3):
        result = spec.run(args)(*inputs_of(shapes, batch), *weights)
        assert spec.shape(shapes, args) == expected == tuple(result.shape[1:])
        assert result.shape[0] == batch


@EACH_CASE
def test_the_source_of_an_op_computes_what_the_op_does(
    name: str, shapes: list[Shape], args: dict[str, Any], expected: Shape
) -> None:
    spec, inputs = OPS[name], inputs_of(shapes)
    weights = weights_of(spec, shapes, args)
    written = as_written(spec, shapes, args, inputs, weights=weights)
    assert torch.equal(written, spec.run(args)(*inputs, *weights.values()))


def test_the_cases_are_of_inputs_and_arguments_that_their_ops_admit() -> None:
    for name, shapes, args, _ in CASES:
        spec = OPS[name]
        assert spec.min_inputs <= len(shapes) <= spec.max_inputs, name
        assert args.keys() == spec.arguments.keys(), name
        assert all(spec.arguments[key].admits(value) for key, value in args.items()), name


@EACH_CASE
def test_an_op_is_silent_at_zero_exactly_if_it_says_so(
    name: str, shapes: list[Shape], args: dict[str, Any], expected: Shape
) -> None:
    spec = OPS[name]
    parameters = spec.parameters(shapes, args)
    zeros = [torch.zeros(parameter.shape) for parameter in parameters]
    result = spec.run(args)(*inputs_of(shapes), *zeros)
    # A norm with zero factors also yields zero, but a kernel that ends in one explodes.
    can_be_silent = bool(parameters) and not result.any() and "norm" not in name
    assert spec.zero_output_at_zero_weights == can_be_silent


@EACH_CASE
def test_flops_are_those_that_torch_counts(
    name: str, shapes: list[Shape], args: dict[str, Any], expected: Shape
) -> None:
    spec = OPS[name]
    weights = weights_of(spec, shapes, args).values()
    with FlopCounterMode(display=False) as counter:
        spec.run(args)(*inputs_of(shapes), *weights)
    promised = spec.flops(shapes, args)
    if counter.get_total_flops():
        assert promised * BATCH == counter.get_total_flops()
    else:
        assert promised >= 0


@EACH_CASE
def test_what_an_op_allocates_is_what_its_row_says(
    name: str, shapes: list[Shape], args: dict[str, Any], expected: Shape
) -> None:
    spec, inputs = OPS[name], inputs_of(shapes)
    weights = weights_of(spec, shapes, args).values()
    result = spec.run(args)(*inputs, *weights)
    held = {value.untyped_storage().data_ptr() for value in (*inputs, *weights)}
    is_view = result.untyped_storage().data_ptr() in held
    promised = spec.memory(shapes, args)
    if promised == 0:
        assert is_view
    else:
        assert promised >= prod(expected)


@pytest.mark.parametrize(
    ("name", "shapes", "args", "elements"),
    [
        ("conv1d", [(7, 4)], CONV1 | {"causal": True, "dilation": 2}, (7 + 4) * 4 + 7 * 6),
        ("conv1d", [(7, 4)], CONV1 | {"dilation": 2}, 7 * 6),
        ("attention", [(7, 6)] * 3, ATTENTION | {"window": 2}, 7 * 6 + 7 * 7),
        ("attention", [(7, 6)] * 3, ATTENTION, 7 * 6),
    ],
)
def test_what_an_op_holds_beside_its_result_counts(
    name: str, shapes: list[Shape], args: dict[str, Any], elements: int
) -> None:
    assert OPS[name].memory(shapes, args) == elements


@EACH_CASE
def test_gradient_passes_every_op_to_every_input_it_depends_on(
    name: str, shapes: list[Shape], args: dict[str, Any], expected: Shape
) -> None:
    spec = OPS[name]
    values = [value.requires_grad_() for value in inputs_of(shapes)]
    weights = [value.requires_grad_() for value in weights_of(spec, shapes, args).values()]
    result = spec.run(args)(*values, *weights)
    if not result.requires_grad:
        pytest.fail(f"{name} cuts the gradient")
    result.square().sum().backward()
    for leaf in (*values, *weights):
        assert leaf.grad is None or leaf.grad.isfinite().all()
    assert all(weight.grad is not None and weight.grad.any() for weight in weights)


@EACH_CASE
def test_an_op_runs_in_half_precision(
    name: str, shapes: list[Shape], args: dict[str, Any], expected: Shape
) -> None:
    spec = OPS[name]
    operands = [*inputs_of(shapes), *weights_of(spec, shapes, args).values()]
    wanted = spec.run(args)(*operands)
    for dtype in (torch.bfloat16, torch.float16):
        result = spec.run(args)(*(value.to(dtype) for value in operands))
        assert result.dtype is dtype
        torch.testing.assert_close(result.float(), wanted, rtol=0.1, atol=0.3)


@EACH_CASE
def test_an_op_runs_under_autocast(
    name: str, shapes: list[Shape], args: dict[str, Any], expected: Shape
) -> None:
    spec = OPS[name]
    inputs, weights = inputs_of(shapes), weights_of(spec, shapes, args).values()
    with torch.autocast("cpu", torch.bfloat16):
        result = spec.run(args)(*inputs, *weights)
    assert tuple(result.shape[1:]) == expected


@EACH_CASE
def test_one_sample_of_a_batch_does_not_see_the_others(
    name: str, shapes: list[Shape], args: dict[str, Any], expected: Shape
) -> None:
    spec, inputs = OPS[name], inputs_of(shapes)
    weights = weights_of(spec, shapes, args).values()
    others = [torch.cat([value[:1], 3 - value[1:]]) for value in inputs]
    run = spec.run(args)
    assert torch.equal(run(*inputs, *weights)[0], run(*others, *weights)[0])


@pytest.mark.parametrize(("name", "shapes", "args"), MISFITS)
def test_shapes_that_do_not_fit_are_refused(
    name: str, shapes: list[Shape], args: dict[str, Any]
) -> None:
    with pytest.raises(BlueprintRejected) as rejection:
        OPS[name].shape(shapes, args)
    assert rejection.value.code is RejectionCode.SHAPE_MISMATCH


# -- what single ops mean -----------------------------------------------------------------------


def test_dropout_drops_in_training_only_by_the_generator_of_torch() -> None:
    spec, args, (value,) = OPS["dropout"], {"p": 0.5}, inputs_of([(1000,)])
    assert spec.run_training is not None
    torch.manual_seed(3)
    dropped = spec.run_training(args)(value)
    torch.manual_seed(3)
    again = as_written(spec, [(1000,)], args, [value], training=True)
    assert torch.equal(dropped, again)
    assert 800 < torch.count_nonzero(dropped) < 1200
    assert torch.equal(spec.run(args)(value), value)


def test_only_dropout_differs_in_training() -> None:
    assert [row.name for row in OPS.values() if row.run_training is not None] == ["dropout"]


def sees(name: str, args: dict[str, Any], inputs: int, length: int) -> Tensor:
    """Whether position t of the result, a row, depends on position s of the inputs, a column."""
    spec, shapes = OPS[name], [(length, 4)] * inputs
    weights = list(weights_of(spec, shapes, args).values())
    value = torch.randn(1, length, 4, requires_grad=True)
    result = spec.run(args)(*(value,) * inputs, *weights)
    seen = []
    for position in range(result.shape[1]):
        # A sum of the result could not depend on what softmax makes add up to one.
        (gradient,) = torch.autograd.grad(
            result[:, position].square().sum(), value, retain_graph=True
        )
        seen.append(gradient[0].abs().sum(-1) > 0)
    return torch.stack(seen)


def test_causal_attention_reads_no_later_position() -> None:
    seen = sees("attention", {"heads": 2, "causal": True, "window": 0}, 3, 6)
    assert torch.equal(seen, torch.ones(6, 6).tril().bool())


@pytest.mark.parametrize("causal", [False, True])
def test_attention_in_a_window_reads_only_positions_less_than_that_apart(causal: bool) -> None:
    seen = sees("attention", {"heads": 2, "causal": causal, "window": 3}, 3, 8)
    positions = torch.arange(8)
    apart = positions[:, None] - positions
    assert torch.equal(seen, (apart.abs() < 3) & (apart >= 0 if causal else True))


def test_attention_never_holds_the_weights_of_all_pairs_of_positions() -> None:
    length, features = 1024, 4
    transposed = torch.randn(1, features, length, requires_grad=True)
    with LiveBytes([transposed]) as held:
        value = transposed.transpose(1, 2)
        OPS["attention"].run(ATTENTION)(value, value, value).square().sum().backward()
    assert held.peak < length * length


@pytest.mark.parametrize(("kernel", "dilation"), [(1, 1), (4, 1), (3, 2)])
def test_a_causal_convolution_reads_no_later_position(kernel: int, dilation: int) -> None:
    args = {"out": 4, "kernel": kernel, "groups": 1, "dilation": dilation}
    seen = sees("conv1d", args | {"stride": 1, "causal": True, "bias": True}, 1, 9)
    positions = torch.arange(9)
    apart = positions[:, None] - positions
    taps = torch.isin(apart, torch.arange(kernel) * dilation)
    assert torch.equal(seen, taps)


def test_a_shift_moves_to_later_positions_and_lets_zeros_in() -> None:
    value = torch.tensor([[[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]])
    later = OPS["shift"].run({"by": 1, "dim": 0})(value)
    assert later.tolist() == [[[0.0, 0.0], [1.0, 2.0], [3.0, 4.0]]]
    assert not OPS["shift"].run({"by": 9, "dim": 0})(value).any()


def test_a_roll_lets_in_what_went_out() -> None:
    value = torch.tensor([[1.0, 2.0, 3.0]])
    assert OPS["roll"].run({"by": 1, "dim": 0})(value).tolist() == [[3.0, 1.0, 2.0]]
    assert OPS["roll"].run({"by": -1, "dim": 0})(value).tolist() == [[2.0, 3.0, 1.0]]


@pytest.mark.parametrize("shape", [SEQUENCE, MAP, GRID])
def test_the_parts_of_a_value_together_are_the_value(shape: Shape) -> None:
    (value,) = inputs_of([shape])
    for dim, size in enumerate(shape):
        sizes = (1, size - 1)
        parts = [
            OPS["split"].run({"sizes": sizes, "index": index, "dim": dim})(value)
            for index in range(2)
        ]
        assert torch.equal(OPS["concat"].run({"dim": dim})(*parts), value)
        chunks = [
            OPS["chunk"].run({"parts": size, "index": index, "dim": dim})(value)
            for index in range(size)
        ]
        assert torch.equal(torch.cat(chunks, dim + 1), value)


def test_an_average_pool_does_not_count_its_padding() -> None:
    ones = torch.ones(1, 2, 4, 4)
    assert torch.equal(OPS["avg_pool"].run({"kernel": 3, "stride": 1})(ones), ones)
