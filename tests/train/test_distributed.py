"""Two processes over gloo: the same numbers as one with the same global batch, and no process that waits for ever."""

from __future__ import annotations

import json
import socket
from pathlib import Path

import apart
import pytest
import torch

from cadmllm.errors import CadmllmError
from cadmllm.settings import Settings
from cadmllm.train.launch import Launch
from cadmllm.train.rendezvous import meet
from cadmllm.train.world import World


@pytest.fixture(scope="module")
def groups(base: Path) -> dict:
    """Settings of a tiny model."""
    model = {"llm": str(base), "points_encoder": "fourier", "point_count": 64, "point_tokens": 8, "fourier_width": 32}
    train = {"weight_decay": 0.1}
    return {
        "model": model | {"image_encoder": "tiny", "image_bridge": "perceiver", "image_tokens": 4, "resampler_width": 32},
        "lora": {"r": 4, "alpha": 8},
        "train": train,
    }


@pytest.fixture(scope="module")
def told(groups: dict, tmp_path_factory: pytest.TempPathFactory) -> list:
    """What two processes told each other, how they trained, and what the one was told when the other had gone."""
    return apart.run("everything", tmp_path_factory.mktemp("told"), APART_SETTINGS=json.dumps(groups))


def test_processes_tell_each_other(told: list) -> None:
    one, two = (result["collectives"] for result in told)
    assert (one["main"], two["main"]) == (True, False)
    for name in ("gather", "sum", "most", "agree", "same", "differs"):
        assert str(one[name]) == str(two[name])  # as text: one of the sums is not a number
    assert one["gather"] == [{"rank": 0, "text": "ü"}, {"rank": 1, "text": "üü"}]
    assert one["sum"][:2] == [1e16, 0.2]
    assert str(one["sum"][2]) == "nan"
    assert (one["most"], one["agree"], one["same"]) == (3, [False, True], None)
    assert one["differs"]["code"] == "E610"
    assert "seed" in one["differs"]["message"]
    assert "ids" not in one["differs"]["message"]


def test_what_fails_on_one_process_fails_on_all(told: list) -> None:
    one, two = (result["collectives"] for result in told)
    assert (one["attempt"][0], two["attempt"][0]) == (0, 1)
    assert one["attempt"][1] == two["attempt"][1]
    assert one["attempt"][1]["code"] == "E401"
    assert "process 1 of 2" in one["attempt"][1]["message"]
    assert (one["on_main"][0], two["on_main"][0]) == ("saved", None)
    assert one["on_main"][1] == two["on_main"][1]
    assert one["on_main"][1]["code"] == "E607"
    assert (one["on_main"][2], two["on_main"][2]) == (["done"], [])
    assert (one["broken"], two["broken"]) == ("ZeroDivisionError", "CadmllmError")


def test_work_is_divided_and_the_main_process_talks(told: list) -> None:
    one, two = (result["collectives"] for result in told)
    assert sorted(one["share"] + two["share"]) == [1, 1, 3, 4, 5, 9]
    assert one["dropout"] != two["dropout"]
    assert (one["kept"], two["kept"]) == ([1.0, 1.0], [])
    assert "warning" in one["console"]
    assert two["console"] == ""


def test_two_processes_train_as_one_where_a_modality_comes_late_and_to_one_alone(told: list) -> None:
    single = apart.toy_run(World(Launch(), torch.device("cpu")), Settings(device="cpu", dtype="float32"))
    one, two = (result["toy"] for result in told)
    assert one == two  # to the bit
    assert one["losses"] == pytest.approx(single["losses"], rel=1e-4)
    assert one["norms"] == pytest.approx(single["norms"], rel=1e-4)
    late = apart.STEPS - apart.LATE
    counts = {"first": apart.STEPS, "second": late, "third": 0}  # AdamW leaves alone what nobody used: decay, moments, steps
    assert one["steps"] == single["steps"] == {f"{n}.{p}": c for n, c in counts.items() for p in ("weight", "bias")}
    for name, values in single["weights"].items():
        torch.testing.assert_close(torch.tensor(one["weights"][name]), torch.tensor(values), rtol=1e-3, atol=1e-4)


def alone(groups: dict, plans: list[tuple[int, str]]) -> dict:
    settings = Settings(device="cpu", dtype="float32", **groups)
    return apart.stages(World(Launch(), torch.device("cpu")), settings, plans)


def compare(plan: str, one: dict, two: dict, alone: dict) -> None:
    close = 2e-2 if "bfloat16" in plan else 1e-4  # 16 bits round otherwise where other samples share a row
    assert one["losses"] == two["losses"]
    assert one["losses"] == pytest.approx(alone["losses"], rel=close / 10)
    assert one["norms"] == pytest.approx(alone["norms"], rel=close)
    assert not any(any(figures) for figures in two["weights"].values())  # the main process alone keeps them
    assert one["weights"].keys() == alone["weights"].keys()
    for name, (_, squares) in alone["weights"].items():
        assert one["weights"][name][1] == pytest.approx(squares, rel=close), name
    # a parameter that no sample has reached has no moments, and one reached late has taken fewer steps, either way
    assert one["moments"].keys() == alone["moments"].keys()
    steps = {name: count for name, count in alone["moments"].items() if name.endswith("/step")}
    assert {name: one["moments"][name] for name in steps} == steps
    assert set(steps.values()) == ({4.0} if plan.endswith("1") else {2.0, 4.0})


def test_copies_and_shards_train_as_one_process_does(told: list, groups: dict) -> None:
    for plan, figures in alone(groups, apart.FEW).items():
        compare(plan, told[0][plan], told[1][plan], figures)


def test_trouble_of_one_process_is_trouble_of_all_and_touches_nothing(told: list, groups: dict) -> None:
    one, two = (result["troubled"] for result in told)
    assert one["memory"] == two["memory"] == "OutOfRoom"
    assert one["loss"]["code"] == two["loss"]["code"] == "E603"
    [(name, figures)] = alone(groups, [(1, "ddp")]).items()
    assert one["none"] == two["none"] == pytest.approx(figures["losses"][0], rel=1e-5), name


@pytest.mark.long
def test_every_stage_with_lora_and_without_in_32_and_16_bits(groups: dict, tmp_path: Path) -> None:
    one, two = apart.run("others", tmp_path, APART_SETTINGS=json.dumps(groups))
    for plan, figures in alone(groups, apart.MORE).items():
        compare(plan, one[plan], two[plan], figures)


def test_a_process_that_is_gone_is_not_waited_for(told: list) -> None:
    lost = told[0]["lost"]
    assert lost["sum"]["code"] == lost["wrap"]["code"] == "E610"
    assert "--resume" in lost["sum"]["remedy"]


def test_a_process_that_never_comes_is_named() -> None:
    launch = Launch("torchrun", 0, 3, 0, "127.0.0.1", apart.free_port())
    with pytest.raises(CadmllmError, match="did not come .* in 0 s: 1, 2") as caught:
        meet(launch, torch.device("cpu"), patience=0.4)
    assert caught.value.code == "E610"


def test_a_port_that_is_taken_and_a_main_process_that_is_not_there_are_said() -> None:
    with socket.socket() as taken:
        taken.bind(("0.0.0.0", 0))
        taken.listen()
        launch = Launch("torchrun", 0, 2, 0, "127.0.0.1", taken.getsockname()[1])
        with pytest.raises(CadmllmError, match="is taken") as caught:
            meet(launch, torch.device("cpu"), patience=1.0)
    assert (caught.value.code, "MASTER_PORT" in caught.value.remedy) == ("E610", True)
    with pytest.raises(CadmllmError, match="process 1 of 2 cannot meet the others") as caught:
        meet(Launch("torchrun", 1, 2, 1, "127.0.0.1", apart.free_port()), torch.device("cpu"), patience=1.0)
    assert caught.value.code == "E610"
