"""The launch files are what their systems read, and what they run is run here."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from core.cli.arguments import prepare
from core.files import configs_folder

FILES = configs_folder() / "launch"

pytestmark = pytest.mark.timeout(600)


@pytest.fixture
def job():
    service, job = yaml.safe_load_all((FILES / "kubernetes.yaml").read_text())
    return service, job


def test_the_manifest_is_one_indexed_job_with_names_for_its_pods(job):
    service, job = job
    spec, pod = job["spec"], job["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    variables = {entry["name"]: entry.get("value") for entry in container["env"]}
    assert (spec["completionMode"], spec["parallelism"]) == ("Indexed", spec["completions"])
    assert variables["NODES"] == str(spec["completions"])
    assert pod["subdomain"] == service["metadata"]["name"]
    assert service["spec"]["clusterIP"] == "None"
    assert variables["MASTER"] == f"{job['metadata']['name']}-0.{service['metadata']['name']}"
    assert {mount["name"] for mount in container["volumeMounts"]} == {v["name"] for v in pod["volumes"]}


def test_what_the_files_ask_for_is_a_recipe_that_is_there(job):
    domain, verb, *words = job[1]["spec"]["template"]["spec"]["containers"][0]["args"]
    assert prepare(domain, verb, words).configs


@pytest.mark.parametrize("name", ["slurm.sh", "trn2.sh"])
def test_a_script_parses(name):
    subprocess.run(["bash", "-n", str(FILES / name)], check=True)


def test_the_slurm_script_asks_for_what_a_run_needs():
    asked = re.findall(r"^#SBATCH --([a-z-]+)", (FILES / "slurm.sh").read_text(), re.MULTILINE)
    assert {"nodes", "ntasks-per-node", "requeue", "signal"} <= set(asked)


@pytest.mark.slow
def test_the_slurm_script_runs_dfm_on_every_task(launching, tmp_path):
    tools = tmp_path / "bin"
    tools.mkdir()
    port = launching.free_port()
    srun = '#!/bin/bash\nshift\nfor rank in 0 1; do SLURM_PROCID=$rank SLURM_LOCALID=$rank "$@" & done\n'
    (tools / "srun").write_text(srun + "for job in $(jobs -p); do wait $job || exit $?; done\n")
    (tools / "dfm").write_text(f'#!/bin/bash\nexec {sys.executable} -m core.cli "$@"\n')
    for tool in tools.iterdir():
        tool.chmod(0o755)
    variables = launching.environment(
        tmp_path,
        PATH=f"{tools}{os.pathsep}{os.environ['PATH']}",
        SLURM_JOB_ID=4711,
        SLURM_JOB_NAME="dfm",
        SLURM_NTASKS=2,
        SLURM_NTASKS_PER_NODE=2,
        SLURM_NNODES=1,
        SLURM_NODEID=0,
        SLURM_NODELIST="127.0.0.1",
        MASTER_PORT=port,
    )
    given = launching.words(tmp_path, "--trainer.max_steps=1")
    done = launching.command(["bash", str(FILES / "slurm.sh"), *given], tmp_path, variables)
    end = launching.outcome(done)
    assert end.codes == [0], end.out


@pytest.mark.slow
def test_the_pods_of_the_job_train_together(launching, job, tmp_path):
    (container,) = job[1]["spec"]["template"]["spec"]["containers"]
    given = launching.words(tmp_path, "--trainer.max_steps=1")
    pods = []
    for index in range(2):
        variables = launching.environment(
            tmp_path,
            PATH=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            NODES=2,
            PROCESSES=1,
            MASTER="127.0.0.1",
            RUN="5f1c",
            JOB_COMPLETION_INDEX=index,
        )
        pods.append(launching.command([*container["command"], *given], tmp_path, variables))
    end = launching.outcome(*pods)
    assert end.codes == [0, 0], end.out
    assert len(list(tmp_path.glob("runs/timeseries/ttm-demo/*"))) == 1


@pytest.mark.slow
def test_the_trainium_script_runs_on_two_cores_of_a_cpu(launching, tmp_path):
    variables = launching.environment(
        tmp_path, PYTHON=sys.executable, CORES=2, HARDWARE="trainer/cpu", PORT=launching.free_port()
    )
    given = launching.words(tmp_path, "--trainer.max_steps=1")
    end = launching.outcome(launching.command(["bash", str(FILES / "trn2.sh"), *given], tmp_path, variables))
    assert end.codes == [0], end.out
