"""Measure an epoch of small bags of features by number of threads, idle and beside a busy process.

Each row is a process of its own, because the settings of waiting threads are read when torch is
imported. The busy process uses one core.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

POLICIES = {
    "usual": {},
    "short": {"GOMP_SPINCOUNT": "10000", "KMP_BLOCKTIME": "0"},
    "passive": {"OMP_WAIT_POLICY": "PASSIVE", "KMP_BLOCKTIME": "0"},
}
BUSY = "while True: pass"


def epochs(patches: int, threads: int, slides: int, repeats: int) -> list[float]:
    """Return the seconds of some epochs of ABMIL on random bags, after one that is not counted."""
    import torch  # noqa: PLC0415 (the environment is read when it is imported)

    from parfocal.bag import StoredBag  # noqa: PLC0415
    from parfocal.models import ABMIL  # noqa: PLC0415

    torch.set_num_threads(threads)
    torch.manual_seed(0)
    model = ABMIL(1280, 2)
    optimizer = torch.optim.Adam(model.parameters())
    bags = [torch.randn(patches, 1280) for _ in range(slides)]
    seconds = []
    for _ in range(repeats + 1):
        start = time.perf_counter()
        for number, features in enumerate(bags):
            optimizer.zero_grad()
            logits = model(StoredBag([features])).logits
            torch.nn.functional.cross_entropy(logits, torch.tensor(number % 2)).backward()
            optimizer.step()
        seconds.append(time.perf_counter() - start)
    return seconds[1:]


def measure(options: argparse.Namespace, policy: str, threads: int, patches: int) -> list[float]:
    arguments = ["--child", str(patches), str(threads)]
    arguments += ["--slides", str(options.slides), "--repeats", str(options.repeats)]
    kept = {k: v for k, v in os.environ.items() if k not in ("OMP_NUM_THREADS", "OMP_WAIT_POLICY")}
    output = subprocess.run(
        [sys.executable, __file__, *arguments],
        env={**kept, **POLICIES[policy]},
        stdout=subprocess.PIPE,
        check=True,
    ).stdout
    seconds: list[float] = json.loads(output)
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--patches", type=int, nargs="+", default=[50, 200, 1000])
    parser.add_argument("--threads", type=int, nargs="+", default=[1, os.cpu_count() or 1])
    parser.add_argument("--policies", nargs="+", default=list(POLICIES), choices=list(POLICIES))
    parser.add_argument("--slides", type=int, default=50)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--child", type=int, nargs=2, help=argparse.SUPPRESS)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    if options.child:
        print(json.dumps(epochs(*options.child, options.slides, options.repeats)))
        return
    rows = []
    print("| patches | threads | waiting threads | idle | beside a busy process |")
    print("|---|---|---|---|---|")
    for patches in options.patches:
        for threads in options.threads:
            for policy in options.policies if threads > 1 else ("usual",):
                idle = measure(options, policy, threads, patches)
                busy = subprocess.Popen([sys.executable, "-c", BUSY])
                try:
                    loaded = measure(options, policy, threads, patches)
                finally:
                    busy.kill()
                    busy.wait()
                medians = [statistics.median(each) for each in (idle, loaded)]
                texts = " | ".join(f"{each:.2f} s" for each in medians)
                print(f"| {patches} | {threads} | {policy} | {texts} |", flush=True)
                rows.append((patches, threads, policy, idle, loaded))
    if options.json:
        options.json.write_text(json.dumps(rows))


if __name__ == "__main__":
    main()
