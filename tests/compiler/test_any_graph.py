"""What holds of every graph that fits a site, tried on random ones."""

import torch
from hypothesis import HealthCheck, event, given, settings
from torch import Tensor, nn

from esper.blueprint import resolve
from esper.compiler import BlueprintCompiler, KernelOptimizer
from esper.compiler.initialise import initial_tensors
from esper.kernel import SOURCE_IMPORTS, Kernel, KernelPlan, to_source
from esper.topics.codec import decode, encode
from esper.topics.models import Blueprint, SiteSignature
from tests.blueprint.graphs import graphs

BATCH = 2
Graph = tuple[Blueprint, SiteSignature]

any_graph = settings(max_examples=80, deadline=None, suppress_health_check=list(HealthCheck))


def inputs_of(site: SiteSignature) -> tuple[Tensor, Tensor]:
    torch.manual_seed(0)
    return torch.randn(BATCH, *site.x), torch.randn(BATCH, *site.h)


def trained(plan: KernelPlan) -> dict[str, Tensor]:
    """Weights that are zero nowhere."""
    torch.manual_seed(1)
    return {name: torch.randn_like(value) for name, value in initial_tensors(plan).items()}


@any_graph
@given(graphs())
def test_every_value_has_the_shape_that_was_promised(graph: Graph) -> None:
    blueprint, site = graph
    resolved = resolve(blueprint, site)
    values = list(inputs_of(site))
    for node in resolved.nodes:
        weights = [torch.randn(parameter.shape) for parameter in node.parameters]
        values.append(node.spec.run(node.args)(*(values[slot] for slot in node.inputs), *weights))
        event(node.spec.name)
        assert tuple(values[-1].shape) == (BATCH, *node.output), node.id
    assert values[-1].shape == (BATCH, *site.h)


@any_graph
@given(graphs())
def test_the_source_and_the_optimised_plan_compute_what_the_plan_does(graph: Graph) -> None:
    blueprint, site = graph
    plan = BlueprintCompiler().compile(blueprint, site)
    x, h = inputs_of(site)
    kernel = Kernel(plan, trained(plan), sha256="").eval()
    wanted = kernel(x, h)
    names: dict[str, type[nn.Module]] = {}
    exec(SOURCE_IMPORTS + to_source(plan, "Written"), names)
    written = names["Written"]().eval()
    written.load_state_dict(kernel.state_dict())
    torch.testing.assert_close(written(x, h), wanted, rtol=0, atol=0, equal_nan=True)
    improved = Kernel(KernelOptimizer().optimize(plan), trained(plan), sha256="").eval()
    torch.testing.assert_close(improved(x, h), wanted, rtol=1e-4, atol=1e-4, equal_nan=True)


@any_graph
@given(graphs())
def test_the_plan_of_a_graph_survives_its_own_bytes(graph: Graph) -> None:
    blueprint, site = graph
    plan = BlueprintCompiler().compile(decode(Blueprint, encode(blueprint)), site)
    assert KernelPlan.from_json(plan.to_json()) == plan
    assert BlueprintCompiler().compile(blueprint, site).to_json() == plan.to_json()
