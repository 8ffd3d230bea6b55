"""Commands that stand for Slurm's: jobs are processes of this machine. `commands(folder)` goes on PATH.

`sbatch` starts what the file says once for each number of its array, `srun` runs its command,
`sacct` says how jobs stand, `scancel` kills one.
"""

from __future__ import annotations

import sys
from pathlib import Path

SBATCH = """\
#!{python}
import os, re, subprocess, sys, time
from pathlib import Path

jobs = Path({jobs!r})
text = Path(sys.argv[1]).read_text()
number = 100 + len(list(jobs.glob("job-*")))
(jobs / f"job-{{number}}").mkdir()
(jobs / f"job-{{number}}" / "script").write_text(text)
array = re.search(r"--array=0-(\\d+)", text)
for index in range(int(array[1]) + 1) if array else (None,):
    name = str(number) if index is None else f"{{number}}_{{index}}"
    env = {{k: v for k, v in os.environ.items() if not k.startswith("SLURM_")}}
    env |= {{"SLURM_JOB_ID": name, "SLURM_NTASKS": "1", "SLURM_JOB_NUM_NODES": "1"}}
    env |= {{"SLURM_NODEID": "0", "SLURM_PROCID": "0", "SLURM_LOCALID": "0"}}
    env |= {{"SLURM_JOB_NODELIST": f"node{{(index or 0) % 2}}"}}
    if index is not None:
        env |= {{"SLURM_ARRAY_JOB_ID": str(number), "SLURM_ARRAY_TASK_ID": str(index)}}
    names = {{"%A": str(number), "%a": str(index), "%j": name, "%t": "0"}}
    for key, value in names.items():
        env["STAND_IN_" + key[1]] = value
    state = jobs / f"state-{{name}}"
    state.write_text("RUNNING")
    watch = (
        "import subprocess, sys, pathlib;"
        "p = subprocess.Popen(['bash', sys.argv[1]], start_new_session=True);"
        "pathlib.Path(sys.argv[2] + '.pid').write_text(str(p.pid));"
        "code = p.wait();"
        "pathlib.Path(sys.argv[2]).write_text('COMPLETED' if code == 0 else 'FAILED')"
    )
    subprocess.Popen(
        [sys.executable, "-c", watch, str(jobs / f"job-{{number}}" / "script"), str(state)],
        env=env, start_new_session=True,
        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )
print(f"Submitted batch job {{number}}")
"""
SRUN = """\
#!{python}
import os, re, sys

args = sys.argv[1:]
def filled(text):
    return re.sub(r"%([Aajt])", lambda match: os.environ["STAND_IN_" + match[1]], text)
start = next(i for i, arg in enumerate(args) if "python" in os.path.basename(arg))
options = args[:start]
for flag, descriptor in (("--output", 1), ("--error", 2)):
    if flag in options:
        path = filled(options[options.index(flag) + 1])
        os.makedirs(os.path.dirname(path), exist_ok=True)
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644), descriptor)
command = [filled(arg) for arg in args[start:]]
os.execv(command[0], command)
"""
SACCT = """\
#!{python}
from pathlib import Path

print("JobID|State|NodeList")
for path in Path({jobs!r}).glob("state-*"):
    if not path.name.endswith(".pid"):
        print(path.name.removeprefix("state-"), path.read_text(), "node0", sep="|")
"""
SCANCEL = """\
#!{python}
import os, signal, sys
from pathlib import Path

for name in sys.argv[1:]:
    for path in Path({jobs!r}).glob(f"state-{{name}}*.pid"):
        try:
            os.killpg(int(path.read_text()), signal.SIGKILL)
        except ProcessLookupError:
            pass
    Path({jobs!r}, f"cancelled-{{name}}").touch()
"""


def commands(folder: Path) -> Path:
    """A folder with the commands; what they note is in its folder `jobs`."""
    (folder / "jobs").mkdir(parents=True)
    sources = {"sbatch": SBATCH, "srun": SRUN, "sacct": SACCT, "scancel": SCANCEL}
    for name, source in sources.items():
        path = folder / name
        path.write_text(source.format(python=sys.executable, jobs=str(folder / "jobs")))
        path.chmod(0o755)
    return folder
