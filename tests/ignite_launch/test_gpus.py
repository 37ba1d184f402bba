"""The machine's GPUs: the real NVML bindings with a fake library that the tests compile."""

from pathlib import Path

from tests.ignite_launch.nvml import fake_nvml, gpu
from tests.ignite_launch.support import launch


def test_list_gpus_prints_a_table(tmp_path: Path) -> None:
    """--list-gpus prints whole GPUs and slices, with a question mark for what the driver does not report."""
    devices = [
        gpu("GPU-aa", free=10_240, processes=2),
        gpu("GPU-bb", kind="mig"),
        gpu("MIG-11", name="NVIDIA A100 MIG 1g.5gb", free="?", processes="?", kind="slice"),
        gpu("GPU-cc", name="NVIDIA GeForce"),
    ]
    result = launch(tmp_path, "--list-gpus", **fake_nvml(*devices))
    assert (result.code, result.err) == (0, "")
    assert result.out == (
        "GPU  name                    free      total     processes  UUID\n"
        "0    NVIDIA L4               10.0 GiB  24.0 GiB  2          GPU-aa\n"
        "1    NVIDIA A100 MIG 1g.5gb  ?         ?         ?          MIG-11\n"
        "2    NVIDIA GeForce          20.0 GiB  24.0 GiB  0          GPU-cc\n"
    )


def test_without_a_driver_there_is_no_gpu(tmp_path: Path) -> None:
    """A library that cannot be loaded, a missing driver and a missing device are each reported, with exit code 0."""
    (tmp_path / "libnvidia-ml.so.1").touch()
    library = {"LD_LIBRARY_PATH": fake_nvml()["LD_LIBRARY_PATH"]}
    for variables, words in (
        ({"LD_LIBRARY_PATH": str(tmp_path)}, "no NVIDIA driver found"),
        (library, "no NVIDIA driver found"),
        (fake_nvml(), "the NVIDIA driver reports no GPU"),
    ):
        result = launch(tmp_path, "--list-gpus", **variables)
        assert (result.code, result.out, result.err) == (0, f"no GPU: {words}\n", "")


def test_a_driver_error_is_reported_and_can_be_avoided(tmp_path: Path) -> None:
    """NVML's error is one sentence and exit code 1; --gpus none runs without NVML."""
    (tmp_path / "s.py").write_text("print('ran')")
    broken = fake_nvml() | {"FAKE_NVML": "error 18"}
    result = launch(tmp_path, "s.py", **broken)
    assert result.code == 1
    assert result.err.startswith("ignite-launch: error: cannot read the GPUs: NVML returned 'RM has detected")
    assert result.err.count("\n") == 1
    assert launch(tmp_path, "--gpus", "none", "s.py", **broken).out == "ran\n"


def test_the_script_sees_the_chosen_gpus(tmp_path: Path) -> None:
    """The script sees nvidia-smi's numbers, with the order that makes CUDA count like nvidia-smi."""
    (tmp_path / "s.py").write_text(
        "import os; seen = os.environ['CUDA_VISIBLE_DEVICES'] + ' ' + os.environ['CUDA_DEVICE_ORDER']\n"
        "os.write(1, f'{seen}\\n'.encode())"  # in one piece: the ranks write at once
    )
    machine = fake_nvml(gpu("GPU-aa", processes=1), gpu("GPU-bb"), gpu("GPU-cc"))
    assert launch(tmp_path, "--gpus", "free:1", "s.py", **machine).out == "1 PCI_BUS_ID\n"
    result = launch(tmp_path, "--gpus", "2,0", "s.py", **machine)
    assert result.out == "2,0 PCI_BUS_ID\n" * 2
    assert "ddp (auto: 2 GPUs): 2 processes on GPUs 2,0 (NVIDIA L4)" in result.err
