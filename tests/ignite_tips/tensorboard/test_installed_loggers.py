"""What LearningRateLogger gives to other loggers, read back from the store of each that is installed.

`make test-loggers` installs them all and runs this. They are no dependency: one brings a hundred packages.
"""

import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ignite.handlers import ClearMLLogger, MLflowLogger, TensorboardLogger, WandBLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from tests.ignite_launch.support import wait_until
from tests.ignite_tips.tensorboard.test_other_loggers import NAMES, make_optimizer, train

pytestmark = pytest.mark.filterwarnings("default")  # theirs are not ours to mend


def test_mlflow(tmp_path: Path) -> None:
    """MLflow, in its database: every name is taken, and every update has its value."""
    mlflow = pytest.importorskip("mlflow")
    uri = f"sqlite:///{tmp_path}/runs.db"
    with MLflowLogger(tracking_uri=uri) as logger:
        train(logger, [make_optimizer()], accumulation=2)
        run = mlflow.active_run().info.run_id
    client = mlflow.tracking.MlflowClient(uri)
    for name in NAMES:
        assert [(m.step, m.value) for m in client.get_metric_history(run, f"lr {name}")] == [(1, 0.5), (2, 0.5)]
    assert len(client.get_metric_history(run, "train loss")) == 4


def test_wandb_offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """WandB, offline: two optimizers and accumulation drop no row, and the x axis of a rate is its update."""
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_SILENT", "true")
    logger = WandBLogger(mode="offline", dir=str(tmp_path))
    train(logger, [make_optimizer(), make_optimizer()], accumulation=2)
    logger.close()
    wait_until(lambda: len(_wandb_rows(tmp_path)) == 4, "WandB's own process writes what it got")
    rows = _wandb_rows(tmp_path)
    assert [row["train/loss"] for row in rows if "train/loss" in row] == [1.0, 2.0, 3.0, 4.0]
    for prefix in ("", "1/"):
        for name in NAMES:
            rates = [(row["optimizer_step"], row[f"{prefix}lr/{name}"]) for row in rows if f"{prefix}lr/{name}" in row]
            assert [rate for _, rate in rates] == [0.5, 0.5]
            assert [step for step, _ in rates] == sorted({step for step, _ in rates})


def _wandb_rows(folder: Path) -> list[dict[str, Any]]:
    from wandb.proto import wandb_internal_pb2

    (path,) = folder.rglob("*.wandb")
    rows = []
    for data in _leveldb_records(path.read_bytes()):
        record = wandb_internal_pb2.Record()
        record.ParseFromString(data)
        if record.HasField("history"):
            items = record.history.item
            rows.append({item.key or ".".join(item.nested_key): json.loads(item.value_json) for item in items})
    return rows


def _leveldb_records(data: bytes) -> Iterator[bytes]:
    """Yield the records of WandB's file, which has LevelDB's log format: blocks of 32 KiB, parts of 7 bytes more."""
    position, record = 7, b""
    while position + 7 <= len(data):
        left = 2**15 - position % 2**15
        if left < 7:
            position += left
            continue
        _, size, kind = struct.unpack_from("<IHB", data, position)
        record += data[position + 7 : position + 7 + size]
        position += 7 + size
        if kind in (1, 4):  # whole, or the last part
            yield record
            record = b""


def test_clearml_offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """ClearML, offline: a curve for each group, with the learning rate of each update."""
    clearml = pytest.importorskip("clearml")
    monkeypatch.setenv("CLEARML_CACHE_DIR", str(tmp_path))
    clearml.Task.set_offline(offline_mode=True)
    logger = ClearMLLogger(project_name="tips", task_name="rates", auto_connect_frameworks=False)
    folder = Path(logger.get_task().get_offline_mode_folder())
    train(logger, [make_optimizer()], accumulation=2)
    logger.get_task().flush()
    logger.close()
    events = [json.loads(line) for path in folder.rglob("metrics.jsonl") for line in path.read_text().splitlines()]
    points = [(event["variant"], event["iter"], event["value"]) for each in events for event in each]
    for name in NAMES:
        assert [(step, value) for variant, step, value in points if variant == name] == [(1, 0.5), (2, 0.5)], points


def test_tensorboardx(tmp_path: Path) -> None:
    """tensorboardX, which Ignite prefers if it is installed: a curve for each group."""
    tensorboardx = pytest.importorskip("tensorboardX")
    with TensorboardLogger(log_dir=str(tmp_path)) as logger:
        assert isinstance(logger.writer, tensorboardx.SummaryWriter)
        train(logger, [make_optimizer()], accumulation=2)
    reader = EventAccumulator(str(tmp_path)).Reload()
    for name in ("0", "0-no_decay", "default-no_decay"):
        assert [(point.step, point.value) for point in reader.Scalars(f"lr/{name}")] == [(1, 0.5), (2, 0.5)]
    assert len([tag for tag in reader.Tags()["scalars"] if tag.startswith("lr/")]) >= 5
