"""Measure the queue of an encoder, against the encoder itself.

    python benchmarks/encoder_queue.py [--encoder efficientnet-lite0] [--patches 64] [--repeats 15]

The first line is the cost for one slide: the same patches, in requests of the encoder's batch size,
through the encoder and through its queue, which take turns; medians are compared.

On a GPU, the table is patches per second with 1, 8 and 32 slides in flight, each a thread that
requests --patches at a time as a zoom step does, against the encoder on batches of its best size
from memory. No pixels are read.
"""

import argparse
import json
import statistics
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch

from parfocal.encoders.encoder import Encoder
from parfocal.encoders.loading import load_encoder
from parfocal.encoders.queue import EncoderQueue

REQUESTS = 20  # of each slide


def seconds_of(encode: Encoder, requests: list[np.ndarray]) -> float:
    start = time.perf_counter()
    for request in requests:
        encode(request)
    return time.perf_counter() - start


def cost_of_queue(encoder: Encoder, patches: np.ndarray, repeats: int) -> dict[str, float]:
    size = encoder.batch_size
    requests = [patches[start : start + size] for start in range(0, len(patches), size)]
    queue = EncoderQueue(encoder)
    seconds_of(encoder, requests)
    direct, queued = [], []
    for _ in range(repeats):
        direct.append(seconds_of(encoder, requests))
        queued.append(seconds_of(queue, requests))
    ratio = statistics.median(queued) / statistics.median(direct)
    return {"direct": statistics.median(direct), "queue": statistics.median(queued), "ratio": ratio}


def rate_in_flight(encoder: Encoder, patches: np.ndarray, slides: int) -> float:
    queue = EncoderQueue(encoder)
    with ThreadPoolExecutor(slides) as pool:
        start = time.perf_counter()
        list(pool.map(lambda _: [queue(patches) for _ in range(REQUESTS)], range(slides)))
        return slides * REQUESTS * len(patches) / (time.perf_counter() - start)


def bare_rate(encoder: Encoder, patches: np.ndarray) -> float:
    batch = np.resize(patches, (encoder.batch_size, *patches.shape[1:]))
    encoder(batch)
    start = time.perf_counter()
    for _ in range(REQUESTS):
        encoder(batch)
    return REQUESTS * len(batch) / (time.perf_counter() - start)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--encoder", default="efficientnet-lite0")
    parser.add_argument("--patches", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    encoder = load_encoder(options.encoder, device=options.device)
    random = np.random.default_rng(0)
    patches = random.integers(0, 256, (options.patches, 256, 256, 3), dtype=np.uint8)
    found: dict[str, object] = {"one_slide": cost_of_queue(encoder, patches, options.repeats)}
    one = found["one_slide"]
    assert isinstance(one, dict)
    print(f"{options.encoder} on {encoder.device}, {torch.get_num_threads()} threads")
    print(f"| one slide | direct {one['direct']:.4f} s | queue {one['queue']:.4f} s | ", end="")
    print(f"ratio {one['ratio']:.3f} |")
    if encoder.device.type == "cuda":
        bare = bare_rate(encoder, patches)
        rates = {count: rate_in_flight(encoder, patches, count) for count in (1, 8, 32)}
        found["in_flight"] = {"bare": bare, **{str(count): rate for count, rate in rates.items()}}
        print("| slides in flight | patches per second | of bare |\n|---|---|---|")
        for count, rate in rates.items():
            print(f"| {count} | {rate:,.0f} | {rate / bare:.2f} |")
        print(f"| bare encoder | {bare:,.0f} | 1.00 |")
    if options.json:
        options.json.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
