"""Which of several failing workers failed first."""

from pathlib import Path

from tests.ignite_launch.scripts import write_script
from tests.ignite_launch.support import launch


def test_the_first_failure_is_the_cause(tmp_path: Path) -> None:
    """If two workers fail between two polls of torch's agent, the exit code is the first one's, whatever its rank."""
    follow = """
    wait = pathlib.Path("first")
    while not wait.exists(): time.sleep(0.0001)
    stat = pathlib.Path(f"/proc/{wait.read_text()}/stat")
    while stat.exists() and stat.read_text().rpartition(")")[2].split()[0] != "Z": time.sleep(0.0001)
    os._exit(5)
"""
    first = """
    pathlib.Path("pid").write_text(str(os.getpid())); os.rename("pid", "first"); os._exit(17)
"""
    result = launch(tmp_path, "--nproc", "2", write_script(tmp_path, f"if RANK == 0:{follow}else:{first}"))
    assert result.code == 17
