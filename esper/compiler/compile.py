"""Compilation: a blueprint at one site becomes a plan, every size a number."""

from esper.blueprint import kernel_id, resolve
from esper.kernel import KernelPlan, PlanStep
from esper.topics.models import Blueprint, SiteSignature


class BlueprintCompiler:
    """The pure step from a blueprint to a plan: the same arguments give the same plan."""

    def compile(self, blueprint: Blueprint, signature: SiteSignature) -> KernelPlan:
        """Return the plan of a blueprint at a site.

        Raises:
            BlueprintRejected: the blueprint is malformed, does not fit the site, or exceeds a
                limit; with the code and the node at fault.
        """
        steps = tuple(
            PlanStep(node=node.id, op=node.spec.name, inputs=node.inputs, args=dict(node.args))
            for node in resolve(blueprint, signature).nodes
        )
        return KernelPlan(
            kernel_id=kernel_id(blueprint, signature), signature=signature, steps=steps
        )
