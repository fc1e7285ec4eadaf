"""Two hosts on one machine: network namespaces with addresses of their own train together, and lose each other.

    sudo python tests/chaos/two_hosts.py [--only NAME ...] [--rendezvous static|c10d]

Each namespace has one end of a virtual cable and its own loopback, and torchrun starts one process in each, which meet
by the address of the first. Then the cable is cut, a process is killed, a host is killed (all that runs in it), and
once nothing happens. What is promised: a loss is noticed within seconds, a cut cable after the time limit of a
collective (here `TIMEOUT_S`); every process that trains ends with one line, nothing half-written stays, and `--resume`
leads to the result of the unbroken run by a single process. Prints what happened, and counts. Needs root and `ip`;
Linux only.

With `--rendezvous c10d` torchrun asks its meeting point all the time, and behind a cut cable waits for the answer until
the system gives the connection up: 16 minutes as Linux comes, here `RETRIES` (net.ipv4.tcp_retries2 of the namespaces).
The static one asks nothing after the start.
"""

import argparse
import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

HOSTS = ("tunesmith-a", "tunesmith-b")
ADDRESSES = ("10.77.0.1", "10.77.0.2")
CABLE = ("tsm-a", "tsm-b")
STEPS = 60
RELATIVE = 1e-4
START_S, END_S = 120, 300
TIMEOUT_S = 45
"""Of a collective."""
GIVE_UP_S = TIMEOUT_S + 20
"""After a cut cable all processes that train have ended by then."""
RETRIES = 6
"""Of a packet that nobody confirms, about half a minute."""
LOSE_AFTER_STEP = 5


def run(*command: str) -> None:
    """Run a command of the system that has to work."""
    subprocess.run(command, check=True, capture_output=True)


@contextlib.contextmanager
def two_hosts(rendezvous: str) -> Iterator[None]:
    """Two namespaces and a cable between them, gone afterwards."""
    for host in HOSTS:
        run("ip", "netns", "add", host)
    try:
        run("ip", "link", "add", CABLE[0], "type", "veth", "peer", "name", CABLE[1])
        for host, end, address in zip(HOSTS, CABLE, ADDRESSES, strict=True):
            run("ip", "link", "set", end, "netns", host)
            run("ip", "-n", host, "addr", "add", f"{address}/24", "dev", end)
            run("ip", "-n", host, "link", "set", end, "up")
            run("ip", "-n", host, "link", "set", "lo", "up")
            if rendezvous == "c10d":
                run("ip", "netns", "exec", host, "sysctl", "-w", f"net.ipv4.tcp_retries2={RETRIES}")
        yield
    finally:
        for host in HOSTS:
            run("ip", "netns", "del", host)


def train(folder: Path, out: Path, *, resume: bool) -> list[str]:
    """The command that every host gives; each has its own cache and its own run folder."""
    asked = ["--resume", "--out", str(out)]
    if not resume:
        asked = [str(folder / "log.txt"), "--model", "tiny", "--out", str(out), "--max-steps", str(STEPS)]
        asked += ["--tokens-per-step", "400", "--epochs", "1000", "--save-steps", "5"]
        asked += ["--device", "cpu", "--precision", "fp32"]
    return ["train", *asked]


def meeting(rendezvous: str, host: int, name: str) -> list[str]:
    """How the hosts meet, in torchrun's flags."""
    if rendezvous == "static":
        return [f"--node-rank={host}", f"--master-addr={ADDRESSES[0]}", "--master-port=29400"]
    return [
        f"--rdzv-id={name}",
        "--rdzv-backend=c10d",
        f"--rdzv-conf=is_host={int(host == 0)}",
        f"--rdzv-endpoint={ADDRESSES[0]}:29400",
        f"--local-addr={ADDRESSES[host]}",
    ]


def start(folder: Path, host: int, name: str, rendezvous: str, *, resume: bool = False) -> subprocess.Popen[bytes]:
    """Start torchrun on a host."""
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nnodes=2", "--nproc-per-node=1"]
    launcher += meeting(rendezvous, host, f"{name}{resume}")
    out = folder / f"{name}-{HOSTS[host]}"
    environment = {
        **os.environ,
        "TUNESMITH_CACHE": str(folder / f"cache-{HOSTS[host]}"),
        "OMP_NUM_THREADS": "1",
        "TUNESMITH_COLLECTIVE_TIMEOUT_S": str(TIMEOUT_S),
        "GLOO_SOCKET_IFNAME": CABLE[host],
    }
    with (folder / f"{name}-{HOSTS[host]}{'-resumed' * resume}.log").open("wb") as log:
        return subprocess.Popen(
            ["ip", "netns", "exec", HOSTS[host], *launcher, "-m", "tunesmith", *train(folder, out, resume=resume)],
            stdout=log,
            stderr=subprocess.STDOUT,
            env=environment,
        )


def steps_made(out: Path) -> int:
    """By what the first host wrote."""
    with contextlib.suppress(OSError, ValueError):
        lines = (out / "metrics.jsonl").read_text("utf-8").splitlines()
        return max((json.loads(line)["step"] for line in lines if line), default=0)
    return 0


def processes_of(host: int) -> list[int]:
    """Everything that runs in a namespace."""
    found = subprocess.run(["ip", "netns", "pids", HOSTS[host]], capture_output=True, text=True, check=True)
    return [int(pid) for pid in found.stdout.split()]


def worker_of(host: int) -> int:
    """The process that trains there."""
    for pid in processes_of(host):
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        if b"tunesmith" in words and b"torch.distributed.run" not in words:
            return pid
    raise SystemExit(f"nobody trains on {HOSTS[host]}")


def kill_rank() -> None:
    """The second host's process."""
    os.kill(worker_of(1), signal.SIGKILL)


def kill_host() -> None:
    """All that runs on the second host, its launcher included."""
    for pid in processes_of(1):
        os.kill(pid, signal.SIGKILL)


def kill_first_host() -> None:
    """All that runs on the host where everybody meets, and which writes."""
    for pid in processes_of(0):
        os.kill(pid, signal.SIGKILL)


def cut_cable() -> None:
    """Packets go nowhere, and nobody is told."""
    run("ip", "-n", HOSTS[1], "link", "set", CABLE[1], "down")


def mend_cable() -> None:
    """As it was."""
    run("ip", "-n", HOSTS[1], "link", "set", CABLE[1], "up")


@dataclass(frozen=True)
class Loss:
    """What is lost, and the hosts whose process cannot say anything any more."""

    lose: Callable[[], None] | None
    silenced: tuple[int, ...]


LOSSES = {
    "none": Loss(None, ()),
    "killed rank": Loss(kill_rank, (1,)),
    "killed host": Loss(kill_host, (1,)),
    "killed first host": Loss(kill_first_host, (0,)),
    "cut cable": Loss(cut_cable, ()),
}


def wait(processes: list[subprocess.Popen[bytes]], until_s: float) -> list[int | None]:
    """Exit codes; None for one that still runs then, which is ended."""
    end_s = time.monotonic() + until_s
    while time.monotonic() < end_s and any(process.poll() is None for process in processes):
        time.sleep(0.1)
    codes = [process.poll() for process in processes]
    for process in processes:
        if process.poll() is None:
            process.kill()
            process.wait()
    return codes


def tell_once(folder: Path, slug: str, silenced: Collection[int]) -> bool:
    """Whether each host that could still speak said what happened in one line."""
    said = [(folder / f"{slug}-{host}.log").read_text("utf-8").splitlines() for host in HOSTS]
    errors = [sum(line.startswith("error:") for line in lines) for lines in said]
    return all(errors[host] == (host not in silenced) for host in (0, 1))


def curve(out: Path) -> dict[int, float]:
    """Loss of every step."""
    lines = map(json.loads, (out / "metrics.jsonl").read_text("utf-8").splitlines())
    return {line["step"]: line["train_loss"] for line in lines if line["kind"] == "step"}


def trains(host: int) -> bool:
    """Whether a process that trains is there."""
    with contextlib.suppress(SystemExit, OSError):
        return worker_of(host) > 0
    return False


def try_loss(folder: Path, name: str, reference: dict[int, float], rendezvous: str) -> bool:
    """Train on two hosts, lose something, resume; whether everything was as promised."""
    first = folder / f"{name.replace(' ', '-')}-{HOSTS[0]}"
    slug = name.replace(" ", "-")
    processes = [start(folder, host, slug, rendezvous) for host in (0, 1)]
    lose = LOSSES[name].lose
    codes: list[int | None]
    if lose is None:
        codes, lost_s = wait(processes, END_S), 0.0
        is_ended = codes == [0, 0]
    else:
        began_s = time.monotonic()
        while steps_made(first) < LOSE_AFTER_STEP:
            if time.monotonic() - began_s > START_S or any(process.poll() is not None for process in processes):
                print(f"{name}: did not start, see {folder}")
                return False
            time.sleep(0.1)
        lose()
        began_s = time.monotonic()
        while (trains(0) or trains(1)) and time.monotonic() - began_s < GIVE_UP_S:
            time.sleep(0.1)
        trained_s = time.monotonic() - began_s
        codes = wait(processes, END_S)
        lost_s = time.monotonic() - began_s
        is_ended = None not in codes and all(code != 0 for code in codes) and trained_s < GIVE_UP_S
        is_ended = is_ended and tell_once(folder, slug, LOSSES[name].silenced)
        if lose is cut_cable:
            mend_cable()
        for host in (0, 1):
            for pid in processes_of(host):
                os.kill(pid, signal.SIGKILL)
                is_ended = False  # something outlived its launcher
        before = steps_made(first)
        codes_again = wait([start(folder, host, slug, rendezvous, resume=True) for host in (0, 1)], END_S)
        print(f"{name}: nobody trained any more after {trained_s:.1f} s, torchrun had ended after {lost_s:.1f} s with ")
        print(f"    {codes}, behind step {before}; resumed with {codes_again}")
    ours = curve(first)
    worst = (
        max(abs(ours[step] - loss) / loss for step, loss in reference.items()) if len(ours) == STEPS else float("inf")
    )
    second_wrote = (folder / f"{slug}-{HOSTS[1]}").exists()
    print(
        f"{name}: {len(ours)} steps, losses within {worst:.1e} of one process; only the first wrote: {not second_wrote}"
    )
    return is_ended and worst < RELATIVE and not second_wrote


def main() -> None:
    """Try each loss, and count those that went as promised."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", choices=LOSSES, default=list(LOSSES))
    parser.add_argument("--rendezvous", choices=("static", "c10d"), default="static")
    asked = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="two-hosts-"))
    lines = (f"Night {number}. Wind {number % 7}, lamp {'steady ' * (number % 9)}.\n" for number in range(120))
    (folder / "log.txt").write_text("".join(lines), "utf-8")
    environment = {**os.environ, "TUNESMITH_CACHE": str(folder / "cache")}
    subprocess.run(
        [sys.executable, "-m", "tunesmith", *train(folder, folder / "one", resume=False), "--quiet"],
        check=True,
        env=environment,
        stdout=subprocess.DEVNULL,
    )
    reference = curve(folder / "one")
    with two_hosts(asked.rendezvous):
        good = [try_loss(folder, name, reference, asked.rendezvous) for name in asked.only]
    print(f"{sum(good)} of {len(good)} as promised")
    if not all(good):
        raise SystemExit(f"not as promised: see {folder}")
    shutil.rmtree(folder)


if __name__ == "__main__":
    main()
