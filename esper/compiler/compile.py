"""Compile a blueprint for one site: a plan in which every size is a number."""

from esper.blueprint import kernel_id, resolve
from esper.kernel import KernelPlan, PlanStep
from esper.topics.models import Blueprint, SiteSignature


class BlueprintCompiler:
    """Compile blueprints to plans; equal arguments give equal plans."""

    def compile(self, blueprint: Blueprint, signature: SiteSignature) -> KernelPlan:
        """Return the plan of a blueprint at a site.

        Raises:
            BlueprintRejected: the blueprint is malformed, does not fit the site, or exceeds a
                limit; the exception names the code and the node.
        """
        steps = tuple(
            PlanStep(node=node.id, op=node.spec.name, inputs=node.inputs, args=dict(node.args))
            for node in resolve(blueprint, signature).nodes
        )
        return KernelPlan(
            kernel_id=kernel_id(blueprint, signature), signature=signature, steps=steps
        )
