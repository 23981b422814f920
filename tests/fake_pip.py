"""A stand-in for pip: the tests put it on PYTHONPATH, where `python -m pip` finds it first.

It notes every call, then does what the file `mode` says with the wheels that lie in FAKE_PIP.
"""

import os
import pathlib
import shutil
import sys
import time

home = pathlib.Path(os.environ["FAKE_PIP"])
requirement, dest = sys.argv[-1], pathlib.Path(sys.argv[sys.argv.index("--dest") + 1])
with open(home / "calls", "a") as file:
    file.write(requirement + "\n")
mode = (home / "mode").read_text()
if mode.startswith("fail "):
    sys.exit("WARNING: something\n" + mode[5:])
project, version = requirement.split("==")
wheel = home / (project.replace("-", "_") + "-" + version + "-py3-none-any.whl")
if mode == "hang on two" and project == "tiny-two":
    dest.joinpath(wheel.name).write_bytes(wheel.read_bytes()[:20])
    parent = os.getppid()
    (home / "hanging").touch()
    while os.getppid() == parent:
        time.sleep(0.05)
    sys.exit(1)
if mode == "slow":
    time.sleep(1)
if mode != "other file":
    shutil.copy(wheel, dest / wheel.name)
