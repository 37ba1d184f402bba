"""Templates of cluster jobs: printed as they are, valid for the cluster, and understood by the launcher."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import ignite_launch
import pytest
import yaml
from ignite_launch.arguments import parse
from ignite_launch.cli import main
from ignite_launch.inherited import inherit_options
from ignite_launch.templates import TEMPLATES

FOLDER = Path(ignite_launch.__file__).parent


def _read(name: str) -> dict[str, Any]:
    """Return a template's objects by kind."""
    return {part["kind"]: part for part in yaml.safe_load_all((FOLDER / TEMPLATES[name]).read_text())}


def _round_trip(part: dict[str, Any]) -> Any:
    """Read and write by the published models, which refuse wrong types and drop what they don't know."""
    import kubeflow_trainer_api.models
    from kubeflow.training import ApiClient

    if part["kind"] == "PyTorchJob":
        client = ApiClient()
        answer = SimpleNamespace(data=json.dumps(part))
        return client.sanitize_for_serialization(client.deserialize(answer, "KubeflowOrgV1PyTorchJob"))
    names = {"Job": "IoK8sApiBatchV1Job", "Service": "IoK8sApiCoreV1Service", "TrainJob": "TrainerV1alpha1TrainJob"}
    return getattr(kubeflow_trainer_api.models, names[part["kind"]]).from_dict(part).to_dict()


@pytest.mark.parametrize("name", TEMPLATES)
def test_a_template_is_printed(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    """--template prints the file, and nothing else."""
    assert main(["--template", name]) == 0
    assert capsys.readouterr() == ((FOLDER / TEMPLATES[name]).read_text(), "")


def test_every_file_can_be_printed() -> None:
    """No template is left out."""
    files = {
        str(file.relative_to(FOLDER)) for folder in ("slurm", "kubernetes") for file in (FOLDER / folder).iterdir()
    }
    assert files == set(TEMPLATES.values())


@pytest.mark.parametrize("name", ["kubernetes", "pytorchjob", "trainjob"])
def test_the_published_schema_knows_every_field(name: str) -> None:
    """Kubernetes' and Kubeflow's own models read each object and write it back unchanged."""
    for part in _read(name).values():
        assert _round_trip(part) == part
        wrong = part | {"spec": part["spec"] | {"mistake": 1}}
        assert _round_trip(wrong) != wrong


def test_a_pod_of_the_job_finds_the_others() -> None:
    """The launcher reads the number of pods, the pod's index and the first pod's name, which the service publishes."""
    parts = _read("kubernetes")
    job, service = parts["Job"], parts["Service"]
    pod = job["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    index = {"metadata.annotations['batch.kubernetes.io/job-completion-index']": "1"}
    environ = {
        variable["name"]: variable.get("value") or index[variable["valueFrom"]["fieldRef"]["fieldPath"]]
        for variable in container["env"]
    }
    options = parse([*container["command"][1:], *container["args"]]).options
    assert options is not None
    options = inherit_options(options, environ)
    name = job["metadata"]["name"]
    assert options.nnodes == (job["spec"]["completions"],) * 2 == (job["spec"]["parallelism"],) * 2
    assert (options.node_rank, options.endpoint) == (1, f"{name}-0.{pod['subdomain']}:29500")
    assert service["metadata"]["name"] == pod["subdomain"]
    assert service["spec"]["selector"] == {"batch.kubernetes.io/job-name": name}
    assert service["spec"]["clusterIP"] == "None"
    assert options.grace < pod["terminationGracePeriodSeconds"]


@pytest.mark.parametrize("name", ["pytorchjob", "trainjob"])
def test_the_command_of_an_operators_pod_is_valid(name: str) -> None:
    """The launcher accepts the command, and the Training operator finds the container by its name."""
    ((kind, part),) = _read(name).items()
    if kind == "TrainJob":
        containers = [part["spec"]["trainer"]]
    else:
        replicas = part["spec"]["pytorchReplicaSpecs"]
        containers = [container for one in replicas.values() for container in one["template"]["spec"]["containers"]]
        assert {container["name"] for container in containers} == {"pytorch"}
    for container in containers:
        assert container["command"][0] == "ignite-launch"
        assert parse([*container["command"][1:], *container["args"]]).options is not None
