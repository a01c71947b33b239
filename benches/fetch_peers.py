"""Reads objects of the emulator by one of the others, and prints what that took. Started by fetch_against.py.

Time and CPU are of the reading alone, without the start of Python and its imports; memory is the peak of the process,
which holds all results where the interface is made so (all but obstore), and of its children.
"""

import asyncio
import json
import os
import resource
import sys
import time


def obstore(task: dict, names: list):
    import obstore as obs

    key = {"gcs_base_url": task["endpoint"], "disable_oauth": True, "client_email": "", "private_key": ""}
    store = obs.store.GCSStore(
        task["bucket"],
        config={"service_account_key": json.dumps(key | {"private_key_id": ""})},
        client_options={"allow_http": True},
    )
    found = [0, 0]

    async def worker(left):
        for name in left:
            body = await (await obs.get_async(store, name)).bytes_async()
            found[0] += 1
            found[1] += len(body)

    async def run():
        left = iter(names)
        await asyncio.gather(*(worker(left) for _ in range(task["concurrency"])))
        return found

    return lambda: asyncio.run(run())


def gcsfs(task: dict, names: list):
    # Or it asks for the kind of bucket by gRPC, for minutes. Read at import.
    os.environ["GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT"] = "false"
    import aiohttp
    import fsspec.asyn
    import gcsfs as library

    async def connector():
        # Its default, 100 connections, would be the limit.
        return aiohttp.TCPConnector(limit=0)

    kwargs = {"connector": fsspec.asyn.sync(fsspec.asyn.get_loop(), connector)}
    fs = library.GCSFileSystem(token="anon", endpoint_url=task["endpoint"], session_kwargs=kwargs)
    paths = [f"{task['bucket']}/{name}" for name in names]

    def run():
        found = fs.cat(paths, batch_size=task["concurrency"])
        return len(found), sum(map(len, found.values()))

    return run


def dataflux(task: dict, names: list):
    from dataflux_core import download

    objects = [(name, task["size"]) for name in names]
    # 100 MB is what its data set has, and 0 is how that one turns composing off.
    params = download.DataFluxDownloadOptimizationParams(100_000_000 if task["compose"] else 0)
    arguments = ("project", task["bucket"], objects)
    # Without a client of the caller each thread makes its own; with one for all, it is no faster.
    calls = {
        "plain": lambda: download.dataflux_download(*arguments, None, params),
        "threaded": lambda: download.dataflux_download_threaded(*arguments, None, params, task["concurrency"]),
        "parallel": lambda: download.dataflux_download_parallel(*arguments, None, params, task["concurrency"]),
    }

    def run():
        found = calls[task["way"]]()
        return len(found), sum(map(len, found))

    return run


def cpu() -> float:
    both = (resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN))
    return sum(usage.ru_utime + usage.ru_stime for usage in both)


def peak() -> int:
    # Not `ru_maxrss`, which begins with that of the process it was forked from.
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) * 1_024 for line in status if line.startswith("VmHWM:"))


def main():
    task = json.loads(sys.argv[1])
    names = [f"{i:08}" for i in range(task["objects"])]
    run = {"obstore": obstore, "gcsfs": gcsfs, "dataflux": dataflux}[task["peer"]](task, names)
    before, started = cpu(), time.perf_counter()
    objects, size = run()
    seconds, used = time.perf_counter() - started, cpu() - before
    # Pages that children share with their parent count in each.
    children = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1_024
    children *= task["concurrency"] if task.get("way") == "parallel" else 0
    answer = {"objects": objects, "bytes": size, "seconds": seconds, "cpu_seconds": used}
    print(json.dumps(answer | {"peak_rss_bytes": peak() + children}), flush=True)
    # Sessions of others complain when they are not closed; there is nothing to close for.
    os._exit(0)


if __name__ == "__main__":
    main()
