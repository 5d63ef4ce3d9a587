"""meeting: who this process is, and how hosts meet."""

import socket
import threading
import time

import pytest

from flowerkit.accelerator import meeting
from flowerkit.accelerator.meeting import HostSetup, NotJoined, find_hosts

SLURM = {"SLURM_STEP_NUM_TASKS": "2", "SLURM_PROCID": "1"}


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({}, None),
        ({"SLURM_STEP_NUM_TASKS": "1", "SLURM_PROCID": "0"}, None),
        ({"SLURM_NTASKS": "8", "SLURM_PROCID": "0"}, None),  # sbatch, before any srun
        (SLURM, (2, 1)),
        ({"OMPI_COMM_WORLD_SIZE": "4", "OMPI_COMM_WORLD_RANK": "3"}, (4, 3)),
        ({"TPU_WORKER_HOSTNAMES": "10.0.0.1,10.0.0.2", "TPU_WORKER_ID": "1"}, (2, 1)),
        ({"TPU_WORKER_HOSTNAMES": "localhost", "TPU_WORKER_ID": "0"}, None),
        ({"TPU_WORKER_HOSTNAMES": "WARNING: no names, sorry", "TPU_WORKER_ID": "0"}, None),
        ({"TF_CONFIG": '{"cluster": {"worker": ["a:1"]}}'}, None),
        ({"TF_CONFIG": "not JSON"}, None),
    ],
)
def test_several_hosts_are_seen_in_what_their_launcher_sets(environ, expected):
    setup = find_hosts(environ)
    assert (setup and (setup.count, setup.index)) == expected


@pytest.mark.parametrize(
    ("environ", "options", "expected"),
    [
        ({}, ("10.0.0.1:9000", 2, 1), HostSetup("10.0.0.1:9000", 2, 1, "--num-hosts")),
        ({}, ("[::1]:9000", 2, 0), HostSetup("[::1]:9000", 2, 0, "--num-hosts")),
        (
            {},
            (None, 4, None),
            HostSetup(None, 4, None, "--num-hosts"),
        ),  # a Cloud TPU knows the rest
        (SLURM, ("node1:9000", 2, None), HostSetup("node1:9000", 2, 1, "--num-hosts")),
        ({}, (None, 1, None), None),
        (SLURM, (None, 1, 0), None),
    ],
)
def test_options_go_before_what_a_launcher_says(environ, options, expected):
    assert find_hosts(environ, *options) == expected


@pytest.mark.parametrize(
    ("environ", "options", "said"),
    [
        ({}, ("10.0.0.1", 2, 0), "HOST:PORT"),
        ({}, ("10.0.0.1:9000", 2, 2), "there is no such host.*host=2"),
        ({}, ("10.0.0.1:9000", 2, -1), "there is no such host.*host=-1"),
        ({}, ("10.0.0.1:9000", None, 0), "nothing else says how many.*--num-hosts N"),
        ({}, ("10.0.0.1:9000", 2, None), "which host this is.*--host I"),
        (SLURM, (None, 3, None), "SLURM started 2.*num_hosts=3"),
        (
            {"TF_CONFIG": '{"cluster": {"worker": ["a:1", "b:1"]}}'},
            (),
            "2 tasks.*KERAS_BACKEND=jax",
        ),
    ],
)
def test_options_that_fit_no_host_are_refused(environ, options, said):
    with pytest.raises(ValueError, match=said):
        find_hosts(environ, *options)


# Meeting ------------------------------------------------------------------------------------------


def find_port():
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


def meet(*setups, timeout_seconds=20):
    """What each of the hosts is told when they meet: None where all is well."""
    port, told = find_port(), [None] * len(setups)

    def come(place, count, index):
        try:
            meeting.meet(HostSetup(f"127.0.0.1:{port}", count, index), timeout_seconds)
        except NotJoined as error:
            told[place] = str(error)

    threads = [
        threading.Thread(target=come, args=(place, *setup)) for place, setup in enumerate(setups)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    return told


def test_hosts_that_fit_meet():
    assert meet((3, 0), (3, 1), (3, 2)) == [None, None, None]


def test_hosts_started_for_different_numbers_are_all_told():
    told = meet((2, 0), (3, 1))
    assert all("host 1 was started for 3 hosts, host 0 for 2" in each for each in told)


def test_two_hosts_with_one_number_are_all_told():
    told = meet((3, 0), (3, 1), (3, 1))
    assert all("two hosts have the number 1 (--host)" in each for each in told)


def test_a_host_that_does_not_come_and_an_address_that_is_silent_are_named():
    (first,) = meet((3, 0), timeout_seconds=0.2)
    assert "host 1, 2 of 3 did not come" in first
    (other,) = meet((2, 1), timeout_seconds=0.2)
    assert "did not join the others at 127.0.0.1:" in other
    assert "--coordinator" in other


def test_a_stray_connection_is_no_host():
    port = find_port()
    server = threading.Thread(
        target=meeting.meet, args=(HostSetup(f"127.0.0.1:{port}", 2, 0), 20), daemon=True
    )
    server.start()
    with socket.socket() as stray:
        while stray.connect_ex(("127.0.0.1", port)):
            time.sleep(0.05)
        stray.sendall(b"GET / HTTP/1.1\n\n")
    meeting.meet(HostSetup(f"127.0.0.1:{port}", 2, 1), 20)
    server.join(20)
    assert not server.is_alive()
