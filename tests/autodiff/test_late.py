"""Tables that come when their module does."""

import subprocess
import sys


def run(code: str) -> str:
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=True
    ).stdout


def test_the_first_call_of_a_late_table_is_recorded() -> None:
    assert run(
        "import thriftgrad as tg, scipy.special as sp; print(tg.grad(sp.erf)(0.0))"
    ).startswith("1.128")
    assert (
        run(
            "import thriftgrad as tg, numpy as np; print(tg.grad(lambda x: np.real(np.fft.fft(x)[1]))(np.ones(2)))"
        ).strip()
        == "[ 1. -1.]"
    )


def test_a_rule_of_ones_own_stays_when_its_table_comes() -> None:
    code = (
        "import thriftgrad as tg, scipy.special as sp; tg.defvjp(sp.erf, x=lambda g: 7.0 * g);"
        "print(tg.grad(sp.erfc)(0.0) < 0, tg.grad(sp.erf)(0.0))"
    )
    assert run(code).split() == ["True", "7.0"]


def test_threads_that_load_a_table_together() -> None:
    code = (
        "import threading, thriftgrad as tg, scipy.special as sp\n"
        "right = []\n"
        "def work(): right.append(abs(tg.grad(sp.expit)(0.0) - 0.25) < 1e-12)\n"
        "threads = [threading.Thread(target=work) for _ in range(8)]\n"
        "[t.start() for t in threads]; [t.join() for t in threads]\n"
        "print(right.count(True))"
    )
    assert run(code).strip() == "8"
