"""One process among several: what the launchers say, how work is divided, and a world of one."""

from __future__ import annotations

import io
import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cadmllm.console import Console
from cadmllm.errors import CadmllmError
from cadmllm.settings import Settings
from cadmllm.train.launch import Launch, first_host, overridden, read_launch
from cadmllm.train.rendezvous import meeting
from cadmllm.train.replica import Replica, refuse
from cadmllm.train.world import World, open_world, own_device

TORCHRUN = {"RANK": "3", "WORLD_SIZE": "4", "LOCAL_RANK": "1", "MASTER_ADDR": "node1", "MASTER_PORT": "29500"}
SLURM = {
    "SLURM_PROCID": "5",
    "SLURM_STEP_NUM_TASKS": "8",
    "SLURM_LOCALID": "1",
    "SLURM_STEP_NODELIST": "gpu-[003-006,9],x1",
    "SLURM_JOB_ID": "1234567",
}
MPI = {"OMPI_COMM_WORLD_RANK": "1", "OMPI_COMM_WORLD_SIZE": "2", "OMPI_COMM_WORLD_LOCAL_RANK": "1"}


def world(rank: int = 0, size: int = 1) -> World:
    return World(Launch("torchrun", rank, size, rank, "localhost", 1), torch.device("cpu"))


def test_a_process_on_its_own_is_one() -> None:
    assert read_launch({}) == Launch()
    assert read_launch({"RANK": "0", "WORLD_SIZE": "1"}) == Launch()  # torchrun with one process needs no meeting
    assert read_launch({"SLURM_PROCID": "0", "SLURM_STEP_NUM_TASKS": "1"}) == Launch()
    assert read_launch({"SLURM_PROCID": "0", "SLURM_NTASKS": "8"}) == Launch()  # the batch script itself, before srun


def test_the_launchers_are_understood() -> None:
    assert read_launch(TORCHRUN) == Launch("torchrun", 3, 4, 1, "node1", 29500)
    assert read_launch(SLURM) == Launch("srun", 5, 8, 1, "gpu-003", 20000 + 1234567 % 20000)
    assert read_launch(SLURM | {"MASTER_ADDR": "a", "MASTER_PORT": "7"}) == Launch("srun", 5, 8, 1, "a", 7)
    assert read_launch(SLURM | TORCHRUN).by == "torchrun"  # torchrun started by srun
    assert read_launch(MPI | {"MASTER_ADDR": "a", "MASTER_PORT": "7"}) == Launch("mpirun", 1, 2, 1, "a", 7)


@pytest.mark.parametrize(
    ("nodes", "first"),
    [("n1", "n1"), ("n1,n2", "n1"), ("n[1-4]", "n1"), ("n[01,03-4]x,m", "n01x"), ("r[1-2]n[3-4],z", "r1n3"), ("", "")],
)
def test_the_first_machine_of_a_slurm_list(nodes: str, first: str) -> None:
    assert first_host(nodes) == first


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"WORLD_SIZE": None}, "WORLD_SIZE is not"),
        ({"RANK": None}, "RANK is not"),
        ({"RANK": "4"}, "not below"),
        ({"RANK": "one"}, "not a number"),
        ({"MASTER_ADDR": None}, "MASTER_ADDR"),
        ({"MASTER_PORT": None}, "MASTER_PORT"),
        ({"MASTER_PORT": "99999"}, "no port"),
    ],
)
def test_a_broken_environment_is_refused(changed: dict[str, str | None], said: str) -> None:
    environ = {name: value for name, value in (TORCHRUN | changed).items() if value is not None}
    with pytest.raises(CadmllmError, match=said) as caught:
        read_launch(environ)
    assert caught.value.code == "E610"
    assert caught.value.remedy


def test_accelerate_that_started_too_few_is_found_out() -> None:
    environ = {"ACCELERATE_MIXED_PRECISION": "no", "ACCELERATE_USE_CPU": "true"}
    for option in (["--num_processes", "2"], ["--num-processes=2"]):
        with pytest.raises(CadmllmError, match="2 processes and started one") as caught:
            read_launch(environ, ["accelerate", "launch", "--cpu", *option, "-m", "cadmllm"])
        assert "torchrun --standalone --nproc-per-node 2" in caught.value.remedy
    assert read_launch(environ, ["accelerate", "launch", "--num_processes", "1"]) == Launch()
    assert read_launch(environ, ["accelerate", "launch"]) == Launch()
    assert read_launch(environ | TORCHRUN, ["accelerate", "launch", "--num_processes", "4"]).size == 4
    with pytest.raises(CadmllmError, match="DEEPSPEED"):
        read_launch(environ | {"ACCELERATE_USE_DEEPSPEED": "true"})


def test_what_accelerate_was_configured_for_and_does_not_count_is_said() -> None:
    environ = {"ACCELERATE_MIXED_PRECISION": "fp16", "ACCELERATE_USE_FSDP": "true"}
    assert len(overridden(environ, "ddp", "bfloat16")) == 2
    assert overridden(environ, "fsdp", "float16") == []
    assert overridden({}, "ddp", "bfloat16") == []


@given(st.lists(st.integers(0, 5000), max_size=60), st.integers(1, 9))
def test_shares_are_all_of_it_once_in_order_and_balanced(costs: list[int], size: int) -> None:
    items = list(enumerate(costs))
    shares = [world(rank, size).share(items, lambda item: item[1]) for rank in range(size)]
    assert sorted(itertools.chain(*shares)) == items
    assert all(share == sorted(share) for share in shares)
    loads = [sum(cost for _, cost in share) for share in shares]
    # the greedy rule: who has most could not have been given its last item unless all others had as much before
    assert max(loads) - min(loads) <= max(costs, default=0)
    if size <= len(items):
        assert all(shares)


def test_random_numbers_depend_on_step_and_process() -> None:
    def drawn(rank: int, *place: int) -> list[float]:
        world(rank, 2).reseed(*place)
        return torch.rand(3).tolist()

    assert drawn(0, 1, 2, 3) == drawn(0, 1, 2, 3)
    places = [(0, 1, 2, 3), (1, 1, 2, 3), (0, 9, 2, 3), (0, 1, 9, 3), (0, 1, 2, 9)]
    assert len({tuple(drawn(*place)) for place in places}) == 5


def test_a_world_of_one_answers_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    with open_world(Settings(device="cpu")) as alone:
        assert (alone.rank, alone.size, alone.main, alone.device.type) == (0, 1, True, "cpu")
        assert alone.sum([1, 2.5]) == [1.0, 2.5]
        assert alone.most(4) == 4
        assert alone.agree(True)
        assert not alone.agree(False)
        assert alone.gather({"a": 1}) == [{"a": 1}]
        assert alone.share([3, 1, 2], lambda n: n) == [3, 1, 2]
        assert alone.attempt(lambda: 5) == alone.on_main(lambda: 5) == 5
        alone.agree_on({"a": 1})
        tensor = torch.ones(2)
        assert alone.full(tensor) is tensor
        assert alone.kept(tensor) is tensor
        console = Console()
        assert alone.console(console) is console


def test_the_others_are_silent_but_the_main_process_talks() -> None:
    heard = Console(out=io.StringIO(), err=io.StringIO())
    world(1, 2).console(heard).warn("twice")
    world(0, 2).console(heard).warn("once")
    assert heard.err.getvalue().count("once") == 1  # ty: ignore[unresolved-attribute]
    assert "twice" not in heard.err.getvalue()  # ty: ignore[unresolved-attribute]


def test_every_process_has_a_device_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    third = Launch("torchrun", 2, 4, 2, "localhost", 1)
    assert own_device(Settings(device="cpu"), third) == torch.device("cpu")
    with pytest.raises(CadmllmError, match="the same GPU"):
        own_device(Settings(device="cuda:0"), third)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    assert own_device(Settings(), third) == torch.device("cuda:2")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(CadmllmError, match="no GPU of its own") as caught:
        own_device(Settings(), third)
    assert "--nproc-per-node 1" in caught.value.remedy
    assert own_device(Settings(), Launch("srun", 2, 4, 2, "localhost", 1)) == torch.device("cuda:0")


@pytest.mark.parametrize(
    "groups",
    [
        {"model": {"quantization": "nf4"}},
        {"train": {"optimizer": "paged_adamw_8bit"}},
        {"dtype": "float16"},
        {"train": {"offload_activations": True}},
    ],
)
def test_what_cannot_be_sharded_is_refused_by_name(groups: dict) -> None:
    refuse(Settings(**groups))
    train = groups.get("train", {}) | {"distributed": "fsdp"}
    with pytest.raises(CadmllmError, match="fsdp does not go with") as caught:
        refuse(Settings(**{**groups, "train": train}))
    assert caught.value.code == "E610"
    assert "train.distributed=ddp" in caught.value.remedy
    refuse(Settings(train={"distributed": "fsdp"}))  # ty: ignore[invalid-argument-type]


def test_a_pass_over_shards_gives_up_by_name() -> None:
    replica = Replica(torch.nn.Linear(2, 2), world(), Settings())  # ty: ignore[invalid-argument-type]
    said = []
    for error, exhausted in ((torch.OutOfMemoryError("CUDA"), True), (torch.distributed.DistBackendError("NCCL"), False)):
        with pytest.raises(CadmllmError) as caught:
            replica.give_up(error, exhausted)
        said.append((caught.value.code, "--resume" in caught.value.remedy))
    assert said == [("E609", True), ("E610", True)]
    with pytest.raises(RuntimeError, match="shapes"):  # a fault of ours stays what it is
        replica.give_up(RuntimeError("shapes do not match"), False)


def test_what_torch_says_of_a_lost_process_becomes_one_line() -> None:
    words = "[/__w/pytorch/gloo/pair.cc:537] Read error [127.0.0.1]:14755: Connection reset by peer. This is typically caused by"
    with pytest.raises(CadmllmError) as caught, meeting(0, 2):
        raise RuntimeError(words)
    assert caught.value.code == "E610"
    assert "(Read error [127.0.0.1]:14755: Connection reset by peer)" in caught.value.message
    assert "--resume" in caught.value.remedy
