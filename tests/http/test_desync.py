"""Random byte streams to Guardian, alone and behind nginx and HAProxy: no answer and no run request belongs to another.

tests/desync/run does it; GUARDIAN_DESYNC_CASES says how many (5,000; a million before a release), GUARDIAN_DESYNC_SEED which.
"""
import os
import re
import shutil
import subprocess

import pytest
from conftest import BIN, ROOT, clean_env, model_args

CASES = int(os.environ.get("GUARDIAN_DESYNC_CASES", "5000"))
SEED = os.environ.get("GUARDIAN_DESYNC_SEED", "1")
PROXIES = all(shutil.which(p, path=os.environ["PATH"] + ":/usr/sbin") for p in ("nginx", "haproxy"))


@pytest.mark.skipif(not PROXIES, reason="nginx or haproxy is not installed (packages nginx-light and haproxy)")
def test_nothing_gets_out_of_step():
    args = [str(ROOT / "tests/desync/run"), "--cases", str(CASES), "--seed", SEED]
    env = clean_env(GUARDIAN_BIN=BIN, GUARDIAN_MODEL=model_args()[1])
    done = subprocess.run(args, capture_output=True, text=True, errors="replace", env=env, timeout=120 + CASES / 20)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    print(done.stdout)
    # It has really asked: most streams hold something that is answered, and every case has its victims.
    answers = {p: int(n) for p, n in re.findall(r"^(\w+): answers 2xx (\d+)", done.stdout, re.M)}
    assert set(answers) == {"direct", "nginx", "haproxy"} and min(answers.values()) > CASES / 20, done.stdout
    victims, lines = map(int, re.search(r"victims (\d+), log lines (\d+)", done.stdout).groups())
    assert victims > CASES / 4 and lines > CASES, done.stdout
    assert "%d cases in" % CASES in done.stdout
