"""Norms of parameters of which other ranks have a part: stages of a pipeline, and shards on one mesh or on two."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.distributed as dist
from ignite.engine import Engine
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.tensor import DTensor, Partial, Replicate, Shard, distribute_tensor

from ignite_tips import (
    AdaptiveGradientClipper,
    AutoClipper,
    GradientNormClipper,
    GradientValueClipper,
    ZClipper,
)
from tests.oracles import near_norm
from tests.settings import seeded
from tests.support import run_distributed

pytestmark = pytest.mark.distributed
SHAPES = ([(3, 4), (4,)], [(2, 5), (6,)])  # of the parameters of each stage
NORM_TYPES = (1.0, 2.0, 3.0, math.inf)
LIMIT = 0.5


def gradients_of(stage: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seeded(stage + 1))
    return [torch.randn(*shape, generator=generator) for shape in SHAPES[stage]]


ALL = gradients_of(0) + gradients_of(1)


class Scene:
    """An optimizer of this rank's parameters, and updates of given gradients."""

    def __init__(self, gradients: list[Tensor], groups: list[int] | None = None) -> None:
        """``groups`` has the number of parameters of each param group."""
        self.gradients = gradients
        self.parameters = [nn.Parameter(torch.zeros_like(gradient)) for gradient in gradients]
        left = iter(self.parameters)
        sizes = [len(gradients)] if groups is None else groups
        self.sgd = torch.optim.SGD([{"params": [next(left) for _ in range(size)]} for size in sizes], lr=0.1)

    def run(self, clipper: Any, factors: tuple[float | None, ...] = (1.0,)) -> tuple[dict[str, Any], str]:
        """Make an update for each factor of the gradients, None for one without gradients.

        Return the metrics, with the number of updates, and the sentence of an error.
        """

        def update(engine: Engine, factor: float | None) -> None:
            for parameter, gradient in zip(self.parameters, self.gradients, strict=True):
                parameter.grad = None if factor is None else gradient * factor
            self.sgd.step()

        trainer = Engine(update)
        trainer.logger.disabled = True
        clipper.attach(trainer)
        told = ""
        try:
            trainer.run(factors)
        except RuntimeError as error:
            told = str(error)
        return {**trainer.state.metrics, "updates": trainer.state.optimizer_step}, told


def whole(tensor: Any) -> Tensor:
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def _work(rank: int, world_size: int) -> dict[str, Any]:
    mesh = init_device_mesh("cpu", (2, 2), mesh_dim_names=("pp", "dp"))
    found: dict[str, Any] = {}
    for scenes in (_stages, _policies, _histories, _shards, _refusals):
        found |= scenes(mesh, mesh["pp"].get_local_rank())
    return found


def _stages(mesh: DeviceMesh, stage: int) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for norm_type in NORM_TYPES:
        for mode in ("raise", "propagate"):
            scene = Scene(gradients_of(stage))
            clipper = GradientNormClipper(
                scene.sgd, LIMIT, norm_type=norm_type, on_nonfinite=mode, norm_group=mesh["pp"]
            )
            metrics, told = scene.run(clipper)
            found[f"norm {norm_type}, {mode}"] = metrics, told, [parameter.grad for parameter in scene.parameters]
    scene = Scene(gradients_of(stage))
    found["value"] = scene.run(GradientValueClipper(scene.sgd, 0.1))
    scene = Scene(gradients_of(stage))
    found["agc"] = scene.run(AdaptiveGradientClipper(scene.sgd, 0.1, norm_group=mesh["pp"].get_group()))
    scene = Scene(gradients_of(stage))
    frozen = GradientNormClipper(scene.sgd, LIMIT, norm_group=mesh["pp"])
    found["frozen"] = scene.run(frozen, (1.0, None if stage == 0 else 1.0))
    scene = Scene(gradients_of(stage), groups=[2, 0] if stage == 0 else [1, 1])
    found["per group"] = scene.run(GradientNormClipper(scene.sgd, LIMIT, per_group=True, norm_group=mesh["pp"]))
    found["per group gradients"] = [parameter.grad for parameter in scene.parameters]
    return found


def _policies(mesh: DeviceMesh, stage: int) -> dict[str, Any]:
    found: dict[str, Any] = {}
    clippers: dict[str, Callable[..., Any]] = {
        "norm": lambda sgd, **options: GradientNormClipper(sgd, LIMIT, norm_group=mesh["pp"], **options),
        "value": lambda sgd, **options: GradientValueClipper(sgd, LIMIT, **options),
        "auto": lambda sgd, **options: AutoClipper(sgd, norm_group=mesh["pp"], **options),
    }
    for name, make in clippers.items():
        for mode in ("raise", "skip"):
            scene = Scene(gradients_of(stage))
            factors = (1.0, math.nan if dist.get_rank() == 3 else 1.0, 1.0)
            found[f"{name}, {mode}"] = scene.run(make(scene.sgd, on_nonfinite=mode), factors)
    return found


def _histories(mesh: DeviceMesh, stage: int) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, make in {
        "auto": AutoClipper,
        "z": lambda sgd, **options: ZClipper(sgd, warmup_steps=2, **options),
    }.items():
        scene = Scene(gradients_of(stage))
        clipper = make(scene.sgd, norm_group=mesh["pp"])
        scene.run(clipper, (1.0, 2.0, 0.5, 3.0))
        found[f"{name} state"] = clipper.state_dict()
    return found


def _shards(mesh: DeviceMesh, stage: int) -> dict[str, Any]:
    """Parts of one model on one mesh of four ranks and on one of two by two, and a term of a sum on each rank."""
    flat = init_device_mesh("cpu", (4,))
    terms = DTensor.from_local(ALL[3] / 2, mesh["dp"], [Partial()], run_check=False)
    tensors = [
        distribute_tensor(ALL[0], mesh, [Shard(0), Shard(1)]),
        distribute_tensor(ALL[1], flat, [Shard(0)]),
        distribute_tensor(ALL[2], mesh, [Replicate(), Shard(0)]),
    ]
    found: dict[str, Any] = {}
    for norm_type in (2.0, math.inf):
        scene = Scene(tensors)
        scene.gradients.append(terms)
        scene.parameters.append(nn.Parameter(distribute_tensor(torch.zeros(6), mesh["dp"], [Replicate()])))
        scene.sgd.add_param_group({"params": scene.parameters[-1:]})
        metrics, told = scene.run(GradientNormClipper(scene.sgd, LIMIT, norm_type=norm_type))
        found[f"shards {norm_type}"] = metrics, told, [whole(parameter.grad) for parameter in scene.parameters]
        del scene.gradients[-1]
    scene = Scene([terms])
    scene.parameters = [nn.Parameter(distribute_tensor(torch.zeros(6), mesh["dp"], [Replicate()]))]
    scene.sgd = torch.optim.SGD(scene.parameters, lr=0.1)
    scene.run(GradientValueClipper(scene.sgd, 0.1))
    found["clamped terms"] = whole(scene.parameters[0].grad)
    return found


def _refusals(mesh: DeviceMesh, stage: int) -> dict[str, str]:
    scene = Scene(gradients_of(stage))
    found = {"no norm_group": scene.run(GradientNormClipper(scene.sgd, LIMIT))[1]}
    scene = Scene(gradients_of(stage), groups=[2] if stage == 0 else [1, 1])
    clipper = GradientNormClipper(scene.sgd, LIMIT, per_group=True, norm_group=mesh["pp"])
    found["other groups"] = scene.run(clipper)[1]
    try:
        GradientNormClipper(scene.sgd, LIMIT, norm_group=mesh)
    except ValueError as error:
        found["two dimensions"] = str(error)
    return found


@pytest.fixture(scope="module")
def ranks() -> list[dict[str, Any]]:
    """Two stages on two ranks each; what each rank has found."""
    return run_distributed(_work, 4)


@pytest.mark.parametrize("norm_type", NORM_TYPES)
@pytest.mark.parametrize("mode", ["raise", "propagate"])
def test_the_norm_is_that_of_all_stages(ranks: list[dict[str, Any]], norm_type: float, mode: str) -> None:
    """And all stages scale their gradients by its factor."""
    for rank, found in enumerate(ranks):
        metrics, told, clipped = found[f"norm {norm_type}, {mode}"]
        assert told == ""
        assert metrics["grad_norm"] == near_norm(ALL, norm_type)
        for one, gradient in zip(clipped, gradients_of(rank // 2), strict=True):
            torch.testing.assert_close(one, gradient * LIMIT / metrics["grad_norm"], rtol=1e-5, atol=0)


def test_value_and_unit_clippers_measure_all_stages(ranks: list[dict[str, Any]]) -> None:
    """They clip without asking other stages, but their metric is that of the model."""
    for found in ranks:
        assert found["value"][0]["grad_norm"] == near_norm(ALL, math.inf)
        assert found["agc"][0]["grad_norm"] == near_norm(ALL)


def test_a_stage_without_gradients_adds_nothing(ranks: list[dict[str, Any]]) -> None:
    """A stage that is frozen whole makes its updates, in which the norm is that of the others."""
    for found in ranks:
        metrics, told = found["frozen"]
        assert (metrics["updates"], told) == (2, "")
        assert metrics["grad_norm"] == near_norm(gradients_of(1))


def test_groups_are_clipped_over_the_stages(ranks: list[dict[str, Any]]) -> None:
    """The norm of a group is that of its parameters in all stages; a stage may have none of them."""
    first, second = [*gradients_of(0), gradients_of(1)[0]], [gradients_of(1)[1]]
    for rank, found in enumerate(ranks):
        metrics, told = found["per group"]
        assert told == ""
        assert metrics["grad_norm"] == near_norm(ALL)
        factors = [LIMIT / float(near_norm(group).expected) for group in (first, second)]
        assert metrics["grad_clip_coef"] == pytest.approx(min(factors), rel=1e-5)
        of_parameters = [factors[0], factors[0]] if rank < 2 else factors
        for one, gradient, factor in zip(
            found["per group gradients"], gradients_of(rank // 2), of_parameters, strict=True
        ):
            torch.testing.assert_close(one, gradient * factor, rtol=1e-5, atol=0)


@pytest.mark.parametrize("clipper", ["norm", "value", "auto"])
def test_a_nan_of_one_rank_is_everyones(ranks: list[dict[str, Any]], clipper: str) -> None:
    """All stages skip its update, or all raise; the stage that has it names it."""
    for rank, found in enumerate(ranks):
        metrics, told = found[f"{clipper}, skip"]
        assert (metrics["updates"], metrics["skipped_steps"], told) == (2, 1, "")
        metrics, told = found[f"{clipper}, raise"]
        assert metrics["updates"] == 1
        assert told.startswith("gradients must be finite, got ")
        assert ("got NaN in parameter 0 of group 0" in told) == (rank == 3)
        assert ("or some on another rank in update 2 of SGD" in told) == (rank != 3)


@pytest.mark.parametrize("clipper", ["auto", "z"])
def test_all_stages_remember_the_same_norms(ranks: list[dict[str, Any]], clipper: str) -> None:
    """So they find the same thresholds."""
    states = [found[f"{clipper} state"] for found in ranks]
    assert all(state == states[0] for state in states)
    if clipper == "auto":
        assert states[0]["rule"]["norms"][0] == near_norm(ALL)


@pytest.mark.parametrize("norm_type", [2.0, math.inf])
def test_parts_on_several_meshes_have_one_norm(ranks: list[dict[str, Any]], norm_type: float) -> None:
    """As those of dense layers and experts; a gradient of which each rank has a term counts as the sum."""
    for found in ranks:
        metrics, told, clipped = found[f"shards {norm_type}"]
        assert told == ""
        assert metrics["grad_norm"] == near_norm(ALL, norm_type)
        for one, gradient in zip(clipped, ALL, strict=True):
            torch.testing.assert_close(one, gradient * LIMIT / metrics["grad_norm"], rtol=1e-5, atol=1e-7)


def test_a_sum_is_clamped_and_not_its_terms(ranks: list[dict[str, Any]]) -> None:
    """Two terms of 0.1 would have the sum 0.2."""
    for found in ranks:
        torch.testing.assert_close(found["clamped terms"], ALL[3].clamp(-0.1, 0.1))


def test_what_would_be_a_wrong_norm_is_refused(ranks: list[dict[str, Any]]) -> None:
    """Different parameters without norm_group, different groups whose norms would be added, a mesh of two dimensions.

    What the errors name is what the other tests do.
    """
    for rank, found in enumerate(ranks):
        assert found["no norm_group"].startswith(
            "the ranks' optimizers must have the same parameters where no norm_group "
        )
        assert f"; rank {rank} has 2, from 'parameter 0 of group 0' on; give the clipper " in found["no norm_group"]
        assert found["other groups"].startswith(
            "with per_group=True the optimizers of all ranks of norm_group must have "
        )
        assert f" rank {rank} has {'0' if rank < 2 else '0, 1'}; give each all groups, empty" in found["other groups"]
        assert found["two dimensions"] == (
            'norm_group must be a DeviceMesh of one dimension, got one of 2; slice it, as in mesh["pp"]'
        )


def _side_by_side(rank: int, world_size: int) -> list[tuple[float, float, bool]]:
    from torchtitan.distributed.utils import clip_grad_norm_

    mesh = init_device_mesh("cpu", (2, 2), mesh_dim_names=("pp", "dp"))
    stage, found = mesh["pp"].get_local_rank(), []
    for norm_type in NORM_TYPES:
        for sharded in (False, True):
            gradients = gradients_of(stage)
            if sharded:
                gradients = [distribute_tensor(gradient, mesh["dp"], [Shard(0)]) for gradient in gradients]
            scene = Scene(gradients)
            metrics, _ = scene.run(GradientNormClipper(scene.sgd, LIMIT, norm_type=norm_type, norm_group=mesh["pp"]))
            ours = [parameter.grad.clone() for parameter in scene.parameters]
            for parameter, gradient in zip(scene.parameters, gradients, strict=True):
                parameter.grad = gradient.clone()
            norm = clip_grad_norm_(scene.parameters, LIMIT, norm_type, pp_mesh=mesh["pp"])
            theirs = [parameter.grad for parameter in scene.parameters]
            same = [
                torch.allclose(whole(one), whole(other), rtol=1e-5) for one, other in zip(ours, theirs, strict=True)
            ]
            found.append((metrics["grad_norm"], norm.item(), all(same)))
    dense = init_device_mesh("cpu", (4,), mesh_dim_names=("fsdp",))
    experts = init_device_mesh("cpu", (2, 2), mesh_dim_names=("ep", "efsdp"))
    parts = [distribute_tensor(ALL[0], experts, [Shard(0), Shard(1)]), distribute_tensor(ALL[1], dense, [Shard(0)])]
    scene = Scene(parts)
    metrics, _ = scene.run(GradientNormClipper(scene.sgd, LIMIT))
    for parameter, gradient in zip(scene.parameters, parts, strict=True):
        parameter.grad = gradient.clone()
    found.append((metrics["grad_norm"], clip_grad_norm_(scene.parameters, LIMIT, ep_enabled=True).item(), True))
    return found


def test_torchtitan_finds_the_same() -> None:
    """Its clip_grad_norm_ with the pipeline's mesh, on plain parameters and shards, and of experts on another mesh."""
    pytest.importorskip("torchtitan.distributed.utils", reason="torchtitan is not installed")
    for found in run_distributed(_side_by_side, 4):
        for ours, theirs, same in found:
            assert ours == pytest.approx(theirs, rel=1e-6)
            assert same
